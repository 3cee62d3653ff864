"""One HTTP/1.1 connection: uvicorn's own protocol, with a short way for inference requests that arrive whole.

A small model's request is a few hundred bytes in one segment; scope, events and messages of ASGI would cost more than
the model. Decides only which way a request goes: whatever is not a plain, complete `POST …/infer` is left to uvicorn
untouched, and both ways end in the same `respond`. It also shows slow clients out: a request's headers and body must
have arrived after a while, whichever route they are for, and one address holds no more than its share of connections.
Called by the server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# More than this is no small model's request.
MAX_SHORT_BYTES = 32_768
_START = b"POST /v2/models/"
_END = b"\r\n\r\n"
_VERSION = " HTTP/1.1"
_PATH = re.compile(r"/v2/models/[\w./:~-]+/infer", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# A control character, a line break that is not a line's end, or a blank before one: uvicorn's parser keeps that blank
# or drops it, by where the segments happen to end.
_UNCLEAR = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n| (?=\r|\Z)")
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,5})\r\n", re.IGNORECASE)
_FRAMED_OTHERWISE = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade):", re.IGNORECASE)
# Most libraries send a body in a segment of its own. A small one is waited for, since it is on its way; after a while
# uvicorn has what is there, and the client its usual time.
_AWAITED_SECONDS = 0.05
# Whoever sends one of these wants more than the short way offers.
_LEFT_TO_UVICORN = frozenset({"transfer-encoding", "expect", "upgrade", "content-encoding", "origin"})


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client may take of the connections; `most` is for all clients together, WebSocket links beside it."""

    header_seconds: float
    body_seconds: float
    most: int
    most_by_address: int


