"""Papers waiting to go to workers: countersignatures of what they served, and the newest credit note.

With these a worker is paid without the gateway. A credit note is signed only when a message is about to carry it, and a
message of jobs carries papers only once they are many, or have waited: to write and to check a note costs both sides as
much as a small request. Called by the use case; emptied by the lane.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.protocol.messages import Papers
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import CreditNote, Domain

# A worker that is away loses the oldest countersignatures first; the receipts API has all of them.
MAX_WAITING = 10_000
# When they go with the next message of jobs; alone they go a moment after the last one.
DUE_RECEIPTS = 64
DUE_SECONDS = 0.025


@dataclass(slots=True)
class _Desk:
    countersigned: dict[bytes, bytes] = field(default_factory=dict)
    payee: bytes = b""
    earned: int = 0
    since: float = 0.0


class PapersDesk:
    """Implements `market.inference.ports.PaperSource`."""

    def __init__(self, *, key: PrivateKey, domain: Domain, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._domain = domain
        self._clock = clock
        self._desks: dict[bytes, _Desk] = {}

    def add(self, worker: bytes, request_id: bytes, gateway_signature: bytes, payee: bytes, earned: int) -> None:
        """Keep the papers of one charged request; `earned` is what `payee` is owed in all, durably."""
        desk = self._desks.get(worker)
        if desk is None:
            desk = self._desks[worker] = _Desk(since=self._clock())
        desk.countersigned[request_id] = gateway_signature
        if len(desk.countersigned) > MAX_WAITING:
            del desk.countersigned[next(iter(desk.countersigned))]
        # Charges of one payee may be reported out of order; the promise only grows.
        if earned > desk.earned or desk.payee != payee:
            desk.earned, desk.payee = earned, payee

    def take(self, worker: bytes) -> Papers | None:
        """See `PaperSource.take`."""
        desk = self._desks.pop(worker, None)
        if desk is None:
            return None
        note = CreditNote(self._key.address, desk.payee, desk.earned)
        return Papers(tuple(desk.countersigned.items()), note, self._key.sign_digest(note.digest(self._domain)))

    def take_due(self, worker: bytes) -> Papers | None:
        """See `PaperSource.take_due`."""
        desk = self._desks.get(worker)
        if desk is None or (len(desk.countersigned) < DUE_RECEIPTS and self._clock() - desk.since < DUE_SECONDS):
            return None
        return self.take(worker)

    def put_back(self, worker: bytes, papers: Papers) -> None:
        """See `PaperSource.put_back`."""
        note = papers.credit_note
        for request_id, signature in papers.countersigned:
            if note is not None:
                self.add(worker, request_id, signature, note.payee, note.cumulative_amount)

    def waiting(self) -> list[bytes]:
        """See `PaperSource.waiting`."""
        return list(self._desks)
