"""The gateway's end of all links: who may open one, what comes in over it, and when it is taken away.

A worker opens a link with its registered key and keeps it as long as its stake and its session last; what it says is
taken for itself alone. Must never hand a frame to anybody before both sides are proven, never wait for one node on
behalf of another, and never keep more than a bound for each. Called by the gateway's WebSocket route and by
`market.adapters.link_dispatch`. Implements `market.registry.offers.Announcements`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog

from contracts.protocol.errors import MessageError
from contracts.protocol.link import (
    HANDSHAKE_SECONDS,
    LINK_VERSION,
    MAX_HELLO_BYTES,
    RESUME_SECONDS,
    Challenge,
    Ephemeral,
    Keys,
    Welcome,
    check_hello,
    check_session,
    derive_keys,
    encode_challenge,
    make_welcome,
    new_nonce,
)
from contracts.protocol.link_contents import Renewal
from contracts.protocol.link_frames import Frame, Kind, LinkRefused, decode_frame
from contracts.protocol.messages import ANNOUNCE_TTL_SECONDS, Announcement, decode_announcement
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from market.adapters.link_bars import Bars, MemoryBars
from market.adapters.link_session import Channel, ChannelClosed, Connection, LinkSession

CLOSE_BROKEN, CLOSE_REFUSED, CLOSE_STANDING = 4400, 4401, 4403
CLOSE_SLOW, CLOSE_REPLACED, CLOSE_EXPIRED, CLOSE_BUSY = 4408, 4409, 4410, 4429
CLOSE_GOING_AWAY = 1001
MAX_REASON_BYTES = 120
MAX_GREETING = 64
# One address must not stand in the door for all.
MAX_GREETING_BY_ADDRESS = 16
# What a node is sent beyond these without acknowledging it, its window many times over, would be kept for it for long.
MAX_UNACKNOWLEDGED = 4_096
MAX_UNACKNOWLEDGED_BYTES = 256 << 20
WATCH_SECONDS = 0.5
ANNOUNCE_AT_MOST_EVERY_SECONDS = 0.5
# All of an announcement is looked through every second, and shown to everybody who asks.
MAX_ANNOUNCED_OFFERS = 256
MAX_PROVIDER_CHARACTERS = 64
# Results that nobody waits for: late ones are as many as jobs, more is an attempt to keep us busy.
STRANGE_RESULTS = 200
PARTIALS_FOR_ONE = 32
BARRED = "this worker's results are not wanted for a while."

log = structlog.get_logger(__name__)


class LinkReader(Protocol):
    """Who sends jobs over the links, and is told what comes of it."""

    def on_results(self, worker: bytes, data: bytes) -> tuple[int, int]:
        """Take a reply of a worker; returns how many of its results, final and partial, nobody waits for.

        Raises:
            MessageError: malformed.
        """
        ...

    def on_fresh(self, worker: bytes) -> None:
        """Take note that a node begins anew and knows nothing of what was sent before."""
        ...

    def on_ended(self, session: LinkSession) -> None:
        """Take note that a session has ended for good."""
        ...


class LinkHub:
    """All links of one gateway process."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        in_standing: Callable[[bytes], bool],
        bars: Bars | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._domain = domain
        self._in_standing = in_standing
        self._clock = clock
        self._wall_clock = wall_clock
        self._sessions: dict[bytes, LinkSession] = {}
        self._bars = MemoryBars(clock) if bars is None else bars
        self._greeting: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        self._reader: LinkReader | None = None

    def join(self, reader: LinkReader) -> None:
        """Say who is told what comes in; called once, before the first link."""
        self._reader = reader

    def session(self, worker: bytes) -> LinkSession | None:
        """Return a worker's session, connected or just cut."""
        return self._sessions.get(worker)

    def sessions(self) -> list[LinkSession]:
        """Return all sessions, connected or just cut."""
        return list(self._sessions.values())

    def has(self, worker: bytes) -> bool:
        """Tell whether a worker is linked."""
        return worker in self._sessions

    def connected(self) -> int:
        """Return how many links have a connection now."""
        return sum(session.connection is not None for session in self._sessions.values())

    async def read(self) -> Sequence[Announcement]:
        """See `Announcements.read`."""
        oldest = self._clock() - ANNOUNCE_TTL_SECONDS
        sessions = self._sessions.values()
        return [one.announcement for one in sessions if one.announcement is not None and one.announced_at >= oldest]

    async def run(self) -> None:
        """Watch standing and lifetimes until cancelled; a worker whose stake leaves is off within a second or two."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                self._watch()
                # Another process may have barred a worker that has just come here.
                for worker in await self._bars.among(self._sessions.keys()):
                    session = self._sessions.get(worker)
                    if session is not None:
                        self.end(session, CLOSE_BUSY, BARRED)
            except Exception:  # a fault with one link must not end the watch over all
                log.exception("links-not-watched")

    async def close(self) -> None:
        """End all links."""
        for session in list(self._sessions.values()):
            self.end(session, CLOSE_GOING_AWAY, "the gateway is shutting down")
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _watch(self) -> None:
        now, wall = self._clock(), self._wall_clock()
        for session in list(self._sessions.values()):
            if not self._in_standing(session.worker):
                self.end(session, CLOSE_STANDING, "the worker's stake no longer stands")
            elif session.expiry <= wall:
                self.end(session, CLOSE_EXPIRED, "the session's key has expired")
            elif session.connection is None and now - session.cut_at > RESUME_SECONDS:
                self.end(session, CLOSE_SLOW, "cut for too long")
            elif len(session.outbox) > MAX_UNACKNOWLEDGED or session.outbox.size > MAX_UNACKNOWLEDGED_BYTES:
                self.end(session, CLOSE_SLOW, "too much is not acknowledged")

    def end(self, session: LinkSession, code: int, reason: str) -> None:
        """End a session for good; whoever waits for its jobs is told."""
        if self._sessions.get(session.worker) is session:
            del self._sessions[session.worker]
        log.info("link-ended", worker=session.worker.hex(), code=code, reason=reason)
        connection, session.connection = session.connection, None
        if connection is not None:
            self._close_later(connection, code, reason)
        if self._reader is not None:
            self._reader.on_ended(session)

    def _close_later(self, connection: Connection, code: int, reason: str) -> None:
        connection.verdict = connection.verdict or (code, reason)
        # Closing waits for the other side, which may not want to.
        task = asyncio.get_running_loop().create_task(connection.end(code, reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- one connection ----------------------------------------------------------------------------------------

    async def serve(self, channel: Channel, peer: str = "") -> None:
        """Serve one connection from its first message to its end."""
        address = peer.rpartition(":")[0]
        if self._greeting.total() >= MAX_GREETING or self._greeting[address] >= MAX_GREETING_BY_ADDRESS:
            await _close(channel, CLOSE_BUSY, "too many at the door")
            return
        self._greeting[address] += 1
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                session, keys = await self._greet(channel)
        except LinkRefused as error:
            log.info("link-refused", peer=peer, code=error.code, detail=str(error))
            await _close(channel, CLOSE_REFUSED, str(error))
            return
        except TimeoutError:
            await _close(channel, CLOSE_SLOW, "no hello in time")
            return
        except ChannelClosed:
            return
        finally:
            self._greeting[address] -= 1
            if not self._greeting[address]:
                del self._greeting[address]
        await self._serve(session, channel, keys)

    async def _greet(self, channel: Channel) -> tuple[LinkSession, Keys]:
        ephemeral = Ephemeral()
        gateway, domain = self._key.address, self._domain
        challenge = encode_challenge(
            Challenge(LINK_VERSION, gateway, domain.chain_id, domain.escrow, new_nonce(), ephemeral.public)
        )
        await channel.send(challenge)
        data = await channel.receive()
        if len(data) > MAX_HELLO_BYTES:
            raise LinkRefused(f"a hello of {len(data)} bytes.", field="hello")
        hello, core = check_hello(data, challenge, gateway, domain, self._wall_clock())
        if not self._in_standing(hello.worker):
            raise LinkRefused("the worker is not registered here, or has too little at stake.", field="worker")
        if await self._bars.among((hello.worker,)):
            raise LinkRefused(BARRED, field="worker")
        shared = ephemeral.shared(hello.public)
        known = self._sessions.get(hello.worker)
        resumed = known is not None and known.name == hello.resume
        if known is not None and resumed:
            session = known
            session.acknowledged(hello.received)
        else:
            session = LinkSession(hello.worker, new_nonce(), hello.session_key, hello.expiry, hello.window)
        welcome = Welcome(session.name, resumed, session.inbox.received, session.window)
        answer, transcript = make_welcome(welcome, challenge, core, hello.worker, self._key, domain)
        await channel.send(answer)
        session.session_key, session.expiry = hello.session_key, hello.expiry
        if not resumed:
            # Looked at again: another connection may have come while the welcome went out.
            known = self._sessions.get(hello.worker)
            self._sessions[hello.worker] = session
            if known is not None:
                self._take_over(known)
            assert self._reader is not None, "join first"
            self._reader.on_fresh(hello.worker)
        elif self._sessions.get(hello.worker) is not session:
            raise LinkRefused("the session has ended.", field="resume")
        log.info("linked", worker=hello.worker.hex(), resumed=resumed)
        return session, derive_keys(shared, transcript)

    def _take_over(self, known: LinkSession) -> None:
        connection, known.connection = known.connection, None
        if connection is not None:
            self._close_later(connection, CLOSE_REPLACED, "another connection took over")
        assert self._reader is not None, "join first"
        self._reader.on_ended(known)

    async def _serve(self, session: LinkSession, channel: Channel, keys: Keys) -> None:
        connection = Connection(channel, keys, session.inbox)
        replaced = session.attach(connection, self._wall_clock())
        if replaced is not None:
            self._close_later(replaced, CLOSE_REPLACED, "another connection took over")
        code, reason = CLOSE_GOING_AWAY, ""
        try:
            while session.connection is connection:
                data = await channel.receive()
                # Another connection may have taken over while this one was read.
                if session.connection is connection:
                    self._take(session, connection, decode_frame(connection.opener.open(data)))
        except ChannelClosed:
            pass
        except MessageError as error:
            log.warning("link-broken", worker=session.worker.hex(), code=error.code, detail=str(error))
            code, reason = CLOSE_BROKEN, str(error)
        finally:
            session.detach(connection, self._clock)
            await connection.end(code, reason)

    def _take(self, session: LinkSession, connection: Connection, frame: Frame) -> None:
        session.acknowledged(frame.ack)
        if frame.seq:
            if frame.kind != Kind.RESULTS:
                raise LinkRefused(f"a numbered frame of kind {frame.kind}.", field="kind")
            message = session.inbox.take(frame)
            connection.acknowledge()
            if message is not None:
                assert self._reader is not None, "join first"
                final, partial = self._reader.on_results(session.worker, message)
                session.strange += final + partial / PARTIALS_FOR_ONE
                if session.strange > STRANGE_RESULTS + 2 * session.jobs_sent:
                    self._bars.bar(session.worker)
                    self.end(session, CLOSE_BUSY, "too many results that nobody asked for")
        elif frame.kind == Kind.ANNOUNCE:
            self._announced(session, frame.payload)
        elif frame.kind == Kind.RENEW:
            renewal = Renewal.from_bytes(frame.payload)
            expiry, signature = renewal.expiry, renewal.signature
            check_session(session.worker, session.session_key, expiry, signature, self._domain, self._wall_clock())
            session.expiry = expiry
        elif frame.kind == Kind.BYE and session.announcement is not None:
            # It lives on to answer what it has in hand, and offers nothing more.
            session.announcement = replace(session.announcement, offers=(), at=self._wall_clock())
        elif frame.kind not in (Kind.ACK, Kind.BYE):
            raise LinkRefused(f"a frame of kind {frame.kind}.", field="kind")

    def _announced(self, session: LinkSession, payload: bytes) -> None:
        now = self._clock()
        if session.announcement is not None and now - session.announced_at < ANNOUNCE_AT_MOST_EVERY_SECONDS:
            return
        announcement = decode_announcement(payload)
        if announcement.worker != session.worker:
            raise LinkRefused("an announcement for another worker.", field="worker")
        for name in ("offers", "manifests", "max_batch"):
            found = len(getattr(announcement, name))
            if found > MAX_ANNOUNCED_OFFERS:
                raise LinkRefused(f"{found} {name}, {MAX_ANNOUNCED_OFFERS} allowed.", field=name)
        if len(announcement.provider) > MAX_PROVIDER_CHARACTERS:
            raise LinkRefused(f"a provider has {MAX_PROVIDER_CHARACTERS} characters at most.", field="provider")
        session.announcement, session.announced_at = announcement, now


async def _close(channel: Channel, code: int, reason: str) -> None:
    with suppress(ChannelClosed):
        await channel.close(code, reason)
