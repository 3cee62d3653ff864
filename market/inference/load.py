"""What this process knows of each worker's load: requests under way here and a moving mean of answer times.

Feeds selection; other gateway processes balance their own share, so no number crosses processes.
"""

from __future__ import annotations

_WEIGHT = 0.2


class WorkerLoad:
    """Counts begun and ended requests per worker."""

    def __init__(self) -> None:
        self._in_flight: dict[bytes, int] = {}
        self._latency_ms: dict[bytes, float] = {}

    def in_flight(self, worker: bytes) -> int:
        """Return how many requests of this process the worker has now."""
        return self._in_flight.get(worker, 0)

    def latency_ms(self, worker: bytes) -> float:
        """Return the moving mean of answer times; 0 while unknown."""
        return self._latency_ms.get(worker, 0.0)

    def begin(self, worker: bytes) -> None:
        """Count a request sent."""
        self._in_flight[worker] = self._in_flight.get(worker, 0) + 1

    def end(self, worker: bytes, seconds: float | None) -> None:
        """Count a request ended; `seconds` is None if it gave no answer worth counting."""
        left = self._in_flight.get(worker, 0) - 1
        if left > 0:
            self._in_flight[worker] = left
        else:
            self._in_flight.pop(worker, None)
        if seconds is not None:
            known = self._latency_ms.get(worker)
            sample = seconds * 1_000
            self._latency_ms[worker] = sample if known is None else known + _WEIGHT * (sample - known)
