"""A lane without a queue, for unit tests: jobs go straight to a function per worker, results straight back.

Keeps the promises of `market.inference.ports.Dispatcher` on deadlines and silence; never used to serve.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from contracts.protocol.messages import Job, Result
from market.errors import DeadlineExceeded
from market.inference.ports import WorkerGone

Handler = Callable[[Job], Awaitable[Result]]


class MemoryDispatcher:
    """Implements `market.inference.ports.Dispatcher`; a worker without a handler is gone."""

    def __init__(self) -> None:
        self.handlers: dict[bytes, Handler] = {}
        self.jobs: list[tuple[bytes, Job]] = []

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        return "reply:memory"

    async def run(self, job: Job, worker: bytes) -> Result:
        """See `Dispatcher.run`."""
        self.jobs.append((worker, job))
        handler = self.handlers.get(worker)
        if handler is None:
            raise WorkerGone
        try:
            async with asyncio.timeout(max(0.0, job.deadline_at - time.time())):
                return await handler(job)
        except TimeoutError:
            raise DeadlineExceeded from None
