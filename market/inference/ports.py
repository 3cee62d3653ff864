"""What the one-request use case needs from outside: a lane to the workers, and the papers that ride along.

The lane may lose, repeat or delay anything; the use case holds every answer against the worker's signature. The HTTP
gateway never sees these ports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from contracts.protocol.messages import Job, Papers, Result


class WorkerGone(Exception):
    """The worker stopped giving signs of life; caught by the use case, which asks another."""


class Dispatcher(Protocol):
    """A lane that carries jobs to workers and brings back results; the Celery lane is one."""

    @property
    def reply_to(self) -> str:
        """Where a worker's results must go to reach this process."""
        ...

    async def run(
        self,
        job: Job,
        worker: bytes,
        on_partial: Callable[[Result], None] | None = None,
        *,
        long: bool = False,
        client: bytes | None = None,
    ) -> Result:
        """Deliver a job and wait for its result, at most until `job.deadline_at`; outputs are always inline.

        Partial results of this attempt reach `on_partial` in their order, all before this returns; without it they are
        dropped. A `long` job keeps no other waiting while it runs. Clients take turns where jobs wait; `client` is who
        asks, the channel's payer if None.

        Raises:
            DeadlineExceeded: no result in time; a later one is dropped.
            WorkerGone: the worker stopped giving signs of life.
            Overloaded: too much already waits for this worker.
            RequestInProgress: the same attempt of the same request is under way.
            RedisUnreachable: the lane is cut.
        """
        ...

    async def stop(self, job: Job, tokens: int) -> None:
        """Ask the worker to end a streamed job after `tokens` of its tokens; its final result still comes.

        Raises:
            RedisUnreachable: the lane is cut.
        """
        ...


class PaperSource(Protocol):
    """Where a lane finds the papers that the next message to a worker should carry."""

    def take(self, worker: bytes) -> Papers | None:
        """Return and forget the papers waiting for a worker; None if there are none."""
        ...

    def take_due(self, worker: bytes) -> Papers | None:
        """Do the same if they are many, or have waited for a moment; else None."""
        ...

    def put_back(self, worker: bytes, papers: Papers) -> None:
        """Keep papers again that could not be sent."""
        ...

    def waiting(self) -> list[bytes]:
        """Name the workers for which papers wait."""
        ...
