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
StreamHandler = Callable[[Job, Callable[[Result], None], Callable[[], int | None]], Awaitable[Result]]


class MemoryDispatcher:
    """Implements `market.inference.ports.Dispatcher`; a worker without a handler is gone.

    A stream handler is also given where partial results go, and what tells after which token to stop.
    """

    def __init__(self) -> None:
        self.handlers: dict[bytes, Handler] = {}
        self.stream_handlers: dict[bytes, StreamHandler] = {}
        self.jobs: list[tuple[bytes, Job]] = []
        self.stops: dict[tuple[bytes, str], int] = {}

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        return "reply:memory"

    async def run(
        self,
        job: Job,
        worker: bytes,
        on_partial: Callable[[Result], None] | None = None,
        *,
        long: bool = False,
        client: bytes | None = None,
    ) -> Result:
        """See `Dispatcher.run`."""
        del long, client  # nothing waits here
        self.jobs.append((worker, job))
        handler, streams = self.handlers.get(worker), self.stream_handlers.get(worker)
        if handler is None and streams is None:
            raise WorkerGone
        try:
            async with asyncio.timeout(max(0.0, job.deadline_at - time.time())):
                if streams is not None and job.stream:
                    key = (job.request_id, job.attempt)
                    return await streams(job, on_partial or (lambda _: None), lambda: self.stops.get(key))
                assert handler is not None, "this worker only streams"
                return await handler(job)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        self.stops[job.request_id, job.attempt] = tokens
