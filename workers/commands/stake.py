"""`worker register|stake|unstake|withdraw`: a worker's registration and the money that stands behind it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from contracts.bindings.command import Planned, act, begun, outbox_of, plan
from contracts.bindings.errors import ChainError
from contracts.bindings.keystore import load_keystore
from contracts.bindings.transactor import Transactor
from contracts.protocol.errors import InvalidAmount
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import both, format_amount, parse_money, parse_payment
from contracts.protocol.typed_data import WorkerConsent
from workers import node as nodes
from workers.commands.output import (
    AsJson,
    EnvFile,
    OperatorKeystore,
    OperatorPassword,
    messages,
    print_json,
    say,
)
from workers.errors import NotEnoughTokens, StartError
from workers.settings import WorkerSettings, load_settings

CONSENT_SECONDS = 3_600

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be signed and what it costs; send nothing.")]
AMOUNT_HELP = "Dollars such as 100, or atomic units such as 100000000u"


class _Operator:
    """The staking account and what it does for one worker; a dry run sends nothing and keeps it in `planned`.

    What is signed is kept beside the worker's papers until it is mined, so that a command given again after a crash
    is one effect.
    """

    def __init__(
        self, settings: WorkerSettings, keystore: Path, password_file: Path | None, *, dry_run: bool = False
    ) -> None:
        self.side = nodes.open_chain(settings)
        self.planned: list[Planned] = []
        self._dry_run = dry_run
        key = load_keystore(keystore, password_file)
        self.address = key.address
        outbox = outbox_of(
            settings.state_dir.expanduser() / "outbox", self.side.domain.chain_id, self.side.domain.escrow
        )
        self._web3 = self.side.contracts.escrow.web3
        self._sender = Transactor(self._web3, key, outbox=outbox, chain_id=self.side.domain.chain_id)

    def register(self, stake: int, region: str, hardware: str, endpoint: str) -> bytes | None:
        """Stake atomic units for the worker's key and register it; returns the transaction's hash.

        Raises:
            InvalidAmount: it is less than the registry takes; nothing was sent, no approval either.
        """
        side, registry = self.side, self.side.contracts.workers
        least = registry.min_stake()
        if stake < least:
            raise InvalidAmount(
                f"{both(stake)} is less than a registration takes.",
                field="stake",
                remedy=f"Stake at least {format_amount(least)}.",
            )
        deadline = int(time.time()) + CONSENT_SECONDS
        consent = WorkerConsent(self.address, side.key.address, deadline)
        signature = side.key.sign_digest(consent.digest(side.domain))
        self._allow(registry.address, stake, "register")
        data = registry.register(side.key.address, stake, region, hardware, endpoint, deadline, signature)
        return self.send("register", registry.address, data)

    def add_stake(self, amount: int) -> bytes | None:
        """Add atomic units to the stake."""
        registry = self.side.contracts.workers
        data = registry.add_stake(self.side.key.address, amount)
        if not begun(self._sender, "stake", registry.address, data):
            self._allow(registry.address, amount, "stake")
        return self.send("stake", registry.address, data)

    def send(self, what: str, to: bytes, data: bytes, *, leads_to: str | None = None) -> bytes | None:
        """Send a transaction and wait for it; returns its hash, None after a dry run."""
        if self._dry_run:
            self.planned.append(plan(self._web3, self.address, what, to, data, above=self.planned))
            return None
        return act(self._sender, what, to, data, leads_to=leads_to).tx_hash

    def _allow(self, spender: bytes, amount: int, leads_to: str) -> None:
        token = self.side.contracts.token
        held = token.balance_of(self.address)
        if held < amount:
            raise NotEnoughTokens(
                f"{checksum(self.address)} holds {both(held)}, {both(amount)} are needed.",
                field="stake",
                remedy="Send it tokens, or stake less.",
            )
        if token.allowance(self.address, spender) < amount:
            self.send("approve", token.address, token.approve(spender, amount), leads_to=leads_to)

    def said(self, tx_hash: bytes | None, *, as_json: bool) -> None:
        """Print what was done, or after a dry run what would have been, and how the worker stands."""
        contracts = self.side.contracts
        try:
            state = contracts.workers.worker(self.side.key.address)
        except ChainError as error:
            raise StartError(error.detail, field="WORKER_RPC_URL") from error
        names = {contracts.workers.address: "worker_registry", contracts.token.address: "token"}
        rows = [planned.to_json(names) for planned in self.planned]
        standing = {
            "worker": checksum(self.side.key.address),
            "operator": checksum(self.address),
            "stake": both(state.stake),
            "thawing": both(state.thawing),
            "active": state.active,
        }
        if as_json:
            standing |= {"stake": str(state.stake), "thawing": str(state.thawing)}
            done = {"transaction": hex0x(tx_hash)} if tx_hash else {"dryRun": True, "transactions": rows}
            print_json(standing | done)
            return
        for row in rows:
            gas = "after the first" if row["gas"] is None else f"{row['gas']} gas, {row['feeWei']} wei"
            typer.echo(f"would be signed and sent: {row['what']} to {row['contract']} {row['to']}, {gas}")
        say(standing | ({"transaction": hex0x(tx_hash)} if tx_hash else {}), as_json=False)


def register(
    operator_keystore: OperatorKeystore,
    stake: Annotated[str, typer.Option(help=AMOUNT_HELP)],
    operator_password_file: OperatorPassword = None,
    region: Annotated[str, typer.Option(help="Where the machine stands, for example eu-west.")] = "",
    hardware: Annotated[str, typer.Option(help="What it is, for example rtx-4090.")] = "",
    endpoint: Annotated[str, typer.Option(help="Public address, if it has one.")] = "",
    env_file: EnvFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Stake for this worker's key and register it on chain."""
    with messages(as_json=as_json):
        units = parse_money(stake, field="stake")
        operator = _Operator(load_settings(env_file), operator_keystore, operator_password_file, dry_run=dry_run)
        operator.said(operator.register(units, region, hardware, endpoint), as_json=as_json)


