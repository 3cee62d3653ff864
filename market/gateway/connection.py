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

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from market.errors import CapacityError, HeadersTooLarge, InvalidRequest, MarketError
from market.gateway.http10 import UntilClosed
from market.gateway.problems import problem_response, response_bytes

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
# Of a request's line and headers together, and of what follows a body in chunks: the parser joins the pieces of each
# value anew with every segment, so that one endless header would keep the event loop from everybody else.
MAX_HEAD_BYTES = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,5})\r\n", re.IGNORECASE)
_FRAMED_OTHERWISE = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade):", re.IGNORECASE)
# Most libraries send a body in a segment of its own. A small one is waited for, since it is on its way; after a while
# uvicorn has what is there, and the client its usual time.
_AWAITED_SECONDS = 0.05
# Whoever takes less than this of an answer in so long is cut off: what waits for a reader lies in memory, and holds one
# of the connections, also one that is to be closed.
UNREAD_SECONDS = 60.0
_LEAST_READ_BYTES = 4_096
# The parser takes 0.9, which has no headers, and 2.0 too, whose clients read no answer that is written like 1.1's.
_VERSIONS = frozenset({"1.0", "1.1"})
# Whoever sends one of these wants more than the short way offers.
_LEFT_TO_UVICORN = frozenset({"transfer-encoding", "expect", "upgrade", "content-encoding", "origin"})


def _last_words(error: MarketError, status: int | None = None) -> bytes:
    """Write the refusal of what reaches no route; the connection ends with it."""
    return response_bytes(problem_response(error, status=status), b"connection: close\r\n")


_FULL = _last_words(
    CapacityError(
        "the gateway holds as many connections as it takes.", remedy="Close connections that rest, or try again later."
    )
)
_LATE = _last_words(
    InvalidRequest("the request was not complete in time.", field="request", remedy="Send it at once."), 408
)
_GARBLED = _last_words(
    InvalidRequest(
        "this is no request of HTTP/1.1.",
        field="request",
        remedy="Send HTTP/1.1, or https:// where the gateway's address says so, with one Content-Length or chunks.",
    )
)
_OTHER_VERSION = _last_words(
    InvalidRequest(
        "this gateway speaks HTTP/1.1 and HTTP/1.0, and no other version over a plain connection.",
        field="request",
        remedy="Send the request as HTTP/1.1; gRPC has a port of its own.",
    ),
    505,
)
_CODED = _last_words(
    InvalidRequest(
        "the body is sent in a transfer coding that this gateway does not read.",
        field="Transfer-Encoding",
        remedy="Send it in chunks alone, or with Content-Length; Content-Encoding may say gzip or deflate.",
    ),
    501,
)
_NO_WEBSOCKET = _last_words(
    InvalidRequest(
        "this asks for a WebSocket in a way that cannot be read.",
        field="Upgrade",
        remedy="Send a GET without a body, with fewer and shorter headers.",
    )
)
_LARGE_HEAD = _last_words(HeadersTooLarge(f"the headers are larger than {MAX_HEAD_BYTES} bytes.", field="headers"))


class _HeadTooLargeError(Exception):
    """Tells the parser to stop."""


class _OtherVersionError(Exception):
    """Tells the parser to stop."""


