"""Where signed transactions wait until they are confirmed: the port, and a store for one process.

A row is durable before any node has seen its bytes; that is what lets a restart send the same bytes again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One transaction in the outbox; `raw` are the signed bytes, `tx_hashes` every version broadcast, newest last."""

    account: bytes
    purpose: str
    to: bytes | None
    data: bytes
    gas: int
    nonce: int
    max_fee_per_gas: int
    priority_fee_per_gas: int
    raw: bytes
    tx_hashes: tuple[bytes, ...]
    sent_at: float
    done: bool = False


class Outbox(Protocol):
    """Durable store of outgoing transactions, unique by (account, purpose) and, until done, by (account, nonce)."""

    def get(self, account: bytes, purpose: str) -> Outgoing | None:
        """Return what was once sent for a purpose."""
        ...

    def pending(self, account: bytes) -> Sequence[Outgoing]:
        """Return what is not done, by nonce."""
        ...

    def at(self, account: bytes, nonce: int) -> Outgoing | None:
        """Return what was last sent with a nonce, done or not."""
        ...

    def add(self, outgoing: Outgoing) -> bool:
        """Insert, durably before returning; False, and nothing done, if the purpose is known or the nonce taken."""
        ...

    def put(self, outgoing: Outgoing) -> None:
        """Replace, durably before returning."""
        ...

    def drop(self, account: bytes, purpose: str) -> None:
        """Forget a transaction that never can be mined."""
        ...


def last_at(rows: Iterable[Outgoing], account: bytes, nonce: int) -> Outgoing | None:
    """Return the newest of these rows with an account's nonce."""
    found = [row for row in rows if (row.account, row.nonce) == (account, nonce)]
    return max(found, key=lambda row: row.sent_at, default=None)


class MemoryOutbox:
    """An outbox for one process: command lines that wait for each transaction."""

    def __init__(self) -> None:
        self._rows: dict[tuple[bytes, str], Outgoing] = {}
        self._adding = threading.Lock()

    def get(self, account: bytes, purpose: str) -> Outgoing | None:
        """See `Outbox.get`."""
        return self._rows.get((account, purpose))

    def pending(self, account: bytes) -> Sequence[Outgoing]:
        """See `Outbox.pending`."""
        rows = [row for row in self._rows.values() if row.account == account and not row.done]
        return sorted(rows, key=lambda row: row.nonce)

    def at(self, account: bytes, nonce: int) -> Outgoing | None:
        """See `Outbox.at`."""
        return last_at(self._rows.values(), account, nonce)

    def add(self, outgoing: Outgoing) -> bool:
        """See `Outbox.add`."""
        with self._adding:
            if any(row.nonce == outgoing.nonce for row in self.pending(outgoing.account)):
                return False
            return self._rows.setdefault((outgoing.account, outgoing.purpose), outgoing) is outgoing

    def put(self, outgoing: Outgoing) -> None:
        """See `Outbox.put`."""
        self._rows[outgoing.account, outgoing.purpose] = outgoing

    def drop(self, account: bytes, purpose: str) -> None:
        """See `Outbox.drop`."""
        self._rows.pop((account, purpose), None)
