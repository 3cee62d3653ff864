"""Ends runs of a graph for which nobody waits any more: onnxruntime stops between two nodes, not within one.

One thread of the process looks twenty times a second, and rests while nothing runs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from workers.models.runtime import RunOptions

LOOK_SECONDS = 0.05
# So long it goes on looking after the last run, as waking it costs more than a look.
_LINGER_SECONDS = 2.0


class Watch:
    """The runs under way that have an end, and when that is."""

    def __init__(self) -> None:
        self._running: dict[RunOptions, float] = {}
        self._rests = True
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def run(self, until: float) -> Iterator[RunOptions | None]:
        """Yield the options of a run that ends at `until`, seconds of `time.monotonic()`; None where that is never.

        If it was ended, its options say `terminate`.
        """
        if until == math.inf:
            yield None
            return
        options = RunOptions()
        self._running[options] = until
        if self._rests:
            self._begin()
        try:
            yield options
        finally:
            del self._running[options]

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self._thread.start()
        self._wake.set()

    def _look(self) -> None:
        busy_at = time.monotonic()
        while True:
            now = time.monotonic()
            for options, until in list(self._running.items()):
                busy_at = now
                if now >= until:
                    options.terminate = True
            if now - busy_at > _LINGER_SECONDS:
                self._rests = True
                if not self._running:  # one that began before it rests has not woken it
                    self._wake.wait()
                self._wake.clear()
                self._rests, busy_at = False, time.monotonic()
            time.sleep(LOOK_SECONDS)


WATCH = Watch()
