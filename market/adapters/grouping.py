"""Carries work from the event loop to one thread that takes whatever waits, all at once and without a timer.

The cost of a transaction (above all its flush to the disk) is shared by everything that arrived during the last one.
What one turn of the loop brings is handed over together: the first item would else be a transaction of its own.
Used by the database ledger, once for writing and once for reading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class GroupThread(Generic[Item, Outcome]):
    """One thread and its queue; `handle` gets a group and returns one outcome or exception an item, in order."""

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Item]], Sequence[Outcome | BaseException]],
        *,
        max_group: int = 1024,
    ) -> None:
        self._handle = handle
        self._max_group = max_group
        self._queue: SimpleQueue[list[tuple[Item, asyncio.Future[Outcome]]] | None] = SimpleQueue()
        self._fresh: dict[asyncio.AbstractEventLoop, list[tuple[Item, asyncio.Future[Outcome]]]] = {}
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, item: Item) -> Outcome:
        """Hand an item over and wait for its outcome; the item is processed even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        fresh = self._fresh.get(loop)
        if fresh is None:
            self._fresh[loop] = fresh = []
            loop.call_soon(self._hand_over, loop)
        fresh.append((item, future))
        return await future

    def close(self) -> None:
        """Finish what waits and end the thread."""
        for loop in list(self._fresh):
            self._hand_over(loop)
        self._queue.put(None)
        self._thread.join()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        fresh = self._fresh.pop(loop, None)
        if fresh:
            self._queue.put(fresh)

    def _work(self) -> None:
        closing = False
        while not closing:
            entry = self._queue.get()
            group: list[tuple[Item, asyncio.Future[Outcome]]] = []
            while True:
                if entry is None:
                    closing = True
                else:
                    group += entry
                if len(group) >= self._max_group:
                    break
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
            for start in range(0, len(group), self._max_group):
                self._serve(group[start : start + self._max_group])

    def _serve(self, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: Sequence[Outcome | BaseException]
        try:
            outcomes = self._handle([item for item, _ in group])
        except BaseException as error:  # handed to every caller, who would otherwise wait for ever
            outcomes = [error] * len(group)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Outcome], Outcome | BaseException]]] = {}
        for (_, future), outcome in zip(group, outcomes, strict=True):
            by_loop.setdefault(future.get_loop(), []).append((future, outcome))
        for loop, pairs in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, pairs)


def _deliver(pairs: list[tuple[asyncio.Future[Outcome], Outcome | BaseException]]) -> None:
    for future, outcome in pairs:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
