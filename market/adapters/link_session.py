"""One linked worker at this gateway: what was sent, what came, and the connection it has just now, if any.

A session outlives its connections: what was not acknowledged when one was cut goes out again on the next. It must never
send without its tag, and never keep more than the window's packs. Called by `market.adapters.link_hub`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from contracts.protocol.link import Keys
from contracts.protocol.link_frames import Frame, Inbox, Kind, Outbox, Seal, encode_frame
from contracts.protocol.messages import Announcement, Papers

ACK_SECONDS = 0.02
ACK_AT_ONCE = 16


class ChannelClosed(Exception):
    """The connection has ended."""


class Channel(Protocol):
    """A connection that carries whole binary messages, such as a WebSocket."""

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            ChannelClosed: there will be none.
        """
        ...

    async def send(self, data: bytes) -> None:
        """Send a message; waits while the other side does not read.

        Raises:
            ChannelClosed: it cannot be sent.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """End the connection, saying why."""
        ...


class Connection:
    """One connection after its handshake: a writer of its own, acknowledgements that wait a moment for a frame."""

    def __init__(self, channel: Channel, keys: Keys, inbox: Inbox) -> None:
        self.channel = channel
        self.opener = Seal(keys.from_node)
        self._closer = Seal(keys.from_gateway)
        self._inbox = inbox
        self._queue: asyncio.Queue[Frame] = asyncio.Queue()
        # The node hears with the first frame what has come, even of an earlier connection.
        self._acknowledged = -1
        self._ack_timer: asyncio.TimerHandle | None = None
        # Why it is to end, as the first to decide so said it: whoever closes it tells the node that.
        self.verdict: tuple[int, str] | None = None
        self._writer = asyncio.get_running_loop().create_task(self._write())

    def send(self, frame: Frame) -> None:
        """Queue a frame."""
        self._queue.put_nowait(frame)

    def acknowledge(self) -> None:
        """See that what has come is acknowledged soon, with the next frame or alone."""
        if self._inbox.received - self._acknowledged >= ACK_AT_ONCE:
            self._ack_now()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._ack_now)

    def _ack_now(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._acknowledged < self._inbox.received and self._queue.empty():
            self.send(Frame(Kind.ACK, 0, 0, 0, b""))

    async def end(self, code: int, reason: str) -> None:
        """Stop writing and close, with the verdict if there is one."""
        code, reason = self.verdict or (code, reason)
        self._writer.cancel()
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        with suppress(asyncio.CancelledError, ChannelClosed):
            await self._writer
        with suppress(ChannelClosed):
            await self.channel.close(code, reason)

    async def _write(self) -> None:
        with suppress(ChannelClosed):
            while True:
                frame = await self._queue.get()
                self._acknowledged = ack = self._inbox.received
                body = encode_frame(Frame(frame.kind, frame.seq, ack, frame.flags, frame.payload))
                await self.channel.send(self._closer.close(body))


class LinkSession:
    """See the module; `name` is what the node resumes it by, `expiry` when its key must be renewed."""

    def __init__(self, worker: bytes, name: bytes, session_key: bytes, expiry: int, window: int) -> None:
        self.worker = worker
        self.name = name
        self.session_key = session_key
        self.expiry = expiry
        self.window = window
        self.outbox = Outbox()
        self.inbox = Inbox()
        self.connection: Connection | None = None
        self.cut_at = 0.0
        self.announcement: Announcement | None = None
        self.announced_at = 0.0
        self.jobs_sent = 0
        self.strange = 0.0
        self._papers: dict[int, Papers] = {}

    def send(self, kind: Kind, payload: bytes, expires_at: float, papers: Papers | None = None) -> None:
        """Send a message now, or when the node is back."""
        frames = self.outbox.put(kind, payload, expires_at)
        if papers is not None:
            self._papers[self.outbox.last] = papers
        if self.connection is not None:
            for frame in frames:
                self.connection.send(frame)

    def acknowledged(self, upto: int) -> None:
        """Forget what has arrived.

        Raises:
            LinkRefused: a number that was never sent.
        """
        self.outbox.ack(upto)
        for seq in [seq for seq in self._papers if seq <= upto]:
            del self._papers[seq]

    def lost_papers(self) -> list[Papers]:
        """Return the papers of which nobody knows whether they arrived."""
        papers, self._papers = list(self._papers.values()), {}
        return papers

    def attach(self, connection: Connection, now: float) -> Connection | None:
        """Go on with this connection, sending again what was not acknowledged; returns the one it replaces."""
        replaced, self.connection = self.connection, connection
        for frame in self.outbox.unacknowledged(now):
            connection.send(frame)
        return replaced

    def detach(self, connection: Connection, clock: Callable[[], float]) -> None:
        """Take note that a connection ended."""
        if self.connection is connection:
            self.connection = None
            self.cut_at = clock()
