"""The chain from a client's, an owner's or an operator's side: read what is there, send what their key may send.

Decides nothing about money: it encodes, sends, waits and reads. Reads satisfy `market.sdk.verify.ChainFacts`. Called by
the commands, the demonstration and client programs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from web3 import Web3

from contracts.bindings.command import EarlierCommand, Planned, act, begun, finish_earlier, outbox_of, plan
from contracts.bindings.deploy import Contracts, Terms, bind, deploy, plan_deployment, require_code
from contracts.bindings.errors import DeploymentError, TransactionReverted, WrongChain
from contracts.bindings.escrow import ChannelState
from contracts.bindings.model_registry import ModelState
from contracts.bindings.outbox_file import FileOutbox
from contracts.bindings.rpc import connect, named
from contracts.bindings.transactor import Mined, Transactor
from contracts.deployments import Deployment
from contracts.deployments import load as load_deployment
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.money import both
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Channel, CreditNote, Domain, Refund, WorkerConsent
from market.sdk.errors import NotEnoughTokens
from market.sdk.papers import PaperStore
from market.sdk.verify import ListedModel, RegisteredWorker
from market.sdk.wallet import Wallet

_CONSENT_SECONDS = 3_600


class Chain:
    """One deployment on one node; a dry run sends nothing and keeps what it would send in `planned`."""

    def __init__(
        self, web3: Web3, deployment: Deployment, *, dry_run: bool = False, outbox_dir: Path | None = None
    ) -> None:
        self._web3 = web3
        self._dry_run = dry_run
        self._outbox_dir = outbox_dir
        self.planned: list[Planned] = []
        self.deployment = deployment
        self._bound: Contracts = bind(web3, deployment)
        self._domain = Domain(deployment.chain_id, deployment.escrow)
        self._senders: dict[bytes, Transactor] = {}

    @classmethod
    def connect(
        cls,
        rpc_url: str,
        deployment_file: Path | None = None,
        *,
        chain_id: int | None = None,
        dry_run: bool = False,
        outbox_dir: Path | None = None,
    ) -> Chain:
        """Open a node, and the deployment that a file names or that the project publishes for the node's chain.

        With `outbox_dir`, what is signed is kept there until it is mined: a call repeated after a crash is one effect.

        Raises:
            ChainError: the node does not answer, is another chain's, or has no contracts there.
            NoDeployment: no addresses are known.
        """
        web3 = connect(rpc_url, chain_id)
        with named(rpc_url):
            served = web3.eth.chain_id
        return cls(web3, load_deployment(served, deployment_file), dry_run=dry_run, outbox_dir=outbox_dir)

    @classmethod
    def deploy(
        cls,
        rpc_url: str,
        wallet: Wallet,
        deployment_file: Path,
        *,
        token: bytes | None = None,
        chain_id: int | None = None,
        terms: Terms | None = None,
    ) -> Chain:
        """Deploy the contracts for a token, or with test dollars, and write their addresses to a file.

        What is signed is kept beside that file until it is written: called again after a crash, it goes on there.

        Raises:
            ChainError: the node refuses, is another chain's, or has no token there.
        """
        web3 = connect(rpc_url, chain_id)
        if token is not None:
            require_code(web3, "token", token)
        outbox = FileOutbox(deployment_file.with_name(deployment_file.name + ".outbox"))
        deployment = deploy(Transactor(web3, wallet.key, outbox=outbox), token=token, terms=terms)
        deployment.save(deployment_file)
        outbox.remove()
        return cls(web3, deployment)

    @staticmethod
    def plan_deployment(
        rpc_url: str, wallet: Wallet, *, token: bytes | None = None, chain_id: int | None = None
    ) -> tuple[Sequence[Planned], Deployment]:
        """Return what `deploy` would send and where the contracts would stand; raises as it does."""
        web3 = connect(rpc_url, chain_id)
        if token is not None:
            require_code(web3, "token", token)
        return plan_deployment(web3, wallet.address, token=token)

    @property
    def domain(self) -> Domain:
        """Where signatures are valid."""
        return self._domain

    def contracts(self) -> dict[str, bytes]:
        """Return the contracts' addresses by name."""
        return self.deployment.contracts()

    # --- reading ----------------------------------------------------------------------------------------------

    def balance(self, account: bytes) -> int:
        """Return an account's tokens, atomic units."""
        return self._bound.token.balance_of(account)

    def native_balance(self, account: bytes) -> int:
        """Return an account's gas money, wei."""
        with named():
            return int(self._web3.eth.get_balance(checksum(account)))  # type: ignore[arg-type]

    def is_listed(self, model_id: bytes) -> bool:
        """Tell whether a model is listed."""
        return any(self._bound.models.model(model_id).owner)

    def is_registered(self, worker: bytes) -> bool:
        """Tell whether a worker is registered with enough stake."""
        return self._bound.workers.is_active(worker)

    def min_stake(self) -> int:
        """Return the smallest stake of a worker, atomic units."""
        return self._bound.workers.min_stake()

    def channel_state(self, channel_id: bytes) -> ChannelState:
        """Return a channel's money and its exit, atomic units and unix seconds."""
        return self._bound.escrow.channel(channel_id)

    def channels_of(self, payer: bytes) -> list[Channel]:
        """Return all channels that were ever funded for a payer, the oldest first, as the escrow's events tell."""
        with named():
            newest = int(self._web3.eth.block_number)
        return self._bound.escrow.channels_of(payer, self.deployment.block, newest)

    def payee(self, gateway: bytes, payee: bytes) -> tuple[int, int]:
        """Return what a payee was credited by a gateway and has withdrawn, atomic units."""
        return self._bound.escrow.credits(gateway, payee)

    def arrears(self, gateway: bytes, payee: bytes) -> int:
        """Return what a payee's presented credit note still claims of the gateway's reserve, atomic units."""
        return self._bound.escrow.presented_note(gateway, payee)[1]

    def model_by_name(self, name: str) -> tuple[bytes, ModelState]:
        """Return a listing by its name; 32 zero bytes and an empty listing if there is none."""
        model_id = self._bound.models.by_name(name)
        return model_id, self._bound.models.model(model_id)

    def credited(self, gateway: bytes, payee: bytes) -> int:
        """Return what a gateway's settlements credited a payee in all, atomic units."""
        return self._bound.escrow.credits(gateway, payee)[0]

    def last_epoch(self, gateway: bytes) -> int:
        """Return how many batches a gateway has settled."""
        return self._bound.escrow.last_epoch(gateway)

    def gas_used(self, tx_hash: bytes) -> int:
        """Return the gas of a mined transaction."""
        with named():
            return int(self._web3.eth.get_transaction_receipt(hex0x(tx_hash))["gasUsed"])  # type: ignore[arg-type]

    def settled_root(self, gateway: bytes, epoch: int) -> bytes:
        """See `ChainFacts.settled_root`."""
        return self._bound.escrow.settlement_root(gateway, epoch)

    def registered_worker(self, worker: bytes) -> RegisteredWorker:
        """See `ChainFacts.registered_worker`."""
        state = self._bound.workers.worker(worker)
        return RegisteredWorker(state.operator, state.stake)

    def listed_model(self, model_id: bytes) -> ListedModel:
        """See `ChainFacts.listed_model`."""
        state = self._bound.models.model(model_id)
        return ListedModel(state.name, state.owner, state.royalty_ppm)

    def channel_settled(self, channel_id: bytes) -> int:
        """See `ChainFacts.channel_settled`."""
        return self._bound.escrow.channel(channel_id).settled

    def receipt_is_included(self, gateway: bytes, epoch: int, digest: bytes, proof: Sequence[bytes]) -> bool:
        """See `ChainFacts.receipt_is_included`."""
        return self._bound.escrow.verify_receipt(gateway, epoch, digest, proof)

    # --- sending ----------------------------------------------------------------------------------------------

    def open_channel(self, wallet: Wallet, gateway: bytes, amount: int, *, papers: PaperStore | None = None) -> Channel:
        """Open a new channel to a gateway with a deposit of `amount` atomic units.

        With `papers` the channel is remembered before the deposit is sent, so that one which is cut short is not lost:
        called again it goes on there.

        Raises:
            NotEnoughTokens: the wallet holds less.
            EarlierCommand: one that was cut short opened a channel with another amount; it is kept now.
            ChainError: a transaction failed.
        """
        channel = wallet.new_channel(gateway)
        if papers is None:
            self.deposit(wallet, channel, amount)
            return channel
        channel = papers.opening(channel, self._domain)
        channel_id = channel.digest(self._domain)
        held = self.channel_state(channel_id).deposited
        sender, escrow, data = self._sender(wallet), self.deployment.escrow, self._bound.escrow.deposit(channel, amount)
        if held == 0 or begun(sender, "deposit", escrow, data):
            try:
                self.deposit(wallet, channel, amount)
                held = amount
            except EarlierCommand:
                held = self.channel_state(channel_id).deposited
                if held == 0:
                    raise
        else:
            finish_earlier(sender)
        papers.keep_channel(channel, self._domain)
        if held != amount:
            raise EarlierCommand(
                f"an earlier command was cut short; it opened the channel {hex0x(channel_id)} with {both(held)}, which "
                "is kept now, and nothing else was sent.",
                field="command",
                remedy="If you want another channel besides, give the command again.",
            )
        return channel

    def check_domain(self, domain: Domain) -> None:
        """Check that a gateway or a channel is of this chain and escrow, before money goes there.

        Raises:
            WrongChain: it is not.
        """
        here = self._domain
        if domain != here:
            raise WrongChain(
                f"the gateway works on chain {domain.chain_id} with the escrow {checksum(domain.escrow)}; "
                f"here are chain {here.chain_id} and {checksum(here.escrow)}.",
                field="rpc_url",
                remedy="Name a node of the gateway's chain and the gateway's contracts, or another gateway.",
            )

    def deposit(self, wallet: Wallet, channel: Channel, amount: int) -> Mined:
        """Deposit `amount` atomic units into a channel."""
        escrow, data = self.deployment.escrow, self._bound.escrow.deposit(channel, amount)
        if self._dry_run or not begun(self._sender(wallet), "deposit", escrow, data):
            self._allow(wallet, escrow, amount, "deposit")
        return self._send(wallet, "deposit", escrow, data)

    def initiate_exit(self, wallet: Wallet, channel: Channel, amount: int) -> Mined:
        """Start to take `amount` atomic units out of a channel; they can be drawn after the escrow's delay."""
        return self._send(wallet, "exit", self.deployment.escrow, self._bound.escrow.initiate_exit(channel, amount))

    def cancel_exit(self, wallet: Wallet, channel: Channel) -> Mined:
        """Take an exit back that has not been paid."""
        return self._send(wallet, "cancel", self.deployment.escrow, self._bound.escrow.cancel_exit(channel))

    def finalize_exit(self, wallet: Wallet, channel: Channel) -> Mined:
        """Draw what an exit whose delay is over gives."""
        return self._send(wallet, "draw", self.deployment.escrow, self._bound.escrow.finalize_exit(channel))

    def refund_nonce(self, channel_id: bytes) -> int:
        """Return the number of a channel's next refund."""
        return self._bound.escrow.refund_nonce(channel_id)

    def refund(self, wallet: Wallet, channel: Channel, refund: Refund, gateway_signature: bytes) -> Mined:
        """Take money out of a channel at once, as its gateway signed; the escrow pays the channel's payer."""
        data = self._bound.escrow.refund(channel, refund.nonce, refund.amount, gateway_signature)
        return self._send(wallet, "refund", self.deployment.escrow, data)

    def plan_refund(self, wallet: Wallet, channel: Channel, refund: Refund) -> None:
        """Put into `planned` what `refund` would send; its gas is not known before the gateway has signed."""
        data = self._bound.escrow.refund(channel, refund.nonce, refund.amount, bytes(65))
        self.planned.append(Planned("refund", wallet.address, self.deployment.escrow, data, None, None))

    def withdraw(self, wallet: Wallet, gateway: bytes, amount: int) -> Mined:
        """Draw what a gateway's settlements credited the wallet."""
        data = self._bound.escrow.withdraw(gateway, wallet.address, amount)
        return self._send(wallet, "withdraw", self.deployment.escrow, data)

    def collect_arrears(self, wallet: Wallet, gateway: bytes) -> int:
        """Have the reserve pay what it can by now of the wallet's presented note; returns how much, 0 in a dry run."""
        escrow = self._bound.escrow
        cumulative, owed = escrow.presented_note(gateway, wallet.address)
        if owed == 0 or escrow.reserve(gateway)[0] == 0:
            return 0
        before = escrow.credits(gateway, wallet.address)[0]
        # Presented before, it needs no signature again.
        data = escrow.redeem_credit_note(CreditNote(gateway, wallet.address, cumulative), b"")
        self._send(wallet, "redeem", self.deployment.escrow, data)
        return escrow.credits(gateway, wallet.address)[0] - before

    def mint(self, wallet: Wallet, to: bytes, amount: int) -> Mined:
        """Make test dollars, where the token is TestUSD.

        Raises:
            DeploymentError: it is another.
        """
        token = self.deployment.token
        try:
            return self._send(wallet, "mint", token, self._bound.token.mint(to, amount))
        except TransactionReverted as error:
            raise DeploymentError(
                f"the token {checksum(token)} cannot be minted by this account: {error.detail}",
                field="token",
                remedy="Only TestUSD can be made by anybody; elsewhere send the account tokens.",
            ) from error

    def list_model(
        self,
        wallet: Wallet,
        manifest: Manifest,
        *,
        name: str,
        min_price: int,
        max_price: int,
        royalty_ppm: int,
        uri: str,
    ) -> Mined:
        """List a model under a name; prices are per unit, atomic token units."""
        data = self._bound.models.list_model(
            manifest.model_id, name, min_price, max_price, royalty_ppm, int(manifest.unit), uri
        )
        return self._send(wallet, "list", self.deployment.model_registry, data)

    def update_model(
        self, wallet: Wallet, model_id: bytes, *, min_price: int, max_price: int, royalty_ppm: int, uri: str
    ) -> Mined:
        """Give a listing new terms."""
        data = self._bound.models.update(model_id, min_price, max_price, royalty_ppm, uri)
        return self._send(wallet, "update", self.deployment.model_registry, data)

    def set_model_active(self, wallet: Wallet, model_id: bytes, *, active: bool) -> Mined:
        """Take a listing down, or put it up again."""
        data = self._bound.models.set_active(model_id, active)
        return self._send(wallet, "relist" if active else "delist", self.deployment.model_registry, data)

    def register_worker(
        self, wallet: Wallet, worker: PrivateKey, *, stake: int, region: str, hardware: str, endpoint: str
    ) -> Mined:
        """Stake `stake` atomic units for a worker key and register it; the wallet becomes its operator."""
        self._allow(wallet, self.deployment.worker_registry, stake, "register")
        deadline = int(time.time()) + _CONSENT_SECONDS
        consent = worker.sign_digest(WorkerConsent(wallet.address, worker.address, deadline).digest(self._domain))
        data = self._bound.workers.register(worker.address, stake, region, hardware, endpoint, deadline, consent)
        return self._send(wallet, "register", self.deployment.worker_registry, data)

    def _allow(self, wallet: Wallet, spender: bytes, amount: int, leads_to: str) -> None:
        held = self.balance(wallet.address)
        if held < amount:
            raise NotEnoughTokens(wallet.address, held, amount)
        if self._bound.token.allowance(wallet.address, spender) < amount:
            data = self._bound.token.approve(spender, amount)
            self._send(wallet, "approve", self.deployment.token, data, leads_to=leads_to)

    def _send(self, wallet: Wallet, what: str, to: bytes, data: bytes, *, leads_to: str | None = None) -> Mined:
        if self._dry_run:
            planned = plan(self._web3, wallet.address, what, to, data, above=self.planned)
            self.planned.append(planned)
            # Stands for a transaction that does not exist.
            return Mined(bytes(32), 0, bytes(32), planned.gas or 0, ())
        sender = self._sender(wallet)
        if self._outbox_dir is not None:
            return act(sender, what, to, data, leads_to=leads_to)
        # Without a place to remember, each call is a purpose of its own.
        return sender.run(f"{what}:{secrets.token_hex(8)}", to, data)

    def _sender(self, wallet: Wallet) -> Transactor:
        sender = self._senders.get(wallet.address)
        if sender is None:
            known, folder = self.deployment, self._outbox_dir
            outbox = None if folder is None else outbox_of(folder, known.chain_id, known.escrow)
            sender = self._senders[wallet.address] = Transactor(
                self._web3, wallet.key, outbox=outbox, chain_id=known.chain_id
            )
        return sender
