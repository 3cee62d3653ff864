"""What a person's command sends: once for every time that it is given, and never again for a command cut short.

A command that ends before its transaction is seen in a block (a crash, a node that went away) leaves it in the outbox.
The same command given again takes it up: it waits for that transaction and sends no second one. Any other command of
the account first brings the old one to its end, and stops there if it was of the same kind, for the person may have
meant that one. Called by the commands of `market` and `worker`.
"""

from __future__ import annotations

from contracts.bindings.errors import ChainError, TransactionReverted
from contracts.bindings.transactor import Mined, Transactor
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import hex0x


class EarlierCommand(ChainError):
    """An earlier command of the same kind was cut short; it has its effect now, and nothing else was sent."""

    code = "earlier-command"


def act(sender: Transactor, what: str, to: bytes, data: bytes) -> Mined:
    """Send what a command says, or take up what the same command sent before it was cut short.

    Raises:
        EarlierCommand: a command of the same kind with other contents was cut short, and is mined now.
        ChainError: see `Transactor.run`.
    """
    purpose = f"{what}:{keccak256(to + data).hex()[:16]}"
    for earlier in sender.resume():
        if earlier != purpose:
            _finish(sender, earlier, what)
    mined = sender.run(purpose, to, data)
    sender.forget(purpose)
    return mined


def _finish(sender: Transactor, purpose: str, what: str) -> None:
    try:
        mined = sender.wait(purpose)
    except TransactionReverted:
        sender.forget(purpose)
        return
    sender.forget(purpose)
    if purpose.partition(":")[0] == what:
        raise EarlierCommand(
            f"an earlier {what!r} was cut short and is now in block {mined.block_number}, as {hex0x(mined.tx_hash)}; "
            "nothing else was sent.",
            field="command",
            remedy="If you want this one besides, give the command again.",
        )