class WholeRequest(NamedTuple):
    """A complete request; header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class ShortWay(Protocol):
    """Who answers a whole inference request."""

    def begin(self, data: bytes, peer: str, common: Callable[[], bytes], done: Callable[[bytes], None]) -> bool:
        """Take a request that may be one; `done` is called with the whole response in a later turn of the loop.

        `common` gives header lines that go into each. False if `answer` or the application must see it.
        """
        ...

    async def answer(self, request: WholeRequest, common: bytes, peer: str) -> bytes | None:
        """Return the whole HTTP response, `common` being header lines that go into each; None if it is not theirs.

        `peer` is the address that the connection comes from.
        """
        ...


def read_whole(data: bytes) -> WholeRequest | None:
    """Read one complete inference request; None for everything that is not plainly one.

    Strict, since two readers of one connection must never disagree where a request ends: one Content-Length and no
    other framing, no header twice, no folded lines, nothing after the body.
    """
    if not data.startswith(_START):
        return None
    end = data.find(_END)
    if end < 0:
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    first = lines[0]
    path = first[5 : -len(_VERSION)]
    if not first.endswith(_VERSION) or _PATH.fullmatch(path) is None:
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name in headers or _TOKEN.fullmatch(name) is None:
            return None
        headers[name] = value.lstrip(" ")
    length = headers.get("content-length", "")
    if (
        not (length.isascii() and length.isdecimal() and len(length) <= 9)
        or int(length) != len(data) - end - len(_END)
        or headers.get("connection", "keep-alive").lower() != "keep-alive"
        or not _LEFT_TO_UVICORN.isdisjoint(headers)
        or _UNCLEAR.search(data, 0, end) is not None
    ):
        return None
    return WholeRequest(path, headers, data[end + len(_END) :])


def body_to_come(data: bytes) -> int:
    """Return how long a small inference request will be whose headers alone, to their end, are here; 0 for all else."""
    if not data.startswith(_START):
        return 0
    length = _LENGTH.search(data)
    if length is None or data.find(_END) + len(_END) != len(data) or _FRAMED_OTHERWISE.search(data) is not None:
        return 0
    size = int(length[1])
    return len(data) + size if size and len(data) + size <= MAX_SHORT_BYTES else 0


class Connection(HttpToolsProtocol):
    """uvicorn's protocol; `short_way` sees the whole inference requests first."""

    def __init__(self, short_way: ShortWay, limits: ConnectionLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._short_way = short_way
        self._limits = limits
        self._arriving: asyncio.TimerHandle | None = None
        self._inside = False
        self._busy = False
        self._closing = False
        self._peer = ""
        self._held: list[bytes] = []
        self._part = b""
        self._whole_bytes = 0
        self._awaited: asyncio.TimerHandle | None = None
        self._common: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self._rests_since = 0.0
        self._resting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client, unless there are too many; it must send a request soon."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        limits = self._limits
        held = len(self.connections)
        if held > limits.most or (held > limits.most_by_address and self._of_this_address() > limits.most_by_address):
            transport.write(_FULL)
            transport.close()
            return
        self._must_arrive(limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._has_arrived()
        self._take_part()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connection_lost(exc)

    def _of_this_address(self) -> int:
        clients = [getattr(other, "client", None) for other in self.connections]
        return sum(bool(client and self.client and client[0] == self.client[0]) for client in clients)

    def _must_arrive(self, seconds: float) -> None:
        self._has_arrived()
        self._arriving = self.loop.call_later(seconds, self._too_late, seconds)

    def _has_arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_late(self, seconds: float) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            # It is we who do not read; the client has all its time once we do.
            self._must_arrive(seconds)
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_LATE)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._busy:
            # Sent before the answer came: it waits its turn, and the client is not read on.
            self._held.append(data)
            self.flow.pause_reading()
            return
        if self._part:
            if len(self._part) + len(data) < self._whole_bytes:
                self._part += data
                return
            data = self._take_part() + data
        idle = self._is_idle()
        if idle and data.endswith(_END) and (whole_bytes := body_to_come(data)):
            self._unset_keepalive_if_required()
            self._part, self._whole_bytes = data, whole_bytes
            self._awaited = self.loop.call_later(_AWAITED_SECONDS, self._await_no_more)
            return
        self._serve(data, idle)

    def _take_part(self) -> bytes:
        """Return what is here of a request, which is waited for no more."""
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None
        part, self._part = self._part, b""
        return part

    def _await_no_more(self) -> None:
        self._serve(self._take_part(), idle=True)

    def _serve(self, data: bytes, idle: bool) -> None:
        if idle and self._short_way.begin(data, self._peer, self._common_lines, self._done):
            self._has_arrived()
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            self._busy = True
            return
        request = read_whole(data) if idle else None
        if request is None:
            if idle and self._arriving is None:
                # From the first byte, be it an empty line before the request.
                self._must_arrive(self._limits.header_seconds)
            super().data_received(data)
            return
        self._has_arrived()
        self._unset_keepalive_if_required()
        self._busy = True
        task = self.loop.create_task(self._answer(request, data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, request: WholeRequest, data: bytes) -> None:
        response = await self._short_way.answer(request, self._common_lines(), self._peer)
        self._busy = False
        if self.parser is None or self.transport.is_closing():
            return
        if response is None:
            super().data_received(data)
        else:
            self._write(response)
        await self._afterwards()

    def _done(self, response: bytes) -> None:
        """Answer the request under way."""
        self._busy = False
        if self.parser is None or self.transport.is_closing():
            return
        self._write(response)
        if self._held or self.flow.write_paused:
            task = self.loop.create_task(self._afterwards())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _write(self, response: bytes) -> None:
        self.transport.write(response)
        if self._closing:
            self.transport.close()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        # One timer for as long as a client goes on asking this way, not one for each of its requests.
        self._rests_since = self.loop.time()
        if self._resting is None:
            self._resting = self.loop.call_later(self.timeout_keep_alive, self._rested)

    def _rested(self) -> None:
        self._resting = None
        arriving = self._busy or self._part or self._arriving is not None
        if arriving or self.timeout_keep_alive_task is not None or not self._is_idle():
            return  # other timers see to it, or the answer will set this one again
        left = self._rests_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._resting = self.loop.call_later(left, self._rested)
        else:
            self.timeout_keep_alive_handler()

    def _is_idle(self) -> bool:
        """Tell whether uvicorn has no request of this client."""
        return not self._inside and (self.cycle is None or self.cycle.response_complete)

    async def _afterwards(self) -> None:
        """Wait for a client that does not read what it asked for, then see to what it sent ahead."""
        if self.flow.write_paused:
            self.flow.pause_reading()
            await self.flow.drain()
            self.flow.resume_reading()
        if self._held and not self.transport.is_closing():
            held, self._held = b"".join(self._held), []
            self.flow.resume_reading()
            self.data_received(held)

    def _common_lines(self) -> bytes:
        """Write the headers of every response, such as the date, once a second."""
        headers = self.server_state.default_headers
        if self._common[0] is not headers:
            self._common = (headers, b"".join(b"%s: %s\r\n" % pair for pair in headers))
        return self._common[1]

    def on_message_begin(self) -> None:
        """A request begins that goes uvicorn's way."""
        self._inside = True
        if self._arriving is None:
            self._must_arrive(self._limits.header_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are there; the body has its own time."""
        self._must_arrive(self._limits.body_seconds)
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the WebSocket's own protocol and limits."""
        self._has_arrived()
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        """It is complete."""
        self._inside = False
        self._has_arrived()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Close once the answer under way is sent."""
        if self._part:
            self._await_no_more()
        if self._busy:
            self._closing = True
        else:
            super().shutdown()
