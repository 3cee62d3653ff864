"""One Redis connection for the path of every request, by call-backs and without a client's bookkeeping.

redis-py's client spends more on a command (pool, retries, tasks and futures) than Redis does on it; here it only says
where and as whom to connect. Commands may be sent before earlier ones are answered. A command that is awaited is sent
again only where a connection that was open turns out to be closed. Used by the own lane, one line for sending and one
for its listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import hiredis
import structlog
from redis.asyncio import Redis, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from market.adapters.futures import resolve
from market.adapters.redis_client import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS

log = structlog.get_logger(__name__)

Command = tuple[bytes | str | int | float, ...]
# Redis' answer, or why there is none.
Answered = Callable[[Any], None]


class _Wire(asyncio.Protocol):
    """An open connection; answers come in the order of commands."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._replies = hiredis.Reader()
        self._waiting: deque[tuple[Answered, float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self.is_open = True
        self._transport: asyncio.Transport

    def send(self, command: Command, answered: Answered, seconds: float) -> None:
        """Write one command; `answered` is called once, later, with Redis' answer or an exception."""
        self._waiting.append((answered, self._loop.time() + seconds))
        if self._watch is None:
            self._watch = self._loop.call_later(seconds, self._look)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub takes one word only

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the open transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio's
        with contextlib.suppress(OSError, AttributeError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Hand answers to who waits for them."""
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    continue
                if not self._waiting:
                    raise hiredis.ProtocolError("an answer to no command")
                answered, _ = self._waiting.popleft()
                self._tell(answered, ResponseError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)
        except hiredis.ProtocolError as error:
            self.fail(ConnectionLost(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody."""
        self.fail(ConnectionLost("Connection closed by server." if exc is None else str(exc)))

    def fail(self, error: Exception) -> None:
        """Close, and tell who waits why: an answer may still come, and must not be taken for another command's."""
        self.is_open = False
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        for answered, _ in waiting:
            self._tell(answered, error)

    @staticmethod
    def _tell(answered: Answered, outcome: Any) -> None:
        try:
            answered(outcome)
        except Exception:  # one caller's trouble is not that of those behind it
            log.exception("redis-answer-not-taken")

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][1] - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self.fail(TimeoutError("Redis does not answer."))


class RedisLine:
    """A connection that is made when first needed, and anew after a failure."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._wire: _Wire | None = None
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

    async def open(self) -> bool:
        """Make the connection unless there is one, within two seconds; tells whether there was.

        Raises:
            RedisError | OSError | TimeoutError: it cannot be made.
        """
        async with self._opening:
            if self._wire is not None and self._wire.is_open:
                return True
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                self._wire = await self._connect()
            return False

    async def _connect(self) -> _Wire:
        said: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        loop = asyncio.get_running_loop()
        if isinstance(said, UnixDomainSocketConnection):
            _, wire = await loop.create_unix_connection(_Wire, said.path)
        else:
            context = said.ssl_context.get() if isinstance(said, SSLConnection) else None
            _, wire = await loop.create_connection(_Wire, said.host, said.port, ssl=context)
        try:
            if said.username or said.password:
                user = (said.username,) if said.username else ()
                await _ask(wire, ("AUTH", *user, said.password or ""))
            if said.db:
                await _ask(wire, ("SELECT", said.db))
        except BaseException:
            wire.fail(ConnectionLost("Not let in."))
            raise
        return wire

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
        return await _ask(wire, command, seconds)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.fail(ConnectionLost("Closed."))


async def _ask(wire: _Wire, command: Command, seconds: float = COMMAND_TIMEOUT_SECONDS) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    wire.send(command, partial(resolve, future), seconds)
    return await future
