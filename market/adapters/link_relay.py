"""Lets the processes of one gateway share their links: which worker is linked to which of them, and messages between.

A node's link ends at one process. That one says so in Redis, for a few seconds at a time, with the worker's newest sign
of life; the others send what they have for the worker to its list, and get the results on theirs. The process that a
node linked to last counts. Lists begin with `relay:`, where no worker's broker user may write. Decides nothing about
jobs: see `market.adapters.link_dispatch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgpack
import structlog

from contracts.futures import end_all, rest
from contracts.protocol.errors import MessageError
from contracts.protocol.messages import Announcement, decode_announcement, encode_announcement
from market.adapters.link_hub import CLOSE_REPLACED, LinkHub
from market.adapters.redis_client import open_redis, reachable
from market.errors import RedisUnreachable

HOME_SECONDS = 3
POLL_SECONDS = 0.5
LISTEN_SECONDS = 4
LIST_SECONDS = 120
MESSAGES_AT_ONCE = 256

# KEYS: a worker's home, the set of linked workers. ARGV: this process, its announcement, life in ms, whether the link
# is new, the worker. Takes the home, or renews it, unless a newer link is another's; answers whose it is.
_HOLD = """
local held = redis.call('GET', KEYS[1])
local holder = held and string.match(held, '^[^\\n]*')
if holder and holder ~= ARGV[1] and ARGV[4] == '0' then return holder end
redis.call('SET', KEYS[1], ARGV[1] .. '\\n' .. ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[5])
return ARGV[1]
"""
# KEYS: a worker's home. ARGV: this process.
_LEAVE = """
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^[^\\n]*') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

log = structlog.get_logger(__name__)


class RelayReader(Protocol):
    """Who is told what other processes send, and where workers have moved."""

    def on_relayed(self, sender: str, kind: int, worker: bytes, payload: bytes) -> None:
        """Take a message of another process.

        Raises:
            MessageError: malformed.
        """
        ...

    def on_moved(self, worker: bytes) -> None:
        """Take note that a worker's link is now elsewhere, or nowhere."""
        ...


