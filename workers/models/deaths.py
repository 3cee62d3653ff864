"""Counts how often models' processes end unasked: a model that does so again and again is not offered for a while.

For longer each time, but not for ever: it may have been a client's inputs that ended it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from workers import telemetry
from workers.errors import ModelWithdrawn

MOST_DEATHS = 3
WITHIN_SECONDS = 600.0
FIRST_REST_SECONDS = 600.0
LONGEST_REST_SECONDS = 86_400.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Rest:
    """A model out of offer, until when, of a monotonic clock; `seconds` is how long in all."""

    reason: str
    until: float
    seconds: float


class Deaths:
    """Of all models of one worker; written by the thread that serves, read by that which announces."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: defaultdict[bytes, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_DEATHS))
        self._rests: dict[bytes, _Rest] = {}

    def note(self, model_id: bytes, cause: str, detail: str, *, counts: bool = True) -> None:
        """Note a death, and count it against the model."""
        telemetry.MODEL_ENDS.labels(cause).inc()
        log.warning("model-process-ended", model=model_id.hex(), cause=cause, detail=detail)
        if counts:
            self.count(model_id, detail)

    def count(self, model_id: bytes, detail: str) -> None:
        """Count a death: the third within ten minutes takes the model out of offer for as long.

        The next time for twice as long, and so on to a day, unless it was well for a day.
        """
        seen, now = self._seen[model_id], self._clock()
        seen.append(now)
        before = self._rests.get(model_id)
        if len(seen) < MOST_DEATHS or now - seen[0] > WITHIN_SECONDS or (before is not None and now < before.until):
            return
        seen.clear()
        again = before is not None and now < before.until + LONGEST_REST_SECONDS
        seconds = min(LONGEST_REST_SECONDS, 2 * before.seconds) if before and again else FIRST_REST_SECONDS
        reason = f"its process ended {MOST_DEATHS} times within {WITHIN_SECONDS / 60:.0f} minutes; last: {detail}"
        self._rests[model_id] = _Rest(reason, now + seconds, seconds)
        log.error("model-withdrawn", model=model_id.hex(), reason=reason, minutes=round(seconds / 60))

    def check(self, model_id: bytes) -> None:
        """Refuse a model that was taken out of offer.

        Raises:
            ModelWithdrawn: says why.
        """
        rest = self._rests.get(model_id)
        if rest is None:
            return
        left = rest.until - self._clock()
        if left > 0:
            raise ModelWithdrawn(
                f"this worker does not serve the model for {math.ceil(left / 60)} more minutes: {rest.reason}",
                field="model_id",
            )

    @property
    def withdrawn(self) -> frozenset[bytes]:
        """The models that are not offered now."""
        now = self._clock()
        return frozenset(model_id for model_id, rest in list(self._rests.items()) if now < rest.until)
