"""One connection to the node's own broker for the path of every pack: commands sent together, answers read in order.

Unlike redis-py's client it never sends a command again by itself: what moved a reply or queued a job may have been
carried out although its answer was lost, and whoever asked must know that. It also spends less on a command; the
library's connection, which knows addresses, passwords and TLS, is used as it is. Called by `workers.link.bridge`.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import redis
import redis.asyncio

Command = tuple[bytes | str | int | float, ...]


class Line:
    """A connection that is made when first needed, and anew after a failure; callers take turns."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def call(self, *commands: Command, seconds: float) -> list[Any]:
        """Return the broker's answers in order, within so many seconds.

        Raises:
            RedisError | OSError: one is an error, or there is none; what was sent may have been carried out.
        """
        async with self._turn:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._open()
            try:
                async with asyncio.timeout(seconds):
                    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                    return [await connection.read_response(timeout=math.inf) for _ in commands]
            except BaseException:
                # Its answers may still come, and must not be taken for the next commands'.
                self._connection = None
                await connection.disconnect(nowait=True)
                raise

    async def together(self, *commands: Command, seconds: float) -> None:
        """Have all of them carried out, or none.

        Raises:
            RedisError | OSError: one is an error, or there is no answer; they may have been carried out.
        """
        *_, done = await self.call(("MULTI",), *commands, ("EXEC",), seconds=seconds)
        for one in done:
            if isinstance(one, redis.RedisError):
                raise one

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _open(self) -> Any:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        # The time of a call is bounded here, once, and not by a task for each write.
        connection.socket_timeout = None
        return connection
