"""Deploys the market's contracts and binds deployed ones after a check. Called by `market deploy` and devnets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eth_abi.abi import encode as abi_encode
from web3 import Web3
from web3.utils import get_create_address

from contracts import artifacts
from contracts.bindings.command import Planned, plan
from contracts.bindings.dispute_manager import DisputeManager
from contracts.bindings.errors import DeploymentError
from contracts.bindings.escrow import Escrow
from contracts.bindings.model_registry import ModelRegistry
from contracts.bindings.rpc import named
from contracts.bindings.token import Token
from contracts.bindings.transactor import Transactor
from contracts.bindings.worker_registry import WorkerRegistry
from contracts.deployments import Deployment
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, from_hex
from contracts.protocol.money import ATOMIC_PER_TOKEN

DAY_SECONDS = 86_400
_SET_DISPUTES = keccak256(b"setDisputeManager(address)")[:4]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed at deployment; seconds and atomic token units."""

    exit_delay_seconds: int = DAY_SECONDS
    reserve_thaw_seconds: int = 21 * DAY_SECONDS
    stake_thaw_seconds: int = 21 * DAY_SECONDS
    min_stake: int = 100 * ATOMIC_PER_TOKEN
    dispute_bond: int = 10 * ATOMIC_PER_TOKEN
    dispute_window_seconds: int = 3 * DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Contracts:
    """The bindings of one deployment."""

    escrow: Escrow
    workers: WorkerRegistry
    models: ModelRegistry
    token: Token
    disputes: DisputeManager


def bind(web3: Web3, deployment: Deployment) -> Contracts:
    """Bind a deployment's contracts and check that there is code at each address.

    Raises:
        DeploymentError: an address has no code on this chain.
    """
    for name in ("escrow", "worker_registry", "model_registry", "token", "disputes"):
        require_code(web3, name, getattr(deployment, name))
    return Contracts(
        Escrow(web3, deployment.escrow),
        WorkerRegistry(web3, deployment.worker_registry),
        ModelRegistry(web3, deployment.model_registry),
        Token(web3, deployment.token),
        DisputeManager(web3, deployment.disputes),
    )


def require_code(web3: Web3, name: str, address: bytes) -> None:
    """Check that a contract stands at an address.

    Raises:
        DeploymentError: there is none.
    """
    with named():
        code, chain_id = web3.eth.get_code(checksum(address)), web3.eth.chain_id  # type: ignore[arg-type]
    if not code:
        raise DeploymentError(
            f"there is no contract at {checksum(address)} on chain {chain_id}.",
            field=name,
            remedy="Name the deployment file of this chain, or run `market deploy`.",
        )


def deploy(transactor: Transactor, *, token: bytes | None = None, terms: Terms | None = None) -> Deployment:
    """Deploy everything in order; `token` None deploys test dollars too.

    The transactor's outbox stands for one deployment: called again with it after a crash, it goes on where it was.

    Raises:
        ChainError: a transaction failed, or was not mined in time.
    """
    made = _Sending(transactor)
    addresses = _build(made, token, terms or Terms())
    with named():
        chain_id = transactor.web3.eth.chain_id
    return Deployment(chain_id, *addresses, block=min(made.blocks))


def plan_deployment(
    web3: Web3, sender: bytes, *, token: bytes | None = None, terms: Terms | None = None
) -> tuple[Sequence[Planned], Deployment]:
    """Return what `deploy` would send, and where the contracts would stand if the account sends nothing else before.

    Raises:
        ChainError: the node does not answer.
    """
    made = _Planning(web3, sender)
    addresses = _build(made, token, terms or Terms())
    with named():
        return made.planned, Deployment(web3.eth.chain_id, *addresses, block=web3.eth.block_number)


class _Making(Protocol):
    def create(self, name: str, code: bytes) -> bytes: ...

    def call(self, what: str, to: bytes, data: bytes) -> None: ...


class _Sending:
    """Sends each step once, ever, as far as the outbox remembers."""

    def __init__(self, transactor: Transactor) -> None:
        self._transactor = transactor
        self.blocks: list[int] = []

    def create(self, name: str, code: bytes) -> bytes:
        mined = self._transactor.run(f"deploy:{name}:{keccak256(code).hex()[:16]}", None, code)
        if mined.contract is None:
            raise DeploymentError(f"deploying {name} made no contract.", field=name)
        self.blocks.append(mined.block_number)
        return mined.contract

    def call(self, what: str, to: bytes, data: bytes) -> None:
        self._transactor.run(f"{what}:{to.hex()}", to, data)


class _Planning:
    """Notes each step and sends none."""

    def __init__(self, web3: Web3, sender: bytes) -> None:
        self._web3 = web3
        self._sender = sender
        with named():
            self._nonce = web3.eth.get_transaction_count(checksum(sender), "pending")  # type: ignore[arg-type]
        self.planned: list[Planned] = []

    def create(self, name: str, code: bytes) -> bytes:
        self._add(f"deploy {name}", None, code)
        nonce = self._nonce + len(self.planned) - 1
        return from_hex(get_create_address(checksum(self._sender), nonce), 20, field=name)  # type: ignore[arg-type]

    def call(self, what: str, to: bytes, data: bytes) -> None:
        self._add(what, to, data)

    def _add(self, what: str, to: bytes | None, data: bytes) -> None:
        self.planned.append(plan(self._web3, self._sender, what, to, data, above=self.planned))


def _build(made: _Making, token: bytes | None, terms: Terms) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Make every contract in order; returns the addresses in the order of `Deployment`."""

    def create(name: str, types: Sequence[str] = (), *values: object) -> bytes:
        return made.create(name, artifacts.load(name).bytecode + abi_encode(types, values))

    if token is None:
        token = create("TestUSD")
    paid_in = checksum(token)
    days = [terms.exit_delay_seconds, terms.reserve_thaw_seconds]
    escrow = create("InferenceEscrow", ["address", "uint64", "uint64"], paid_in, *days)
    staking = [checksum(escrow), terms.min_stake, terms.stake_thaw_seconds]
    workers = create("WorkerRegistry", ["address", "address", "uint128", "uint64"], paid_in, *staking)
    models = create("ModelRegistry")
    judged = [checksum(escrow), checksum(workers), paid_in, terms.dispute_bond, terms.dispute_window_seconds]
    disputes = create("DisputeManager", ["address", "address", "address", "uint128", "uint64"], *judged)
    for name, address in (("InferenceEscrow", escrow), ("WorkerRegistry", workers)):
        made.call(f"name the disputes to {name}", address, _SET_DISPUTES + disputes.rjust(32, b"\0"))
    return token, escrow, workers, models, disputes
