"""`worker register|stake|unstake|withdraw`: a worker's registration and the money that stands behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from contracts.bindings.errors import ChainError
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import format_amount, parse_amount
from contracts.protocol.typed_data import WorkerConsent
from workers import node as nodes
from workers.commands.output import (
    AsJson,
    EnvFile,
    OperatorKeystore,
    OperatorPassword,
    messages,
    open_operator,
    say,
)
from workers.errors import StartError
from workers.settings import WorkerSettings, load_settings

CONSENT_SECONDS = 3_600


def register(
    operator_keystore: OperatorKeystore,
    stake: Annotated[str, typer.Option(help="Stake in tokens, for example 100.")],
    operator_password_file: OperatorPassword = None,
    region: Annotated[str, typer.Option(help="Where the machine stands, for example eu-west.")] = "",
    hardware: Annotated[str, typer.Option(help="What it is, for example rtx-4090.")] = "",
    endpoint: Annotated[str, typer.Option(help="Public address, if it has one.")] = "",
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Stake for this worker's key and register it on chain."""
    with messages(as_json=as_json):
        side, sender, tx_hash = _register(
            load_settings(env_file), operator_keystore, operator_password_file, stake, region, hardware, endpoint
        )
        _said(side, sender.address, tx_hash, as_json=as_json)


def register_worker(
    settings: WorkerSettings, keystore: Path, password_file: Path | None, amount: str, region: str, hardware: str
) -> str:
    """Stake for the worker's key and register it; returns the transaction's hash.

    Raises:
        KeystoreError | ChainError | InvalidAmount: nothing, or the approval alone, was sent.
    """
    return hex0x(_register(settings, keystore, password_file, amount, region, hardware, "")[2])


def _register(
    settings: WorkerSettings,
    keystore: Path,
    password_file: Path | None,
    stake: str,
    region: str,
    hardware: str,
    endpoint: str,
) -> tuple[nodes.ChainSide, Transactor, bytes]:
    side = nodes.open_chain(settings)
    amount = parse_amount(stake, field="stake")
    sender = open_operator(side, keystore, password_file)
    deadline = int(time.time()) + CONSENT_SECONDS
    consent = WorkerConsent(sender.address, side.key.address, deadline)
    signature = side.key.sign_digest(consent.digest(side.domain))
    registry, token = side.contracts.workers, side.contracts.token
    sender.run("approve", token.address, token.approve(registry.address, amount))
    mined = sender.run(
        "register",
        registry.address,
        registry.register(side.key.address, amount, region, hardware, endpoint, deadline, signature),
    )
    return side, sender, mined.tx_hash


def stake(
    amount: Annotated[str, typer.Argument(help="Tokens to add to the stake.")],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Add to the worker's stake."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        units = parse_amount(amount, field="amount")
        registry, token = side.contracts.workers, side.contracts.token
        sender.run("approve", token.address, token.approve(registry.address, units))
        return sender.run("stake", registry.address, registry.add_stake(side.key.address, units)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


def unstake(
    amount: Annotated[str, typer.Argument(help="Tokens to take out of the stake after the thaw.")],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Start taking stake out; `worker withdraw` pays it when it has thawed."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        registry = side.contracts.workers
        units = parse_amount(amount, field="amount")
        return sender.run("thaw", registry.address, registry.thaw(side.key.address, units)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


def withdraw(
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Pay out stake that has thawed."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        registry = side.contracts.workers
        return sender.run("withdraw", registry.address, registry.withdraw_stake(side.key.address)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


def _as_operator(
    act: Callable[[nodes.ChainSide, Transactor], bytes],
    keystore: Path,
    password_file: Path | None,
    env_file: Path | None,
    *,
    as_json: bool,
) -> None:
    with messages(as_json=as_json):
        side = nodes.open_chain(load_settings(env_file))
        sender = open_operator(side, keystore, password_file)
        _said(side, sender.address, act(side, sender), as_json=as_json)


def _said(side: nodes.ChainSide, operator: bytes, tx_hash: bytes, *, as_json: bool) -> None:
    try:
        state = side.contracts.workers.worker(side.key.address)
    except ChainError as error:
        raise StartError(error.detail, field="WORKER_RPC_URL") from error
    say(
        {
            "worker": checksum(side.key.address),
            "operator": checksum(operator),
            "stake": format_amount(state.stake),
            "thawing": format_amount(state.thawing),
            "active": state.active,
            "transaction": hex0x(tx_hash),
        },
        as_json=as_json,
    )