class _TransferCodedError(Exception):
    """Tells the parser to stop."""


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
        self._head_bytes = 0
        self._unread_bytes = 0
        self._declining = False
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client, unless there are too many; it must send a request soon."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        limits = self._limits
        held = len(self.connections)
        if held > limits.most or (held > limits.most_by_address and self._of_this_address() > limits.most_by_address):
            self._close(_FULL)
            return
        self._must_arrive(limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._has_arrived()
        self._take_part()
        for timer in (self._resting, self._unread):
            if timer is not None:
                timer.cancel()
        self._resting = self._unread = None
        super().connection_lost(exc)

    def _close(self, words: bytes = b"") -> None:
        """Close once what was written is read, or is not for long."""
        if words:
            self.transport.write(words)
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        if self._unread is None:
            left = self.transport.get_write_buffer_size()
            self._unread = self.loop.call_later(UNREAD_SECONDS, self._look_at_reader, left)

    def _look_at_reader(self, before: int) -> None:
        self._unread = None
        if not (self.flow.write_paused or self.transport.is_closing()):
            return
        if before - self.transport.get_write_buffer_size() < _LEAST_READ_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def pause_writing(self) -> None:
        """More waits for the client than it takes at once."""
        super().pause_writing()
        self._watch_reader()

    def on_response_complete(self) -> None:
        """An answer of uvicorn is written, and the connection perhaps closed behind it."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """The connection has rested long enough."""
        self._close()

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
        self._close(_LATE if self.cycle is None or self.cycle.response_complete else b"")

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
            self._parse(data)
            return
        self._has_arrived()
        self._unset_keepalive_if_required()
        self._busy = True
        task = self.loop.create_task(self._answer(request, data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _parse(self, data: bytes) -> None:
        """Go uvicorn's way."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse_on(data)
            too_large = self._unread_bytes > MAX_HEAD_BYTES
        except httptools.HttpParserError as error:
            too_large = isinstance(error.__context__, _HeadTooLargeError)
            if isinstance(error.__context__, _TransferCodedError):
                self._end(_CODED)
            elif isinstance(error.__context__, _OtherVersionError):
                self._end(_OTHER_VERSION)
            elif not too_large:
                self.logger.warning("Invalid HTTP request received.")
                self._end(_GARBLED)
        if too_large:
            self._end(_LARGE_HEAD)

    def _parse_on(self, data: bytes) -> bytes:
        """Give the parser bytes; returns those that must be parsed next."""
        self._unread_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            elif self._declining:
                # Java's client asks for HTTP/2 with every first request; the parser takes what follows the headers for
                # the other protocol's. So it reads the request again as one that asks for nothing.
                self._declining = False
                line = b"%s %s HTTP/%s\r\n" % (
                    self.parser.get_method(),
                    self.url,
                    self.parser.get_http_version().encode(),
                )
                kept = b"".join(b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                return b"".join((line, kept, b"\r\n", data[upgrade.args[0] :]))
        return b""

    def _end(self, words: bytes) -> None:
        """Say why and close; an answer that has begun is cut off instead."""
        cycle = self.cycle
        begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if cycle is not None:
            # The application must not write behind this.
            cycle.disconnected = True
            cycle.message_event.set()
        self._close(b"" if begun else words)

    def _should_upgrade(self) -> bool:
        """Tell whether a WebSocket begins: by a GET, for which its own protocol would wait for ever."""
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    async def _answer(self, request: WholeRequest, data: bytes) -> None:
        response = await self._short_way.answer(request, self._common_lines(), self._peer)
        self._busy = False
        if self.parser is None or self.transport.is_closing():
            return
        if response is None:
            self._parse(data)
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
        if self._closing:
            self._close(response)
            return
        self.transport.write(response)
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
        self._head_bytes = 0
        if self._arriving is None:
            self._must_arrive(self._limits.header_seconds)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or one that follows a body; blanks behind a value are no part of it."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLargeError
        value = value.rstrip(b" \t")
        if name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
            # The parser takes what ends in chunks: a body of gzip would be read as if it were none.
            raise _TransferCodedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its headers are there; the body has its own time."""
        if self.parser.get_http_version() not in _VERSIONS:
            raise _OtherVersionError
        self._unread_bytes = 0
        self._must_arrive(self._limits.body_seconds)
        self._declining = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()
        )
        if not self._declining:
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0" and self.cycle is not None:
                self.cycle.send = UntilClosed(self.cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        self._unread_bytes = 0
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the WebSocket's own protocol and limits."""
        self._has_arrived()
        super().handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        if not protocol.handshake_initiated:
            # A body, or more headers than it reads: it would say nothing, and keep the connection for ever.
            self._close(_NO_WEBSOCKET)

    def on_message_complete(self) -> None:
        """It is complete."""
        self._unread_bytes = 0
        if self._declining:
            return  # it comes again
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
