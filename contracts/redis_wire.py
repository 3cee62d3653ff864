"""An open Redis connection driven by call-backs, and how one is made as redis-py's client would make it.

redis-py's client spends more on a command (pool, retries, tasks and futures) than Redis does on it; here it only says
where and as whom to connect. Commands may be sent before earlier ones are answered; none is ever sent again from here.
Used by the gateway's own lane and by a node's link.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import hiredis
import structlog
from redis.asyncio import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from contracts.futures import resolve

log = structlog.get_logger(__name__)

Command = tuple[bytes | str | int | float, ...]
# Redis' answer, or why there is none.
Answered = Callable[[Any], None]


class Wire(asyncio.Protocol):
    """An open connection; answers come in the order of commands."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._replies = hiredis.Reader(replyError=ResponseError)
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

    def send_all(self, commands: Sequence[Command], answered: Answered, seconds: float) -> None:
        """Write several commands at once; `answered` is called with their answers in order, or with an exception.

        A command that Redis refuses has its ResponseError among the answers.
        """
        answers: list[Any] = []

        def last(answer: Any) -> None:
            # Refusals are answers; whatever else came instead of one ends them all.
            failed = isinstance(answer, Exception) and not isinstance(answer, ResponseError)
            answered(answer if failed else [*answers, answer])

        until = self._loop.time() + seconds
        self._waiting.extend([(answers.append, until)] * (len(commands) - 1))
        self._waiting.append((last, until))
        if self._watch is None:
            self._watch = self._loop.call_later(seconds, self._look)
        self._transport.write(b"".join([hiredis.pack_command(one) for one in commands]))  # type: ignore[arg-type]

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
                self._tell(answered, reply)
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


async def connect(pool: ConnectionPool, *, seconds: float) -> Wire:
    """Make a connection as a client's pool would, within so many seconds for each step.

    Raises:
        RedisError | OSError | TimeoutError: it cannot be made, or is not let in.
    """
    said: Any = pool.make_connection()  # type: ignore[no-untyped-call]
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        if isinstance(said, UnixDomainSocketConnection):
            _, wire = await loop.create_unix_connection(Wire, said.path)
        else:
            context = said.ssl_context.get() if isinstance(said, SSLConnection) else None
            _, wire = await loop.create_connection(Wire, said.host, said.port, ssl=context)
    try:
        if said.username or said.password:
            user = (said.username,) if said.username else ()
            await ask(wire, ("AUTH", *user, said.password or ""), seconds)
        if said.db:
            await ask(wire, ("SELECT", said.db), seconds)
    except BaseException:
        wire.fail(ConnectionLost("Not let in."))
        raise
    return wire


async def ask(wire: Wire, command: Command, seconds: float) -> Any:
    """Return Redis' answer to one command.

    Raises:
        RedisError | OSError | TimeoutError: there is none, or it is an error.
    """
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    wire.send(command, partial(resolve, future), seconds)
    return await future
