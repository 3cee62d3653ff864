"""The node's one connection to a gateway: opened outwards, proven both ways, opened again when it is cut.

Sends what the workers answer until the gateway acknowledged it and takes jobs once. It trusts the gateway with nothing
but its own jobs: those the worker checks. Called by `workers.link.node`.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import redis
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from contracts.futures import end_all
from contracts.protocol.errors import MessageError
from contracts.protocol.hexes import checksum
from contracts.protocol.link import (
    HANDSHAKE_SECONDS,
    LINK_PATH,
    PING_SECONDS,
    PING_TIMEOUT_SECONDS,
    Ephemeral,
    Hello,
    Keys,
    check_welcome,
    decode_challenge,
    derive_keys,
    make_hello,
    new_nonce,
)
from contracts.protocol.link_contents import Bye, Renewal, Stop
from contracts.protocol.link_frames import (
    MAX_FRAME_BYTES,
    Frame,
    Inbox,
    Kind,
    LinkRefused,
    Outbox,
    Seal,
    decode_frame,
    encode_frame,
)
from contracts.protocol.messages import REPLY_TTL_SECONDS
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain, WorkerSession
from workers import telemetry
from workers.link.bridge import Bridge

SESSION_SECONDS = 3_600
FIRST_DELAY_SECONDS = 0.1
TAKEN_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 15.0
HEALTHY_SECONDS = 5.0
ANNOUNCE_SECONDS = 1.0
BROKER_RETRY_SECONDS = 0.2
ACK_SECONDS = 0.02
# What the gateway has is forgotten by many at once, and not while a job waits for it.
FORGET_SECONDS = 0.02
FRAME_OVERHEAD_BYTES = 256
# Beyond what a gateway does not acknowledge no replies are taken out of the broker, where large ones run out.
MAX_UNACKNOWLEDGED_BYTES = 256 << 20
FULL_SECONDS = 0.2
# A gateway that closes with these will do so again at once.
CLOSED_FOR_GOOD_REASON = range(4_401, 4_500)

log = structlog.get_logger(__name__)


class GatewayLink:
    """One gateway's link; `run` keeps it up until cancelled."""

    def __init__(
        self, url: str, *, gateway: bytes, key: PrivateKey, domain: Domain, bridge: Bridge, window: int
    ) -> None:
        scheme, _, rest = url.partition("://")
        self._url = f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{LINK_PATH}"
        self._gateway = gateway
        self._key = key
        self._domain = domain
        self._bridge = bridge
        self._window = window
        # Lives in this process alone; the worker's own key signs how long it counts.
        self._session_key = PrivateKey.generate()
        self._session = b""
        self._outbox, self._inbox = Outbox(), Inbox()
        self._results: deque[int] = deque()
        self._queue: asyncio.Queue[Frame] | None = None
        self._linked = asyncio.Event()
        self._pumping = asyncio.Lock()
        self._delivered = asyncio.Event()
        self._forgetting = asyncio.Lock()
        self._leaving = False
        self._acknowledged = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self.connections = 0

    async def run(self) -> None:
        """Keep the link up; returns only by being cancelled."""
        works = [asyncio.create_task(self._pump()), asyncio.create_task(self._forget())]
        delay = FIRST_DELAY_SECONDS
        try:
            while True:
                started, before = time.monotonic(), self.connections
                persistent = False
                try:
                    await self._once()
                except ConnectionClosed as error:
                    code = error.rcvd.code if error.rcvd is not None else 1_006
                    persistent = code in CLOSED_FOR_GOOD_REASON
                    reason = error.rcvd.reason if error.rcvd is not None else "cut"
                    log.warning("link-closed", gateway=self._url, close=code, reason=reason)
                except (OSError, TimeoutError, InvalidHandshake) as error:
                    log.warning("gateway-not-reached", gateway=self._url, error=str(error) or type(error).__name__)
                except MessageError as error:
                    persistent = True
                    log.warning("link-refused-here", gateway=self._url, detail=str(error))
                if time.monotonic() - started > HEALTHY_SECONDS:
                    delay = FIRST_DELAY_SECONDS
                delay = max(delay, 1.0) if persistent else delay
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - nodes must not come all at once
                # A gateway that takes the link is worth calling again soon, whatever cuts it.
                taken = self.connections > before and not persistent
                delay = min(2 * delay, TAKEN_DELAY_SECONDS if taken else LONGEST_DELAY_SECONDS)
        finally:
            await end_all(works)

    async def linked(self) -> None:
        """Wait until the gateway has taken the link."""
        await self._linked.wait()

    def leave(self) -> None:
        """Offer nothing more; what is in hand goes on."""
        self._leaving = True
        self._send(Frame(Kind.BYE, 0, 0, 0, Bye("leaving", "the node is shutting down").to_bytes()))

    def unacknowledged(self) -> int:
        """Return how many replies the gateway has not acknowledged."""
        return len(self._results)

    # --- one connection ----------------------------------------------------------------------------------------

    async def _once(self) -> None:
        async with connect(
            self._url,
            max_size=MAX_FRAME_BYTES + FRAME_OVERHEAD_BYTES,
            compression=None,
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=2,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
        ) as socket:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                keys = await self._greet(socket)
            self.connections += 1
            queue: asyncio.Queue[Frame] = asyncio.Queue()
            for frame in self._outbox.unacknowledged(time.time()):
                queue.put_nowait(frame)
            self._queue = queue
            self._linked.set()
            telemetry.LINKED.set(1)
            works = [
                asyncio.create_task(self._read(socket, Seal(keys.from_gateway))),
                asyncio.create_task(self._write(socket, Seal(keys.from_node), queue)),
                asyncio.create_task(self._announce()),
                asyncio.create_task(self._renew()),
            ]
            try:
                done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._queue = None
                self._linked.clear()
                telemetry.LINKED.set(0)
                await end_all(works)
            for work in done:
                work.result()

    async def _greet(self, socket: ClientConnection) -> Keys:
        said = await _receive(socket)
        challenge = decode_challenge(said)
        if challenge.gateway != self._gateway:
            raise LinkRefused(f"{checksum(challenge.gateway)} answers, not {checksum(self._gateway)}.", field="gateway")
        if (challenge.chain_id, challenge.escrow) != (self._domain.chain_id, self._domain.escrow):
            raise LinkRefused("the gateway settles on another escrow or chain.", field="escrow")
        ephemeral = Ephemeral()
        expiry, signature = self._signed_session()
        hello = Hello(
            worker=self._key.address,
            session_key=self._session_key.address,
            expiry=expiry,
            session_signature=signature,
            nonce=new_nonce(),
            public=ephemeral.public,
            resume=self._session,
            received=self._inbox.received if self._session else 0,
            window=self._window,
        )
        answer = make_hello(hello, said, self._gateway, self._session_key, self._domain)
        await socket.send(answer)
        welcome, transcript = check_welcome(
            await _receive(socket), said, answer, self._key.address, self._gateway, self._domain
        )
        keys = derive_keys(ephemeral.shared(challenge.public), transcript)
        if not welcome.resumed:
            await self._begin_anew()
        elif welcome.session != self._session:
            raise LinkRefused("another session is resumed than was asked for.", field="session")
        self._session = welcome.session
        self._take_acknowledgement(welcome.received)
        log.info("linked", gateway=self._url, resumed=welcome.resumed)
        return keys

    async def _begin_anew(self) -> None:
        """Number what the gateway did not acknowledge from one again, for a session that knows nothing of it."""
        async with self._pumping, self._forgetting:
            self._outbox, self._inbox, self._results = Outbox(), Inbox(), deque()
            self._acknowledged = 0
            for reply in await self._bridge.again():
                self._put(reply)

    def _signed_session(self) -> tuple[int, bytes]:
        expiry = int(time.time()) + SESSION_SECONDS
        session = WorkerSession(self._key.address, self._session_key.address, expiry)
        return expiry, self._key.sign_digest(session.digest(self._domain))

    async def _write(self, socket: ClientConnection, seal: Seal, queue: asyncio.Queue[Frame]) -> None:
        while True:
            frame = await queue.get()
            self._acknowledged = ack = self._inbox.received
            body = encode_frame(Frame(frame.kind, frame.seq, ack, frame.flags, frame.payload))
            await socket.send(seal.close(body))

    async def _read(self, socket: ClientConnection, seal: Seal) -> None:
        while True:
            frame = decode_frame(seal.open(await _receive(socket)))
            self._take_acknowledgement(frame.ack)
            if not frame.seq:
                continue
            message = self._inbox.take(frame)
            if message is not None:
                await self._deliver(frame.kind, message)
            self._acknowledge()

    async def _deliver(self, kind: int, message: bytes) -> None:
        match kind:
            case Kind.PACK:
                await _until_done(lambda: self._bridge.forward(message))
            case Kind.PAPERS:
                await _until_done(lambda: self._bridge.file_papers(message))
            case Kind.STOP:
                stop = Stop.from_bytes(message)
                await _until_done(lambda: self._bridge.stop(stop))
            case _:
                raise LinkRefused(f"a numbered frame of kind {kind}.", field="kind")

    def _acknowledge(self) -> None:
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._ack_now)

    def _ack_now(self) -> None:
        self._ack_timer = None
        if self._acknowledged < self._inbox.received:
            self._send(Frame(Kind.ACK, 0, 0, 0, b""))

    def _take_acknowledgement(self, upto: int) -> None:
        self._outbox.ack(upto)
        if self._results and self._results[0] <= upto:
            self._delivered.set()

    async def _forget(self) -> None:
        """Have the broker forget the replies that the gateway has, for as long as the node lives."""
        while True:
            await self._delivered.wait()
            await asyncio.sleep(FORGET_SECONDS)
            self._delivered.clear()
            try:
                async with self._forgetting:
                    count = bisect_right(self._results, self._outbox.acknowledged)
                    await self._bridge.acknowledged(count)
                    for _ in range(count):
                        self._results.popleft()
            except (redis.RedisError, OSError) as error:
                self._delivered.set()
                log.warning("broker-away", error=type(error).__name__)
                await asyncio.sleep(BROKER_RETRY_SECONDS)

    def _send(self, frame: Frame) -> None:
        if self._queue is not None:
            self._queue.put_nowait(frame)

    # --- what goes out by itself -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Take the workers' replies out of the broker, for as long as a gateway listens."""
        broken = False
        while True:
            await self._linked.wait()
            if self._outbox.size > MAX_UNACKNOWLEDGED_BYTES:
                await asyncio.sleep(FULL_SECONDS)
                continue
            try:
                async with self._pumping:
                    replies = await self._bridge.resync() if broken else []
                    broken = False
                    if not replies:
                        reply = await self._bridge.next_results()
                        replies = [] if reply is None else [reply]
                    for frame in [frame for reply in replies for frame in self._put(reply)]:
                        self._send(frame)
            except (redis.RedisError, OSError) as error:
                broken = True
                log.warning("broker-away", error=type(error).__name__)
                await asyncio.sleep(BROKER_RETRY_SECONDS)

    def _put(self, reply: bytes) -> list[Frame]:
        frames = self._outbox.put(Kind.RESULTS, reply, time.time() + REPLY_TTL_SECONDS)
        self._results.append(self._outbox.last)
        return frames

    async def _announce(self) -> None:
        told = b""
        while True:
            if not self._leaving:
                with suppress(redis.RedisError, OSError):
                    found = await self._bridge.announcement()
                    if found is not None and found != told:
                        told = found
                        self._send(Frame(Kind.ANNOUNCE, 0, 0, 0, found))
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(SESSION_SECONDS / 2)
            expiry, signature = self._signed_session()
            self._send(Frame(Kind.RENEW, 0, 0, 0, Renewal(expiry, signature).to_bytes()))


async def _receive(socket: ClientConnection) -> bytes:
    data = await socket.recv(decode=False)
    return data if isinstance(data, bytes) else bytes(data)


async def _until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Do it, again and again while the node's own broker is away; nothing more is read from the gateway meanwhile."""
    while True:
        try:
            return await work()
        except (redis.RedisError, OSError) as error:
            log.warning("broker-away", error=type(error).__name__)
            await asyncio.sleep(BROKER_RETRY_SECONDS)