class LinkRelay:
    """One process's part; `start` inside the event loop, `close` at the end."""

    def __init__(self, redis_url: str, *, gateway: bytes, process_id: str, hub: LinkHub) -> None:
        self._redis = open_redis(redis_url)
        self._listening = open_redis(redis_url, max_connections=2)
        self._hold = self._redis.register_script(_HOLD)
        self._leave = self._redis.register_script(_LEAVE)
        self._process = process_id
        self._prefix = f"relay:home:{gateway.hex()}:"
        self._linked = f"relay:linked:{gateway.hex()}"
        self._hub = hub
        self._reader: RelayReader | None = None
        self._homes: dict[bytes, tuple[str, Announcement | None]] = {}
        self._claimed: dict[bytes, object] = {}
        self._outgoing: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._stirred = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def join(self, reader: RelayReader) -> None:
        """Say who is told; called once, before `start`."""
        self._reader = reader

    def start(self) -> None:
        """Begin to share."""
        loop = asyncio.get_running_loop()
        for work in (self._forever(self._share), self._forever(self._listen), self._forever(self._write)):
            self._tasks.append(loop.create_task(work))

    async def close(self) -> None:
        """Give up the homes here and drop the connections."""
        await end_all(self._tasks)
        with suppress(RedisUnreachable), reachable():
            for worker in self._claimed:
                await self._leave(keys=[self._prefix + worker.hex()], args=[self._process])
        await self._redis.aclose()
        await self._listening.aclose()

    def home(self, worker: bytes) -> str | None:
        """Return the other process that a worker is linked to; None if there is none, or it is this one."""
        found = self._homes.get(worker)
        return None if found is None or self._hub.has(worker) else found[0]

    def announcements(self) -> Sequence[Announcement]:
        """Return the signs of life of workers that are linked to other processes."""
        return [one for worker, (_, one) in self._homes.items() if one is not None and not self._hub.has(worker)]

    def stir(self) -> None:
        """Tell the others at once of a link that has just come."""
        self._stirred.set()

    async def send(self, process: str, kind: int, worker: bytes, payload: bytes) -> None:
        """Send a message to another process.

        Raises:
            RedisUnreachable: it was not sent.
        """
        await self._push(process, [self._message(kind, worker, payload)])

    def post(self, process: str, kind: int, worker: bytes, payload: bytes) -> None:
        """Send a message after those before it, soon; it is lost if Redis is away."""
        self._outgoing.put_nowait((process, self._message(kind, worker, payload)))

    def _message(self, kind: int, worker: bytes, payload: bytes) -> bytes:
        packed: bytes = msgpack.packb((self._process, int(kind), worker, payload))
        return packed

    # --- loops -------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                with reachable():
                    await work()
            except RedisUnreachable as error:
                log.warning("relay-disconnected", code=error.code)
                await asyncio.sleep(POLL_SECONDS)
            except Exception:  # one bad message or a fault with one link must not end the sharing of all
                log.exception("relay-fault")
                await asyncio.sleep(POLL_SECONDS)

    async def _share(self) -> None:
        await self._publish()
        await self._look()
        await rest(self._stirred, POLL_SECONDS)

    async def _publish(self) -> None:
        fresh = {one.worker: encode_announcement(one) for one in await self._hub.read()}
        sessions = self._hub.sessions()
        here = {session.worker for session in sessions}
        self._claimed = {worker: link for worker, link in self._claimed.items() if worker in here}
        for session in sessions:
            worker, connection = session.worker, session.connection
            is_new = connection is not None and self._claimed.get(worker) is not connection
            holder = await self._hold(
                keys=[self._prefix + worker.hex(), self._linked],
                args=[self._process, fresh.get(worker, b""), HOME_SECONDS * 1_000, int(is_new), worker],
            )
            if is_new:
                self._claimed[worker] = connection
            if holder != self._process.encode() and self._hub.session(worker) is session:
                self._homes[worker] = (holder.decode(), session.announcement)
                self._claimed.pop(worker, None)
                self._hub.end(session, CLOSE_REPLACED, "linked to another process")

    async def _look(self) -> None:
        workers = [member for member in await self._redis.smembers(self._linked) if isinstance(member, bytes)]
        values = await self._redis.mget([self._prefix + worker.hex() for worker in workers]) if workers else []
        found: dict[bytes, tuple[str, Announcement | None]] = {}
        for worker, value in zip(workers, values, strict=True):
            if value is None:
                await self._redis.srem(self._linked, worker)
                continue
            process, _, told = _plain(value).partition(b"\n")
            if process != self._process.encode():
                found[worker] = (process.decode(), _read(told, worker))
        before, self._homes = self._homes, found
        for worker in before.keys() | found.keys():
            was, now = before.get(worker), found.get(worker)
            if (was and was[0]) != (now and now[0]):
                assert self._reader is not None, "join first"
                self._reader.on_moved(worker)

    async def _listen(self) -> None:
        name = _list_of(self._process)
        first = await self._listening.blpop([name], timeout=LISTEN_SECONDS)
        if first is None:
            return
        more = await self._listening.lpop(name, MESSAGES_AT_ONCE)
        for data in (first[1], *(more if isinstance(more, list) else ())):
            try:
                sender, kind, worker, payload = msgpack.unpackb(data)
                assert self._reader is not None, "join first"
                self._reader.on_relayed(sender, kind, worker, payload)
            except (MessageError, ValueError, TypeError) as error:
                log.warning("unreadable-relayed-message", error=type(error).__name__)

    async def _write(self) -> None:
        process, data = await self._outgoing.get()
        ready = {process: [data]}
        while not self._outgoing.empty():
            process, data = self._outgoing.get_nowait()
            ready.setdefault(process, []).append(data)
        for receiver, messages in ready.items():
            await self._push(receiver, messages)

    async def _push(self, process: str, messages: Sequence[bytes]) -> None:
        with reachable():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.rpush(_list_of(process), *messages)
                # The list of a process that is gone is nobody's.
                pipe.expire(_list_of(process), LIST_SECONDS)
                await pipe.execute()


def _list_of(process: str) -> str:
    return f"relay:to:{process}"


def _read(data: bytes, worker: bytes) -> Announcement | None:
    if not data:
        return None
    try:
        found = decode_announcement(data)
    except MessageError:
        return None
    return found if found.worker == worker else None


def _plain(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
