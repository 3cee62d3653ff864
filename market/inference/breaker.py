"""Circuit breakers: a worker that fails a model again and again gets no requests for it until a probe succeeds.

Closed, a circuit counts faults in a row. At `THRESHOLD`, or at one answer that its signature does not cover, it opens:
nobody is sent there for a pause that doubles with each failed probe. After the pause it is half open: one request at a
time is let through, and its outcome closes or opens the circuit. The transitions are pure functions; `Breakers` keeps
the circuits of one gateway process. Called by the use case, which decides what counts as a worker's fault.
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
    """

    faults: int = 0
    open_until: float = 0.0
    pause: float = 0.0
    probing: bool = False


def lets_through(circuit: Circuit, now: float) -> bool:
    """Tell whether a request may go: the circuit is closed, or half open without a probe under way."""
    return circuit.pause == 0.0 or (now >= circuit.open_until and not circuit.probing)


def begun(circuit: Circuit) -> Circuit:
    """Return the circuit once a request was let through; with a half-open one it is the probe."""
    return replace(circuit, probing=True) if circuit.pause else circuit


def failed(circuit: Circuit, now: float, *, grave: bool = False) -> Circuit:
    """Return the circuit after a fault; a `grave` one opens it at once."""
    faults = circuit.faults + 1
    if circuit.pause == 0.0 and faults < THRESHOLD and not grave:
        return replace(circuit, faults=faults)
    if circuit.pause and not circuit.probing and now < circuit.open_until:
        # Sent before it opened; it says nothing new.
        return replace(circuit, faults=faults)
    pause = min(LONGEST_PAUSE_SECONDS, 2 * circuit.pause) if circuit.pause else FIRST_PAUSE_SECONDS
    return Circuit(faults, now + pause, pause)


def abandoned(circuit: Circuit) -> Circuit:
    """Return the circuit after a request that says nothing of the worker: the next one may probe."""
    return replace(circuit, probing=False)


class Breakers:
    """The circuits that are not closed without a fault; used by one event loop, without a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._circuits: dict[tuple[bytes, bytes], Circuit] = {}

    def lets_through(self, worker: bytes, model_id: bytes) -> bool:
        """Tell whether a worker may be sent a request for a model."""
        circuit = self._circuits.get((worker, model_id)) if self._circuits else None
        return circuit is None or lets_through(circuit, self._clock())

    def begun(self, worker: bytes, model_id: bytes) -> None:
        """Note that a request was sent."""
        circuit = self._circuits.get((worker, model_id)) if self._circuits else None
        if circuit is not None:
            self._circuits[worker, model_id] = begun(circuit)

    def ended(self, worker: bytes, model_id: bytes, *, fault: bool | None, grave: bool = False) -> bool:
        """Note how it ended, `fault` None if that says nothing of the worker; returns whether the circuit opened."""
        key = (worker, model_id)
        if fault is False:
            if self._circuits:
                self._circuits.pop(key, None)
            return False
        circuit = self._circuits.get(key)
        if fault is None:
            if circuit is not None:
                self._circuits[key] = abandoned(circuit)
            return False
        after = failed(circuit or Circuit(), self._clock(), grave=grave)
        self._circuits[key] = after
        return after.pause > 0 and after.open_until != (circuit or Circuit()).open_until
