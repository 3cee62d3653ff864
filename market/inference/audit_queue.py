"""Decides of each served request whether it is audited, and holds those that are until there is room for it.

One keyed hash a request, after its answer was sent; inputs and outputs are kept of chosen requests only. The queue is
bounded by number, bytes and age: what does not fit is dropped and counted. Called by the use case and its short lane;
emptied by `market.inference.audits`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import ceiling_units
from contracts.protocol.sealed import is_sealed
from contracts.protocol.tensors import decode_tensors
from market.inference.audit_model import Counted, Statement, WorkerAudits
from market.inference.model import InferenceRequest
from market.registry.model import Listing
from market.registry.offers import LiveOffer
from market.telemetry import AUDITS
from market.verification.audit_choice import AuditShares, Choice, commitment, threshold
from market.verification.output_diff import tolerance_of
from market.verification.result_check import CheckedResult

MOST_WAITING = 256
MOST_BYTES = 64 << 20
KEPT_SECONDS = 600.0
# What a process may spend on audits beyond what it earned in fees on the model, atomic units: one dollar in all.
FIRST_PURSE = 1_000_000


@dataclass(slots=True)
class Purse:
    """What audits may cost, by model: more than the gateway earned on it would be a prize for who asks and audits.

    With one for all models, whoever lists one of his own would be paid what the others earn.
    """

    first: int
    fees: dict[bytes, int] = field(default_factory=dict)

    def holds(self, model_id: bytes) -> int:
        """Return what audits of a model may cost now, atomic units."""
        return self.first + self.fees.get(model_id, 0)

    def earn(self, model_id: bytes, fee: int) -> None:
        """Add a fee."""
        self.fees[model_id] = self.fees.get(model_id, 0) + fee

    def take(self, model_id: bytes, amount: int) -> int:
        """Take what it holds at least; returns how much of that was no fee of the model's."""
        of_fees = min(amount, self.fees.get(model_id, 0))
        self.earn(model_id, -of_fees)
        self.first -= amount - of_fees
        return amount - of_fees

    def give_back(self, model_id: bytes, left: int, of_first: int) -> None:
        """Put back what is left of an amount taken, `of_first` of which was no fee."""
        back = min(left, of_first)
        self.first += back
        self.earn(model_id, left - back)


@dataclass(slots=True, eq=False)
class Chosen:
    """A request to be audited: what the worker was asked, answered and signed; `inputs` and `outputs` are encoded.

    `tried` are the auditors that gave no answer; `waits_until` is on the gateway's monotonic clock, seconds.
    """

    statement: Statement
    listing: Listing
    manifest: Manifest
    inputs: bytes
    asked_outputs: tuple[str, ...]
    outputs: bytes
    provider: str
    tolerance: float
    share: float
    commitment: bytes
    waits_until: float
    tried: set[bytes] = field(default_factory=set)
    _units: int = 0

    @property
    def units(self) -> int:
        """How many units it may cost at most."""
        if not self._units:
            self._units = ceiling_units(self.manifest, *decode_tensors(self.inputs))
        return self._units

    @property
    def size(self) -> int:
        """How many bytes are kept for it."""
        return len(self.inputs) + len(self.outputs)


class AuditQueue:
    """One gateway process's choice and what it chose; used by one event loop, without a lock.

    `provider` says what a worker announces to compute on. Nothing is chosen before `use` was given a secret.
    `stirred` is set when a request begins to wait.
    """

    def __init__(
        self,
        shares: AuditShares,
        *,
        tolerance: float,
        provider: Callable[[bytes], str],
        clock: Callable[[], float],
    ) -> None:
        self._shares = shares
        self._tolerance = tolerance
        self._provider = provider
        self._clock = clock
        self._choice: Choice | None = None
        self._commitment = b""
        self._usually, self._while_new = threshold(shares.usual), threshold(shares.new)
        self._new_requests = shares.new_requests
        self._answered: dict[bytes, int] = {}
        self._bytes = 0
        self.waiting: deque[Chosen] = deque()
        self.counted = Counted()
        self.purse = Purse(FIRST_PURSE)
        self.stirred = asyncio.Event()

    def use(self, secret: bytes | None) -> None:
        """Choose by a secret from now on, by none if None."""
        self._choice = None if secret is None else Choice(secret)
        self._commitment = b"" if secret is None else commitment(secret)

    def know(self, workers: Mapping[bytes, WorkerAudits]) -> None:
        """Take what workers answered while they were new from the book, and add what is not written down yet."""
        counted = self.counted.answered
        self._answered = {one.worker: one.answered + counted.get(one.worker, 0) for one in workers.values()}
        for worker, count in counted.items():
            self._answered.setdefault(worker, count)

    def served(
        self,
        checked: CheckedResult,
        live: LiveOffer,
        listing: Listing,
        manifest: Manifest,
        inputs: bytes,
        request: InferenceRequest,
    ) -> None:
        """Note a request that a worker served: it was checked and charged, and its answer is on its way."""
        choice = self._choice
        if choice is None or not request.audited:
            return
        receipt = checked.receipt
        self.purse.earn(receipt.model_id, receipt.price - receipt.worker_amount - receipt.owner_amount)
        worker = receipt.worker
        answered = self._answered.get(worker, 0)
        below = self._usually
        if answered < self._new_requests:
            below = self._while_new
            self._answered[worker] = answered + 1
            counted = self.counted.answered
            counted[worker] = counted.get(worker, 0) + 1
        if not choice.falls_on(receipt.request_id, below):
            return
        tolerance = tolerance_of(manifest, self._tolerance)
        if tolerance is None or is_sealed(request.parameters):
            return  # nobody can say, or nobody else can read it
        chosen = Chosen(
            statement=Statement(live.worker.operator, receipt, checked.worker_signature),
            listing=listing,
            manifest=manifest,
            inputs=inputs,
            asked_outputs=request.requested_outputs,
            outputs=checked.blob,
            provider=self._provider(worker),
            tolerance=tolerance,
            share=self._shares.share(answered),
            commitment=self._commitment,
            waits_until=self._clock() + KEPT_SECONDS,
        )
        if len(self.waiting) >= MOST_WAITING or self._bytes + chosen.size > MOST_BYTES:
            AUDITS.labels("dropped").inc()
            return
        self.put_back(chosen)

    def put_back(self, chosen: Chosen) -> None:
        """Let a request wait, behind those that wait already."""
        self.waiting.append(chosen)
        self._bytes += chosen.size
        self.stirred.set()

    def take(self) -> Chosen | None:
        """Return the request that waits longest and has not waited too long, None if none waits."""
        while self.waiting:
            chosen = self.waiting.popleft()
            self._bytes -= chosen.size
            if chosen.waits_until > self._clock():
                return chosen
            AUDITS.labels("dropped").inc()
        return None
