"""Carries work from the event loop to one thread that takes whatever waits, all at once and without a timer.

The cost of a transaction (above all its flush to the disk) is shared by everything that arrived during the last one.
What one turn of the loop brings is handed over together: the first item would else be a transaction of its own.
While the thread is idle, `at_once` may do the work in the loop itself, where waking a thread would cost more than it.
Used by the database ledger, once for writing and once for reading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import structlog

from contracts.futures import resolve

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Batch(Generic[Item, Outcome]):
    """Items handed over together; `done` is called in `loop` with an outcome for each."""

    items: list[Item]
    done: Callable[[Sequence[Outcome | BaseException]], None]
    loop: asyncio.AbstractEventLoop


class GroupThread(Generic[Item, Outcome]):
    """One thread and its queue; `handle` gets a group and returns one outcome or exception an item, in order."""

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Item]], Sequence[Outcome | BaseException]],
        *,
        max_group: int = 1024,
        at_once: Callable[[list[Item]], Sequence[Outcome | BaseException] | None] | None = None,
    ) -> None:
        self._handle = handle
        self._at_once = at_once
        # What went to the thread, and what it is done with.
        self._sent = self._served = 0
        self._sending = threading.Lock()
        self._max_group = max_group
        self._queue: SimpleQueue[_Batch[Item, Outcome] | Callable[[], object] | None] = SimpleQueue()
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

    def put(self, items: list[Item], done: Callable[[Sequence[Outcome | BaseException]], None]) -> None:
        """Hand items over at once; `done` is called in this event loop with their outcomes, in order."""
        self._pass(_Batch(items, done, asyncio.get_running_loop()))

    def do(self, action: Callable[[], object]) -> None:
        """Let the thread do something else when it comes to it; until then nothing is done at once."""
        self._send(action)

    def close(self) -> None:
        """Finish what waits and end the thread."""
        self._at_once = None
        for loop in list(self._fresh):
            self._hand_over(loop)
        self._queue.put(None)
        self._thread.join()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        fresh = self._fresh.pop(loop, None)
        if fresh:
            futures = [future for _, future in fresh]
            self._pass(_Batch([item for item, _ in fresh], lambda outcomes: _deliver(futures, outcomes), loop))

    def _pass(self, batch: _Batch[Item, Outcome]) -> None:
        if self._at_once is not None and self._sent == self._served:
            outcomes = self._at_once(batch.items)
            if outcomes is not None:
                batch.loop.call_soon(batch.done, outcomes)
                return
        self._send(batch)

    def _send(self, entry: _Batch[Item, Outcome] | Callable[[], object]) -> None:
        with self._sending:
            self._sent += 1
        self._queue.put(entry)

    def _work(self) -> None:
        closing = False
        while not closing:
            entry = self._queue.get()
            batches: list[_Batch[Item, Outcome]] = []
            action: Callable[[], object] | None = None
            size = 0
            while True:
                if entry is None:
                    closing = True
                elif isinstance(entry, _Batch):
                    batches.append(entry)
                    size += len(entry.items)
                else:
                    action = entry
                if size >= self._max_group or action is not None:
                    break
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
            self._serve(batches)
            if action is not None:
                try:
                    action()
                except Exception:
                    log.exception("action-failed", thread=self._thread.name)
                self._served += 1

    def _serve(self, batches: list[_Batch[Item, Outcome]]) -> None:
        items = [item for batch in batches for item in batch.items]
        outcomes: list[Outcome | BaseException] = []
        for start in range(0, len(items), self._max_group):
            outcomes += self._try(items[start : start + self._max_group])
        at = 0
        for batch in batches:
            part = outcomes[at : at + len(batch.items)]
            at += len(batch.items)
            self._served += 1
            if not batch.loop.is_closed():
                batch.loop.call_soon_threadsafe(batch.done, part)

    def _try(self, items: list[Item]) -> Sequence[Outcome | BaseException]:
        try:
            return self._handle(items)
        except BaseException as error:  # handed to every caller, who would otherwise wait for ever
            return [error] * len(items)


def _deliver(futures: Sequence[asyncio.Future[Outcome]], outcomes: Sequence[Outcome | BaseException]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        resolve(future, outcome)
