"""Deploys the market's contracts and binds deployed ones after a check. Called by `market deploy` and devnets."""

from __future__ import annotations

from dataclasses import dataclass

from eth_abi.abi import encode as abi_encode
from web3 import Web3

from contracts import artifacts
from contracts.bindings.contract import Binding
from contracts.bindings.dispute_manager import DisputeManager
from contracts.bindings.errors import DeploymentError
from contracts.bindings.escrow import Escrow
from contracts.bindings.model_registry import ModelRegistry
from contracts.bindings.rpc import named
from contracts.bindings.token import Token
from contracts.bindings.transactor import Transactor
from contracts.bindings.worker_registry import WorkerRegistry
from contracts.deployments import Deployment
from contracts.protocol.hexes import checksum
from contracts.protocol.money import ATOMIC_PER_TOKEN

DAY_SECONDS = 86_400


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

    Raises:
        ChainError: a transaction failed; run it again from the start with another account or on a fresh chain.
    """
    terms = terms or Terms()
    with named():
        first = transactor.web3.eth.block_number
    if token is None:
        token = _create(transactor, "TestUSD", [], [])
    escrow = _create(
        transactor,
        "InferenceEscrow",
        ["address", "uint64", "uint64"],
        [checksum(token), terms.exit_delay_seconds, terms.reserve_thaw_seconds],
    )
    workers = _create(
        transactor,
        "WorkerRegistry",
        ["address", "address", "uint128", "uint64"],
        [checksum(token), checksum(escrow), terms.min_stake, terms.stake_thaw_seconds],
    )
    models = _create(transactor, "ModelRegistry", [], [])
    disputes = _create(
        transactor,
        "DisputeManager",
        ["address", "address", "address", "uint128", "uint64"],
        [
            checksum(escrow),
            checksum(workers),
            checksum(token),
            terms.dispute_bond,
            terms.dispute_window_seconds,
        ],
    )
    for binding in (Escrow(transactor.web3, escrow), WorkerRegistry(transactor.web3, workers)):
        _introduce(transactor, binding, disputes)
    with named():
        chain_id = transactor.web3.eth.chain_id
    return Deployment(chain_id, token, escrow, workers, models, disputes, block=first)


def _introduce(transactor: Transactor, binding: Binding, disputes: bytes) -> None:
    data = binding.encode("setDisputeManager", disputes)
    transactor.run(f"disputes:{binding.NAME}:{binding.address.hex()}", binding.address, data)


def _create(transactor: Transactor, name: str, types: list[str], values: list[object]) -> bytes:
    code = artifacts.load(name).bytecode + abi_encode(types, values)
    with named():
        count = transactor.web3.eth.get_transaction_count(checksum(transactor.address))  # type: ignore[arg-type]
    mined = transactor.run(f"deploy:{name}:{count}", None, code)
    if mined.contract is None:
        raise DeploymentError(f"deploying {name} made no contract.", field=name)
    return mined.contract
