"""What goes on beside the requests of a process, and must have ended before the process may.

Called by the use case, its short lane, the x402 door and the reservations in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Unfinished:
    """Tasks, and groups that the ledger or Redis has, which must end before the process may."""

    def __init__(self) -> None:
        self._open = 0
        self._quiet: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """Note that a group was handed over."""
        self._open += 1

    def end(self) -> None:
        """Note that what became of one was told."""
        self._open -= 1
        if self._quiet is not None and not self._open:
            self._quiet.set()

    def spawn(self, work: Coroutine[object, object, _T], /) -> asyncio.Task[_T]:
        """Let something go on, whoever stops waiting for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Wait until nothing is left."""
        while self._tasks or self._open:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._open:
                self._quiet = asyncio.Event()
                await self._quiet.wait()
