"""Lets the event loop commit a small group itself, as long as that takes it little of its time.

Waking a thread, and its waiting for the interpreter lock at every statement, cost several times what SQLite's commit on
a quick disk does. A slow disk, another writer or much to write make the thread the better place: while it is at one
group the next ones come together. Used by the ledger, for SQLite alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Engine

from market.adapters.database.direct import ThreadsConnection, WriterBusy

Outcome = TypeVar("Outcome")

# Of the loop's time, what commits may take in the long run, and how much of it at a stretch.
SHARE = 0.5
STRETCH_SECONDS = 0.02
# The loop must not be held up by one large group.
MOST_ITEMS = 64
# A moving mean above this says that the disk is slow; the thread has the work for so long, then it is tried again.
SLOW_SECONDS = 0.003
REST_SECONDS = 1.0
_WEIGHT = 0.1


class AtOnce:
    """The loop's own connection, and its purse of seconds."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._way = ThreadsConnection(engine, waits=False)
        self._clock = clock
        self._seen = clock()
        self._left = STRETCH_SECONDS
        self._mean = 0.0
        self._rests_until = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._way.close()

    def run(
        self, work: Callable[[ThreadsConnection], Sequence[Outcome | BaseException]], items: int
    ) -> Sequence[Outcome | BaseException] | None:
        """Do the work of a group of `items` on a connection that waits for nobody; None: it was not done."""
        started = self._clock()
        self._left = min(STRETCH_SECONDS, self._left + (started - self._seen) * SHARE)
        self._seen = started
        if self._left <= 0 or items > MOST_ITEMS or started < self._rests_until:
            return None
        try:
            return work(self._way)
        except WriterBusy:
            return None
        except Exception as error:  # handed to every caller, who would otherwise wait for ever
            return [error] * items
        finally:
            spent = self._clock() - started
            self._left -= spent
            self._mean += _WEIGHT * (spent - self._mean)
            if self._mean > SLOW_SECONDS:
                self._rests_until, self._mean = started + spent + REST_SECONDS, SLOW_SECONDS / 2
