"""One Redis connection for the path of every request, by call-backs and without a client's bookkeeping.

A command that is awaited is sent again only where a connection that was open turns out to be closed. Used by the own
lane, one line for sending and one for its listener, and for reservations that processes share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from contracts.redis_wire import Answered, Command, Wire, ask, connect
from market.adapters.redis_client import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS


class RedisLine:
    """A connection that is made when first needed, and anew after a failure."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    def send(self, command: Command, answered: Answered, seconds: float = COMMAND_TIMEOUT_SECONDS) -> bool:
        """Send a command now if the connection is open; else False, and nothing was sent.

        `answered` is called once, later, with Redis' answer or with the RedisError, OSError or TimeoutError that came
        instead of it.
        """
        wire = self._wire
        if wire is None or not wire.is_open:
            return False
        wire.send(command, answered, seconds)
        return True

    def send_all(
        self, commands: Sequence[Command], answered: Answered, seconds: float = COMMAND_TIMEOUT_SECONDS
    ) -> bool:
        """Send commands together now if the connection is open; else False, and nothing was sent.

        `answered` is called once, later, with all answers in order, a ResponseError for what Redis refuses, or with
        the RedisError, OSError or TimeoutError that came instead.
        """
        wire = self._wire
        if wire is None or not wire.is_open:
            return False
        wire.send_all(commands, answered, seconds)
        return True

    async def open(self) -> bool:
        """Make the connection unless there is one, within two seconds; tells whether there was.

        Raises:
            RedisError | OSError | TimeoutError: it cannot be made.
        """
        async with self._opening:
            if self._wire is not None and self._wire.is_open:
                return True
            self._wire = await connect(self._pool, seconds=CONNECT_TIMEOUT_SECONDS)
            return False

    async def call(self, *command: bytes | str | int, seconds: float = COMMAND_TIMEOUT_SECONDS) -> Any:
        """Return Redis' answer to one command, within so many seconds once there is a connection.

        Raises:
            RedisError | OSError | TimeoutError: there is none, or it is an error.
        """
        was_open = await self.open()
        try:
            return await self._call(command, seconds)
        except ConnectionLost:
            if not was_open:
                raise
            # It was closed while nothing was asked, by a restart of Redis, say.
            await self.open()
            return await self._call(command, seconds)

    async def _call(self, command: Command, seconds: float) -> Any:
        wire = self._wire
        if wire is None or not wire.is_open:
            raise ConnectionLost("Connection closed by server.")
        return await ask(wire, command, seconds)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.fail(ConnectionLost("Closed."))
