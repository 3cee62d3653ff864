"""What this process knows of each worker's load: requests under way here, answer times, sizes, how much it gets done.

Feeds selection, back-pressure and the patience of an attempt; other gateway processes balance their own share, so no
number crosses processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_WEIGHT = 0.2
_FAULT_WEIGHT = 0.05
_FORGIVEN_SECONDS = 30.0
# How much of the slowest recent answer, the best recent rate and the largest recent inputs is left after each answer.
_FADE = 0.99
LEAST_PATIENCE_SECONDS = 3.0
_PATIENCE = 10.0


@dataclass(slots=True)
class _Worker:
    in_flight: int = 0
    latency_ms: float = 0.0
    slowest_ms: float = 0.0
    rate: float = 0.0
    reliability: float = 1.0
    judged_at: float = 0.0
    clients: dict[bytes, int] = field(default_factory=dict)
    largest: dict[bytes, float] = field(default_factory=dict)


_NOTHING = _Worker()


class WorkerLoad:
    """Counts begun and ended requests per worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers: dict[bytes, _Worker] = {}
        self._clock = clock

    def in_flight(self, worker: bytes) -> int:
        """Return how many requests of this process the worker has now."""
        return self._workers.get(worker, _NOTHING).in_flight

    def latency_ms(self, worker: bytes) -> float:
        """Return the moving mean of answer times; 0 while unknown."""
        return self._workers.get(worker, _NOTHING).latency_ms

    def reliability(self, worker: bytes) -> float:
        """Return the moving share of requests that it did not fail; 1 while unknown.

        What is missing to 1 halves every half minute: a worker that nobody asks any more could not make it good.
        """
        known = self._workers.get(worker, _NOTHING)
        if known.reliability == 1.0:
            return 1.0
        left = math.exp2(-(self._clock() - known.judged_at) / _FORGIVEN_SECONDS)
        return 1.0 - (1.0 - known.reliability) * left

    def judge(self, worker: bytes, *, fault: bool) -> None:
        """Count whether the worker was at fault in a request that ended."""
        known = self._workers.get(worker)
        if known is not None and (fault or known.reliability < 1.0):
            before = self.reliability(worker)
            known.reliability = before + _FAULT_WEIGHT * ((0.0 if fault else 1.0) - before)
            known.judged_at = self._clock()

    def queue_seconds(self, worker: bytes) -> float:
        """Return how long what is under way will keep the worker busy; 0 while its rate is unknown.

        Its rate is the best of late of requests beside each other over their answer time (Little's law), which
        counts a batch as what it is and does not take few requests for little power.
        """
        known = self._workers.get(worker, _NOTHING)
        return known.in_flight / known.rate if known.rate else 0.0

    def largest(self, worker: bytes, model_id: bytes) -> float:
        """Return of how many bytes the largest inputs were that it answered of late for a model; 0 if it never did."""
        return self._workers.get(worker, _NOTHING).largest.get(model_id, 0.0)

    def answered(self, worker: bytes, model_id: bytes, size: int) -> None:
        """Count a good answer to inputs of so many bytes."""
        largest = self._workers[worker].largest
        largest[model_id] = max(size, _FADE * largest.get(model_id, 0.0))

    def patience_seconds(self, worker: bytes, model_id: bytes, size: int, most: float) -> float:
        """Return how long to wait for the answer to inputs of so many bytes before another is asked, at most `most`.

        Ten times the slowest answer of late, more for inputs larger than those answered, never below three seconds; all
        of `most` while nothing is known, since a model's first answer may wait for its loading.
        """
        known = self._workers.get(worker, _NOTHING)
        largest = known.largest.get(model_id)
        if largest is None or known.slowest_ms == 0.0:
            return most
        patience = _PATIENCE * known.slowest_ms / 1_000 * max(1.0, size / largest)
        return min(most, max(LEAST_PATIENCE_SECONDS, patience))

    def below_share(self, worker: bytes, client: bytes) -> bool:
        """Tell whether a client has less under way at a worker than each would if all who ask there had the same."""
        known = self._workers.get(worker, _NOTHING)
        own = known.clients.get(client, 0)
        return own * (len(known.clients) + (own == 0)) < known.in_flight

    def begin(self, worker: bytes, client: bytes = b"") -> int:
        """Count a request sent; returns how many the worker has with it, for `end`."""
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker()
        known.in_flight += 1
        known.clients[client] = known.clients.get(client, 0) + 1
        return known.in_flight

    def end(self, worker: bytes, seconds: float | None, beside: int = 1, client: bytes = b"") -> None:
        """Count a request ended; `seconds` is None without an answer worth counting, `beside` is what `begin` said."""
        known = self._workers[worker]
        known.in_flight -= 1
        left = known.clients[client] - 1
        if left:
            known.clients[client] = left
        else:
            del known.clients[client]
        if seconds is not None:
            sample = seconds * 1_000
            known.latency_ms += (_WEIGHT if known.latency_ms else 1.0) * (sample - known.latency_ms)
            known.slowest_ms = max(sample, _FADE * known.slowest_ms)
            known.rate = max(beside / max(seconds, 1e-6), _FADE * known.rate)
