"""What a person's command sends: once for every time that it is given, and never again for a command cut short.

A command that ends before its transaction is seen in a block (a crash, a node that went away) leaves it in the outbox.
The same command given again takes it up: it waits for that transaction and sends no second one. Any other command of
the account first brings the old one to its end, and stops there if it was of the same kind, for the person may have
meant that one. Called by the commands of `market` and `worker`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from web3 import Web3

from contracts.bindings.errors import ChainError, TransactionReverted
from contracts.bindings.outbox_file import FileOutbox
from contracts.bindings.rpc import named
from contracts.bindings.transactor import Mined, Transactor
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, hex0x


class EarlierCommand(ChainError):
    """An earlier command of the same kind was cut short; it has its effect now, and nothing else was sent."""

    code = "earlier-command"


@dataclass(frozen=True, slots=True)
class Planned:
    """A transaction that a dry run would send; `to` is None where it makes a contract.

    `gas` is None where it cannot be known yet: the ones above it are not mined, or somebody else has still to sign.
    """

    what: str
    sender: bytes
    to: bytes | None
    data: bytes
    gas: int | None
    fee_wei: int | None

    def to_json(self, contracts: Mapping[bytes, str]) -> dict[str, Any]:
        """Return it as commands print it; `contracts` are names by address."""
        return {
            "what": self.what,
            "from": checksum(self.sender),
            "to": None if self.to is None else checksum(self.to),
            "contract": "" if self.to is None else contracts.get(self.to, ""),
            "gas": self.gas,
            "feeWei": None if self.fee_wei is None else str(self.fee_wei),
            "data": hex0x(self.data),
        }


def plan(web3: Web3, sender: bytes, what: str, to: bytes | None, data: bytes, *, above: Sequence[Planned]) -> Planned:
    """Estimate what a transaction would cost, after the ones `above`, and send nothing.

    Raises:
        ChainError: the node does not answer, or the transaction would revert and nothing above can be why.
    """
    call = {"from": checksum(sender), "data": hex0x(data)} | ({} if to is None else {"to": checksum(to)})
    gas: int | None
    try:
        with named():
            gas = int(web3.eth.estimate_gas(call))  # type: ignore[arg-type]
    except TransactionReverted:
        if not above:
            raise
        gas = None  # it needs an earlier one of the same plan, say an allowance
    with named():
        price = int(web3.eth.gas_price)
    return Planned(what, sender, to, data, gas, None if gas is None else gas * price)


def outbox_of(folder: Path, chain_id: int, escrow: bytes) -> FileOutbox:
    """Open what commands left unfinished on one deployment: another one has nothing to do with it."""
    return FileOutbox(folder / f"{chain_id}-{escrow.hex()[:8]}.json")


def act(sender: Transactor, what: str, to: bytes, data: bytes, *, leads_to: str | None = None) -> Mined:
    """Send what a command says, or take up what the same command sent before it was cut short.

    `leads_to` is what the command sends afterwards: an earlier one of that kind stops it as well, before this is sent.

    Raises:
        EarlierCommand: a command of the same kind with other contents was cut short, and is mined now.
        ChainError: see `Transactor.run`.
    """
    purpose = _purpose(what, to, data)
    for earlier in sender.resume():
        if earlier != purpose:
            _finish(sender, earlier, (what, leads_to))
    mined = sender.run(purpose, to, data)
    sender.forget(purpose)
    return mined


def finish_earlier(sender: Transactor) -> None:
    """Bring to its end what earlier commands of the account left.

    Raises:
        ChainError: it is in no block yet.
    """
    for earlier in sender.resume():
        _finish(sender, earlier, ())


def begun(sender: Transactor, what: str, to: bytes, data: bytes) -> bool:
    """Tell whether the same command was cut short after it had signed this: what came before it was sent already."""
    return sender.holds(_purpose(what, to, data))


def _purpose(what: str, to: bytes, data: bytes) -> str:
    return f"{what}:{keccak256(to + data).hex()[:16]}"


def _finish(sender: Transactor, purpose: str, kinds: Sequence[str | None]) -> None:
    try:
        mined = sender.wait(purpose)
    except TransactionReverted:
        sender.forget(purpose)
        return
    sender.forget(purpose)
    what = purpose.partition(":")[0]
    if what in kinds:
        raise EarlierCommand(
            f"an earlier {what!r} was cut short and is now in block {mined.block_number}, as {hex0x(mined.tx_hash)}; "
            "nothing else was sent.",
            field="command",
            remedy="If you want this one besides, give the command again.",
        )
