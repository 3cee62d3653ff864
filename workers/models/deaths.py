"""Counts how often models' processes end unasked: a model that does so again and again is no longer offered."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

import structlog

from workers import telemetry
from workers.errors import ModelWithdrawn

MOST_DEATHS = 3
WITHIN_SECONDS = 600.0

log = structlog.get_logger(__name__)


class Deaths:
    """Of all models of one worker; written by the thread that serves, read by that which announces."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: defaultdict[bytes, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_DEATHS))
        self._withdrawn: dict[bytes, str] = {}

    def note(self, model_id: bytes, cause: str, detail: str, *, counts: bool = True) -> None:
        """Note a death, and count it against the model."""
        telemetry.MODEL_ENDS.labels(cause).inc()
        log.warning("model-process-ended", model=model_id.hex(), cause=cause, detail=detail)
        if counts:
            self.count(model_id, detail)

    def count(self, model_id: bytes, detail: str) -> None:
        """Count a death: the third within ten minutes takes the model out of offer until the worker starts again."""
        seen, now = self._seen[model_id], self._clock()
        seen.append(now)
        if len(seen) == MOST_DEATHS and now - seen[0] <= WITHIN_SECONDS and model_id not in self._withdrawn:
            reason = f"its process ended {MOST_DEATHS} times within {WITHIN_SECONDS / 60:.0f} minutes; last: {detail}"
            self._withdrawn[model_id] = reason
            telemetry.WITHDRAWN_MODELS.set(len(self._withdrawn))
            log.error("model-withdrawn", model=model_id.hex(), reason=reason)

    def check(self, model_id: bytes) -> None:
        """Refuse a model that was taken out of offer.

        Raises:
            ModelWithdrawn: says why.
        """
        reason = self._withdrawn.get(model_id)
        if reason is not None:
            raise ModelWithdrawn(f"this worker no longer serves the model: {reason}", field="model_id")

    @property
    def withdrawn(self) -> frozenset[bytes]:
        """The models that are no longer offered."""
        return frozenset(self._withdrawn)
