"""How well workers serve, seen from this process: answers and failures a minute, and the newest answer times.

Decides how much is remembered: an hour, in memory, so that no number costs a request anything. Other processes of a
gateway see their own share. Written by the use case, which decides what counts; read by the market's read API.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

MINUTES = 60
SAMPLES = 256
_MINUTE_SECONDS = 60


@dataclass(slots=True)
class Minute:
    """One minute of one worker and model; `at` is its start in unix seconds, `spent_ms` the sum of `served` answers."""

    at: int
    served: int = 0
    spent_ms: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Performance:
    """The last hour in one line; times are milliseconds of the newest answers, None before the first."""

    served: int
    failed: int
    errors: dict[str, int]
    p50_ms: float | None
    p95_ms: float | None

    @property
    def success_rate(self) -> float | None:
        """Served over attempted, None where nothing was attempted."""
        attempts = self.served + self.failed
        return self.served / attempts if attempts else None


class _Record:
    __slots__ = ("minutes", "samples")

    def __init__(self) -> None:
        self.minutes: deque[Minute] = deque(maxlen=MINUTES)
        self.samples: deque[float] = deque(maxlen=SAMPLES)


class Activity:
    """Counts attempts by worker and model; used by one event loop, without a lock."""

    def __init__(self, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._records: dict[tuple[bytes, bytes], _Record] = {}

    def record(self, worker: bytes, model_id: bytes, seconds: float, code: str | None) -> None:
        """Count one attempt: served in `seconds`, or failed with `code`."""
        record = self._records.get((worker, model_id))
        if record is None:
            record = self._records.setdefault((worker, model_id), _Record())
        now = int(self._wall_clock())
        at = now - now % _MINUTE_SECONDS
        if not record.minutes or record.minutes[-1].at != at:
            record.minutes.append(Minute(at))
        minute = record.minutes[-1]
        if code is None:
            minute.served += 1
            minute.spent_ms += seconds * 1_000
            record.samples.append(seconds * 1_000)
        else:
            minute.failed[code] += 1

    def answer_seconds(self, worker: bytes, model_id: bytes, share: float, least: int) -> float | None:
        """Return within what time a worker gave this share of its newest answers; None after fewer than `least`."""
        record = self._records.get((worker, model_id))
        if record is None or len(record.samples) < least:
            return None
        found = _quantile(sorted(record.samples), share)
        return None if found is None else found / 1_000

    def performance(self, *, worker: bytes | None = None, model_id: bytes | None = None) -> Performance:
        """Sum up the last hour of a worker, of a model, or of one at the other."""
        found = list(self._matching(worker, model_id))
        minutes = [minute for record in found for minute in self._recent(record)]
        errors: Counter[str] = Counter()
        for minute in minutes:
            errors.update(minute.failed)
        samples = sorted(sample for record in found for sample in record.samples)
        return Performance(
            served=sum(minute.served for minute in minutes),
            failed=errors.total(),
            errors=dict(errors),
            p50_ms=_quantile(samples, 0.5),
            p95_ms=_quantile(samples, 0.95),
        )

    def history(self, *, worker: bytes | None = None, model_id: bytes | None = None) -> list[Minute]:
        """Return the last hour by minute, oldest first; minutes without an attempt are left out."""
        merged: dict[int, Minute] = {}
        for record in self._matching(worker, model_id):
            for minute in self._recent(record):
                total = merged.setdefault(minute.at, Minute(minute.at))
                total.served += minute.served
                total.spent_ms += minute.spent_ms
                total.failed.update(minute.failed)
        return [merged[at] for at in sorted(merged)]

    def _matching(self, worker: bytes | None, model_id: bytes | None) -> Iterable[_Record]:
        for (of_worker, of_model), record in self._records.items():
            if worker in (None, of_worker) and model_id in (None, of_model):
                yield record

    def _recent(self, record: _Record) -> Iterable[Minute]:
        since = self._wall_clock() - MINUTES * _MINUTE_SECONDS
        return (minute for minute in record.minutes if minute.at >= since)


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
