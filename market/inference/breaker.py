"""Circuit breakers: a worker that fails a model again and again gets no requests for it until a probe succeeds.

Closed, a circuit counts faults in a row. At `THRESHOLD`, or at one answer that its signature does not cover, it opens:
nobody is sent there for a pause that doubles with each failed probe. After the pause it is half open: one request at a
time is let through, and its outcome closes or opens the circuit.

A worker that was started anew since is probed at once, as its faults may have died with the old process: at most once
in `LONGEST_PAUSE_SECONDS`, however often it starts, and its pause goes on doubling. Who lied waits out the pause
whatever it does: an answer that its signature does not cover is no accident that a start mends, and answers that were
under way then do not undo it.

The transitions are pure functions; `Breakers` keeps the circuits of one gateway process. Called by the use case, which
decides what counts as a worker's fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

THRESHOLD = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """One worker at one model: faults in a row, until when nobody is sent there, and the probe under way.

    Times are seconds of a monotonic clock. `pause` is 0 while the circuit was never open since its last success.
    `since` is when it opened or its probe began: what began before says nothing of the worker as it is now. `start` is
    the start of the worker's process that the last fault or probe was of (`LiveOffer.start`), `early_after` when the
    next start may cut a pause short.
    """

    faults: int = 0
    open_until: float = 0.0
    pause: float = 0.0
    probing: bool = False
    since: float = 0.0
    start: int = 0
    early_after: float = 0.0
    lied: bool = False


def lets_through(circuit: Circuit, now: float, start: int) -> bool:
    """Tell whether a request may go: the circuit is closed, or half open without a probe under way."""
    if circuit.pause == 0.0:
        return True
    if circuit.probing:
        return False
    return now >= circuit.open_until or (not circuit.lied and start > circuit.start and now >= circuit.early_after)


def begun(circuit: Circuit, now: float, start: int) -> Circuit:
    """Return the circuit once a request was let through; with a half-open one it is the probe."""
    if circuit.pause == 0.0:
        return circuit
    early_after = now + LONGEST_PAUSE_SECONDS if now < circuit.open_until else circuit.early_after
    return replace(circuit, probing=True, since=now, start=start, early_after=early_after)


def failed(circuit: Circuit, now: float, *, began: float, start: int, grave: bool = False) -> Circuit:
    """Return the circuit after a fault of a request that began then; a `grave` one, a lie, opens it at once."""
    faults, lied = circuit.faults + 1, circuit.lied or grave
    if (circuit.pause == 0.0 and faults < THRESHOLD and not grave) or (circuit.pause and began < circuit.since):
        return replace(circuit, faults=faults, lied=lied)
    pause = min(LONGEST_PAUSE_SECONDS, 2 * circuit.pause) if circuit.pause else FIRST_PAUSE_SECONDS
    return Circuit(faults, now + pause, pause, since=now, start=start, early_after=circuit.early_after, lied=lied)


def abandoned(circuit: Circuit, *, began: float) -> Circuit:
    """Return the circuit after a request that says nothing of the worker: if it was the probe, the next one may be."""
    return circuit if began < circuit.since else replace(circuit, probing=False)


def succeeded(circuit: Circuit, *, began: float) -> Circuit:
    """Return the circuit after a good answer: closed, unless the worker lied since the request began."""
    return circuit if circuit.lied and began < circuit.since else Circuit()


class Breakers:
    """The circuits that are not closed without a fault; used by one event loop, without a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._circuits: dict[tuple[bytes, bytes], Circuit] = {}

    def lets_through(self, worker: bytes, model_id: bytes, start: int) -> bool:
        """Tell whether a worker, of whose process this is the start known last, may be sent a request for a model."""
        circuit = self._circuits.get((worker, model_id)) if self._circuits else None
        return circuit is None or lets_through(circuit, self._clock(), start)

    def begun(self, worker: bytes, model_id: bytes, start: int) -> float:
        """Note that a request is sent; returns when, for `ended`."""
        now = self._clock()
        circuit = self._circuits.get((worker, model_id)) if self._circuits else None
        if circuit is not None:
            self._circuits[worker, model_id] = begun(circuit, now, start)
        return now

    def ended(
        self, worker: bytes, model_id: bytes, *, began: float, start: int, fault: bool | None, grave: bool = False
    ) -> bool:
        """Note how it ended, `fault` None if that says nothing of the worker; returns whether the circuit opened."""
        key = (worker, model_id)
        if fault:
            before = self._circuits.get(key, Circuit())
            after = failed(before, self._clock(), began=began, start=start, grave=grave)
            self._circuits[key] = after
            return after.pause > 0 and after.open_until != before.open_until
        circuit = self._circuits.get(key) if self._circuits else None
        if circuit is None:
            return False
        after = abandoned(circuit, began=began) if fault is None else succeeded(circuit, began=began)
        if after == Circuit():
            del self._circuits[key]
        else:
            self._circuits[key] = after
        return False
