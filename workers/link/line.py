"""One connection to the node's own broker for the path of every pack: commands sent together, answers read in order.

Unlike redis-py's client it never sends a command again by itself: what moved a reply or queued a job may have been
carried out although its answer was lost, and whoever asked must know that. Called by `workers.link.bridge`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import redis
import redis.asyncio

from contracts.futures import resolve
from contracts.redis_wire import Command, Wire, connect

CONNECT_SECONDS = 5.0


class Line:
    """A connection that is made when first needed, and anew after a failure; callers take turns."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool = client.connection_pool
        self._wire: Wire | None = None
        self._turn = asyncio.Lock()

    async def call(self, *commands: Command, seconds: float) -> list[Any]:
        """Return the broker's answers in order, within so many seconds.

        Raises:
            RedisError | OSError: one is an error, or there is none; what was sent may have been carried out.
        """
        async with self._turn:
            wire = self._wire
            if wire is None or not wire.is_open:
                wire = self._wire = await connect(self._pool, seconds=CONNECT_SECONDS)
            future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            wire.send_all(commands, partial(resolve, future), seconds)
            try:
                answers = await future
            except BaseException:
                # Its answers may still come, and must not be taken for the next commands'.
                wire.fail(redis.ConnectionError("Given up."))
                raise
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise answer
        return answers

    async def together(self, *commands: Command, seconds: float) -> list[Any]:
        """Have all of them carried out, or none; returns the answers.

        Raises:
            RedisError | OSError: one is an error, or there is no answer; they may have been carried out.
        """
        *_, done = await self.call(("MULTI",), *commands, ("EXEC",), seconds=seconds)
        for one in done:
            if isinstance(one, redis.RedisError):
                raise one
        return list(done)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.fail(redis.ConnectionError("Closed."))
