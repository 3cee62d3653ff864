"""One Redis connection for the path of every request: a command at a time, without a client's bookkeeping.

redis-py's client spends more on a command (pool, retries, a task to bound each write) than Redis does on it; its
connection, which knows addresses, passwords and TLS, is used as it is. A command is sent again only where a connection
that was open turns out to be closed. Used by the own lane, one line for sending and one for its listener.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from market.adapters.redis_client import COMMAND_TIMEOUT_SECONDS


class RedisLine:
    """A connection that is made when first needed, and anew after a failure; callers take turns."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def call(self, *command: bytes | str | int, seconds: float = COMMAND_TIMEOUT_SECONDS) -> Any:
        """Return Redis' answer to one command, within so many seconds.

        Raises:
            RedisError | OSError | TimeoutError: there is none, or it is an error.
        """
        async with self._turn:
            if self._connection is not None:
                try:
                    return await self._call(command, seconds)
                except ConnectionLost:
                    # It was closed while nothing was asked, by a restart of Redis, say.
                    pass
            return await self._call(command, seconds)

    async def _call(self, command: tuple[bytes | str | int, ...], seconds: float) -> Any:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        try:
            async with asyncio.timeout(seconds):
                await connection.send_packed_command(connection.pack_command(*command), check_health=False)
                return await connection.read_response(timeout=math.inf)
        except BaseException:
            # Its answer may still come, and must not be taken for the next command's.
            self._connection = None
            await connection.disconnect(nowait=True)
            raise

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
