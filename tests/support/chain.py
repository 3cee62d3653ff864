"""A real chain for tests: anvil, the deployed contracts, accounts with gas and test dollars, signed charges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.bindings.deploy import Contracts, Terms, bind, deploy
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Mined, Transactor
from contracts.deployments import Deployment
from contracts.protocol.hashing import sha256
from contracts.protocol.hexes import checksum
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Channel, CreditNote, Domain, Receipt, Voucher, WorkerConsent
from market.devnet.process import Supervisor, free_port
from market.devnet.services import find_anvil, rpc
from market.payments.model import Charge

EXIT_DELAY = 3_600
MIN_STAKE = 100_000_000
FAR_FUTURE = 4_000_000_000
_numbers = itertools.count(1)


def key(name: str) -> PrivateKey:
    return PrivateKey(sha256(name.encode()))


@contextmanager
def running_anvil(folder: Path, *arguments: str) -> Iterator[str]:
    """Start a node that mines each transaction at once and nothing else."""
    with Supervisor(folder / "logs", folder) as supervisor:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(find_anvil()), "--port", str(port), "--accounts", "1", *arguments]
        child = supervisor.start("anvil", command, {"HOME": str(folder)})

        def answers() -> bool:
            try:
                return bool(rpc(url, "eth_chainId"))
            except Exception:
                return False

        child.wait_ready(answers, timeout_seconds=20, what="an answer")
        yield url


class Chain:
    """One node with the market's contracts, driven by named keys."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.web3 = connect(url)
        self._senders: dict[str, Transactor] = {}
        self.deployment: Deployment = deploy(self.sender("deployer"), terms=Terms(exit_delay_seconds=EXIT_DELAY))
        self.contracts: Contracts = bind(self.web3, self.deployment)
        self.escrow = self.contracts.escrow
        self.domain = Domain(self.deployment.chain_id, self.deployment.escrow)

    def sender(self, name: str) -> Transactor:
        if name not in self._senders:
            self.give_gas(key(name).address)
            self._senders[name] = Transactor(self.web3, key(name))
        return self._senders[name]

    def give_gas(self, address: bytes) -> None:
        self.rpc("anvil_setBalance", checksum(address), hex(10**20))

    def rpc(self, method: str, *params: object) -> object:
        return rpc(self.url, method, *params)

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def pass_seconds(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", hex(seconds))
        self.mine()

    def reorg(self, depth: int) -> None:
        """Replace the newest blocks by as many without their transactions."""
        self.rpc("anvil_reorg", depth, [])

    def forget_senders(self) -> None:
        """After a reorganisation or a snapshot's return, nonces are to be read anew."""
        self._senders.clear()

    def send(self, name: str, to: bytes, data: bytes) -> Mined:
        return self.sender(name).run(f"test:{next(_numbers)}", to, data, wait_seconds=20)

    # --- what people do ---------------------------------------------------------------------------------------

    def give_tokens(self, name: str, amount: int) -> None:
        token = self.deployment.token
        self.send("deployer", token, self.contracts.token.mint(key(name).address, amount))
        for spender in (self.deployment.escrow, self.deployment.worker_registry):
            self.send(name, token, self.contracts.token.approve(spender, 2**128 - 1))

    def channel(
        self, payer: str = "payer", *, signer: str = "signer", gateway: str = "gateway", salt: int = 0
    ) -> Channel:
        return Channel(key(payer).address, key(signer).address, key(gateway).address, salt)

    def deposit(self, amount: int, channel: Channel | None = None, *, payer: str = "payer") -> Channel:
        channel = channel or self.channel(payer)
        self.give_tokens(payer, amount)
        self.send(payer, self.escrow.address, self.escrow.deposit(channel, amount))
        return channel

    def list_model(self, name: str = "tiny", owner: str = "owner", model_id: bytes = b"\x22" * 32) -> bytes:
        models = self.contracts.models
        self.send(owner, models.address, models.list_model(model_id, name, 1, 10_000, 100_000, 1, "file:///m"))
        return model_id

    def register_worker(self, worker: str = "worker", operator: str = "operator", stake: int = MIN_STAKE) -> bytes:
        self.give_tokens(operator, stake)
        consent = WorkerConsent(key(operator).address, key(worker).address, FAR_FUTURE)
        signature = key(worker).sign_digest(consent.digest(self.domain))
        registry = self.contracts.workers
        data = registry.register(key(worker).address, stake, "eu", "cpu", "", FAR_FUTURE, signature)
        self.send(operator, registry.address, data)
        return key(worker).address

    def charge(
        self,
        channel: Channel,
        price: int,
        cumulative: int,
        *,
        ceiling: int | None = None,
        worker: str = "worker",
        operator: str = "operator",
        owner: str = "owner",
        signer: str = "signer",
        gateway: str = "gateway",
        served_at: int = 1_700_000_000,
    ) -> Charge:
        """A served request with every signature real; worker 80 %, owner 10 %."""
        number = next(_numbers)
        channel_id = channel.digest(self.domain)
        receipt = Receipt(
            request_id=number.to_bytes(32, "big"),
            channel_id=channel_id,
            payer=channel.payer,
            gateway=channel.gateway,
            seq=number,
            worker=key(worker).address,
            model_id=b"\x22" * 32,
            input_hash=b"\x03" * 32,
            output_hash=b"\x04" * 32,
            price=price,
            worker_amount=price * 8 // 10,
            owner_amount=price // 10,
            cumulative=cumulative,
            served_at=served_at,
        )
        digest = receipt.digest(self.domain)
        ceiling = cumulative if ceiling is None else ceiling
        return Charge(
            receipt=receipt,
            digest=digest,
            channel=channel,
            voucher_amount=ceiling,
            voucher_signature=key(signer).sign_digest(Voucher(channel_id, ceiling).digest(self.domain)),
            worker_signature=key(worker).sign_digest(digest),
            gateway_signature=key(gateway).sign_digest(digest),
            worker_payee=key(operator).address,
            owner_payee=key(owner).address,
        )

    def credit_note(self, payee: str, amount: int, gateway: str = "gateway") -> tuple[CreditNote, bytes]:
        note = CreditNote(key(gateway).address, key(payee).address, amount)
        return note, key(gateway).sign_digest(note.digest(self.domain))
