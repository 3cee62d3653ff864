"""How a worker of the own lane ends: it offers nothing more, serves what it was sent, and stops when nothing is left.

The first SIGTERM or SIGINT begins this; the second one, or the end of the time for it, stops Celery after the message
in hand, and what else waits goes to other workers. Called by `worker run`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog

# A gateway reads the offers each second; what it sends until then is served.
SETTLE_SECONDS = 2.5
LOOK_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger(__name__)


def wait_until_idle(
    has_work: Callable[[], bool],
    seconds: float,
    *,
    settle_seconds: float = SETTLE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until the offers are forgotten and no work is left, at most `seconds`; tells whether that came about."""
    began = clock()
    while (now := clock()) - began < seconds:
        if now - began >= settle_seconds and not has_work():
            return True
        sleep(LOOK_SECONDS)
    return not has_work()


class Drain:
    """Stands between the signals that end a worker and Celery's own handlers of them."""

    def __init__(self, *, announce_nothing: Callable[[], None], has_work: Callable[[], bool], seconds: float) -> None:
        self._announce_nothing = announce_nothing
        self._has_work = has_work
        self._seconds = seconds
        self._celerys: dict[int, Any] = {}
        self._began_at: float | None = None
        self._over = False

    def install(self) -> None:
        """Take the signals over; call it in the main thread, after Celery set its handlers."""
        for number in _SIGNALS:
            self._celerys[number] = signal.signal(number, self._on_signal)

    def seconds_left(self) -> float:
        """Return how much of the time for ending is left, at least one second."""
        spent = 0.0 if self._began_at is None else time.monotonic() - self._began_at
        return max(1.0, self._seconds - spent)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._began_at is None:
            self._began_at = time.monotonic()
            threading.Thread(target=self._run, name="drain", daemon=True).start()
            return
        for known in _SIGNALS:
            signal.signal(known, self._celerys[known])
        self._over = True
        self._celerys[number](number, frame)

    def _run(self) -> None:
        log.info("worker-drains", at_most_seconds=self._seconds)
        self._announce_nothing()
        idle = wait_until_idle(self._has_work, self._seconds)
        if not self._over:
            os.kill(os.getpid(), signal.SIGTERM)
        log.info("worker-drained" if idle else "worker-stops-with-work-left")