def register_worker(
    settings: WorkerSettings, keystore: Path, password_file: Path | None, amount: str, region: str, hardware: str
) -> str:
    """Stake for the worker's key and register it; returns the transaction's hash.

    Raises:
        KeystoreError | ChainError | InvalidAmount: nothing, or the approval alone, was sent.
    """
    units = parse_money(amount, field="stake")
    tx_hash = _Operator(settings, keystore, password_file).register(units, region, hardware, "")
    assert tx_hash is not None  # it was no dry run
    return hex0x(tx_hash)


def stake(
    amount: Annotated[str, typer.Argument(help=AMOUNT_HELP)],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add to the worker's stake."""
    with messages(as_json=as_json):
        units = parse_payment(amount)
        operator = _Operator(load_settings(env_file), operator_keystore, operator_password_file, dry_run=dry_run)
        operator.said(operator.add_stake(units), as_json=as_json)


def unstake(
    amount: Annotated[str, typer.Argument(help=AMOUNT_HELP)],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start taking stake out, 0 to leave it in after all; `worker withdraw` pays it when it has thawed."""
    with messages(as_json=as_json):
        units = parse_money(amount)
        operator = _Operator(load_settings(env_file), operator_keystore, operator_password_file, dry_run=dry_run)
        registry = operator.side.contracts.workers
        sent = operator.send("thaw", registry.address, registry.thaw(operator.side.key.address, units))
        operator.said(sent, as_json=as_json)


def withdraw(
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Pay out stake that has thawed."""
    with messages(as_json=as_json):
        operator = _Operator(load_settings(env_file), operator_keystore, operator_password_file, dry_run=dry_run)
        registry = operator.side.contracts.workers
        sent = operator.send("withdraw", registry.address, registry.withdraw_stake(operator.side.key.address))
        operator.said(sent, as_json=as_json)
