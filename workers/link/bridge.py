"""Between the link and the node's own broker: jobs in as Celery tasks, results out in the order they came.

A job runs once however often it is delivered, and a result stays in the broker until the gateway has it, so that
neither a cut link nor a dead link process loses or repeats work. Never lets a gateway name a key or a list: all names
are made here. Called by `workers.link.connection`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import islice
from typing import Any

import redis.asyncio
import structlog

from contracts.protocol.celery_message import task_message
from contracts.protocol.link_contents import ForwardedPack, ForwardedResults, Stop
from contracts.protocol.link_frames import LinkRefused
from contracts.protocol.messages import (
    ANNOUNCE_KEY_PREFIX,
    INLINE_LIMIT_BYTES,
    REPLY_TTL_SECONDS,
    TASK_FILE_PAPERS,
    TASK_RUN,
    blob_key,
    cancel_key,
    decode_papers,
    reply_key,
    worker_queue,
)
from contracts.redis_wire import Command
from workers.link.line import Line

SEEN_SECONDS = 900
LISTEN_SECONDS = 1
COMMAND_SECONDS = 15.0
MAX_JOBS_IN_HAND = 16_384
# Of inputs; many times what a gateway's packs hold that wait for their answers.
MAX_BYTES_IN_HAND = 1 << 30
# Of messages that the worker has not taken yet, papers among them: many times what an honest gateway has waiting.
MAX_QUEUED_BYTES = 1 << 28
_MESSAGE_BYTES = 256  # that each takes beside its own
GRACE_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Bridge:
    """One gateway's traffic through one node's broker."""

    def __init__(self, redis_url: str, *, worker: bytes, gateway: bytes) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            redis_url, socket_connect_timeout=5, socket_timeout=COMMAND_SECONDS, protocol=2
        )
        self._sending = Line(self._redis)
        # Blocks on its connection, so it has one of its own.
        self._listening = Line(self._redis)
        self._queue = worker_queue(worker)
        self._announced = ANNOUNCE_KEY_PREFIX + worker.hex()
        # Several workers may share a broker of their operator's, and one worker several gateways.
        self._reply_to = reply_key(f"link-{gateway.hex()}-{worker.hex()}")
        self._sent = f"{self._reply_to}:sent"
        # How many replies were ever forgotten, in the broker, and as far as is known here: an answer may be lost.
        self._count = f"{self._reply_to}:count"
        self._forgotten = 0
        self._seen_prefix = f"link:seen:{gateway.hex()}:{worker.hex()}:"
        self._bucket = 0
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        # Whether a pack may lie in the broker although its answer was lost.
        self._doubtful = False
        # The same of replies that were to be forgotten; and how many turned out to be, whom nobody has asked again for.
        self._unsure = False
        self._ahead = 0
        self._settling = asyncio.Lock()
        # Until when, and the size of its inputs.
        self._in_hand: dict[tuple[bytes, str], tuple[float, int]] = {}
        self._bytes_in_hand = 0
        self._large: set[tuple[bytes, str]] = set()
        # The sizes of the newest messages, of which no more wait than the queue is long.
        self._queued: deque[int] = deque()
        self._queued_bytes = 0
        # What was handed out and not yet acknowledged, in the order of the list `sent`: the names of its blobs.
        self._handed_out: deque[list[str]] = deque()
        self.repeated_jobs = 0

    async def recover(self) -> None:
        """Remember what an earlier process of this node had in hand; its unacknowledged results go out again."""
        self._bucket = self._bucket_now()
        self._seen = await self._members(self._bucket)
        self._seen_before = await self._members(self._bucket - 1)
        self._forgotten = await self._forgotten_there()
        while await self._redis.lmove(self._sent, self._reply_to, "RIGHT", "LEFT") is not None:
            pass

    async def close(self) -> None:
        """Drop the connections."""
        await self._sending.close()
        await self._listening.close()
        await self._redis.aclose()

    def in_hand(self) -> int:
        """Return how many jobs have come whose results have not, and may still."""
        now = time.time()
        self._in_hand = {key: held for key, held in self._in_hand.items() if held[0] > now}
        self._bytes_in_hand = sum(size for _, size in self._in_hand.values())
        self._large &= self._in_hand.keys()
        return len(self._in_hand)

    # --- inbound -----------------------------------------------------------------------------------------------

    async def forward(self, data: bytes) -> None:
        """Queue a pack's jobs that are not here yet, and its papers.

        Raises:
            LinkRefused: malformed, or more than a gateway may send.
            redis.RedisError: the broker is away; called again, it queues what was not queued.
        """
        pack = ForwardedPack(data)
        self._turn_buckets()
        if self._doubtful:
            self._seen |= await self._members(self._bucket)
            self._doubtful = False
        names = {(job.request_id, job.attempt): job.request_id + job.attempt.encode() for job in pack.jobs}
        known = {key for key, name in names.items() if name in self._seen or name in self._seen_before}
        if known:
            self.repeated_jobs += len(known)
            pack.drop(known)
        if not self._has_room_for(pack):
            self.in_hand()
            if not self._has_room_for(pack):
                raise LinkRefused(
                    f"more than {MAX_JOBS_IN_HAND} jobs, or {MAX_BYTES_IN_HAND} bytes, at once.", field="jobs"
                )
        now = time.time()
        fresh = [names[job.request_id, job.attempt] for job in pack.jobs]
        commands: list[Command] = []
        for job, inputs in pack.take_out(INLINE_LIMIT_BYTES, _input_key):
            life = max(1, int(min(job.deadline_at - now, SEEN_SECONDS)) + 10)
            commands.append(("SET", _input_key(job.request_id, job.attempt), inputs, "EX", life))
            self._large.add((job.request_id, job.attempt))
        if fresh:
            key = self._seen_prefix + str(self._bucket)
            commands += [("SADD", key, *fresh), ("EXPIRE", key, 2 * SEEN_SECONDS)]
        message = task_message(TASK_RUN, pack.to_bytes(self._reply_to), self._queue)
        await self._make_room(len(message))
        commands.append(("LPUSH", self._queue, message))
        for job in pack.jobs:
            until = min(job.deadline_at, now + SEEN_SECONDS) + GRACE_SECONDS
            self._let_go((job.request_id, job.attempt))  # called again, it holds it once
            self._in_hand[job.request_id, job.attempt] = until, job.size
            self._bytes_in_hand += job.size
        self._doubtful = True
        *_, length = await self._sending.together(*commands, seconds=COMMAND_SECONDS)
        self._doubtful = False
        self._seen.update(fresh)
        self._note_queued(len(message), length)

    def _has_room_for(self, pack: ForwardedPack) -> bool:
        more = sum(job.size for job in pack.jobs)
        return (
            len(self._in_hand) + len(pack.jobs) <= MAX_JOBS_IN_HAND and self._bytes_in_hand + more <= MAX_BYTES_IN_HAND
        )

    async def _make_room(self, size: int) -> None:
        more = size + _MESSAGE_BYTES
        if self._queued_bytes + more > MAX_QUEUED_BYTES:
            self._forget_taken(await self._redis.llen(self._queue))
            if self._queued_bytes + more > MAX_QUEUED_BYTES:
                raise LinkRefused(f"more than {MAX_QUEUED_BYTES} bytes wait for the worker.", field="payload")

    def _note_queued(self, size: int, length: int) -> None:
        self._queued.append(size + _MESSAGE_BYTES)
        self._queued_bytes += self._queued[-1]
        self._forget_taken(length)

    def _forget_taken(self, length: int) -> None:
        while len(self._queued) > length:
            self._queued_bytes -= self._queued.popleft()

    def _let_go(self, key: tuple[bytes, str]) -> None:
        self._bytes_in_hand -= self._in_hand.pop(key, (0.0, 0))[1]

    async def file_papers(self, data: bytes) -> None:
        """Queue papers that came without jobs.

        Raises:
            MessageError: malformed.
            LinkRefused: more waits for the worker than a gateway may send.
            redis.RedisError: the broker is away.
        """
        decode_papers(data)
        message = task_message(TASK_FILE_PAPERS, data, self._queue)
        await self._make_room(len(message))
        self._note_queued(len(message), await self._redis.lpush(self._queue, message))

    async def stop(self, stop: Stop) -> None:
        """Ask the worker to end a streamed job that came by this link; another is none of this gateway's.

        Raises:
            redis.RedisError: the broker is away.
        """
        job = stop.request_id + stop.attempt.encode()
        if job not in self._seen and job not in self._seen_before:
            return
        name = cancel_key(stop.request_id, stop.attempt)
        await self._redis.set(name, str(stop.tokens), ex=REPLY_TTL_SECONDS)

    # --- outbound ----------------------------------------------------------------------------------------------

    async def next_results(self) -> bytes | None:
        """Wait a moment for a reply of the workers; it stays in the broker until `acknowledged`.

        Raises:
            redis.RedisError: the broker is away; call `resync` when it is back.
        """
        command = ("BLMOVE", self._reply_to, self._sent, "LEFT", "RIGHT", LISTEN_SECONDS)
        (found,) = await self._listening.call(command, seconds=LISTEN_SECONDS + COMMAND_SECONDS)
        return await self._hand_out(found) if isinstance(found, bytes) else None

    async def resync(self) -> list[bytes]:
        """Return replies that moved while the broker's connection broke, so that nobody took them.

        Raises:
            redis.RedisError: the broker is still away.
        """
        async with self._settling:
            await self._settle()
            rows = await self._redis.lrange(self._sent, len(self._handed_out), -1)
            return [await self._hand_out(row) for row in _all_bytes(rows)]

    async def again(self) -> list[bytes]:
        """Return all that was handed out and not acknowledged, for a gateway that knows nothing of it.

        Raises:
            redis.RedisError: the broker is away.
        """
        async with self._settling:
            await self._settle()
            rows = await self._redis.lrange(self._sent, 0, -1)
            self._ahead = 0
            self._handed_out.clear()
            return [await self._hand_out(row) for row in _all_bytes(rows)]

    async def acknowledged(self, count: int) -> None:
        """Forget the oldest replies handed out.

        Raises:
            redis.RedisError: the broker is away; called again, it forgets what was not forgotten.
        """
        async with self._settling:
            await self._settle()
            ahead = min(count, self._ahead)
            count = min(count - ahead, len(self._handed_out))
            if count:
                blobs = [name for names in islice(self._handed_out, count) for name in names]
                commands: list[Command] = [("LPOP", self._sent, count), ("INCRBY", self._count, count)]
                if blobs:
                    commands.append(("UNLINK", *blobs))
                self._unsure = True
                await self._sending.together(*commands, seconds=COMMAND_SECONDS)
                self._unsure = False
                self._drop(count)
            self._ahead -= ahead

    async def _settle(self) -> None:
        """Find out whether replies were forgotten although the broker's answer was lost."""
        if self._unsure:
            gone = min(len(self._handed_out), max(0, await self._forgotten_there() - self._forgotten))
            self._unsure = False
            self._ahead += gone
            self._drop(gone)

    def _drop(self, count: int) -> None:
        self._forgotten += count
        for _ in range(count):
            self._handed_out.popleft()

    async def _forgotten_there(self) -> int:
        return int(await self._redis.get(self._count) or 0)

    async def announcement(self) -> bytes | None:
        """Return the workers' newest sign of life.

        Raises:
            redis.RedisError: the broker is away.
        """
        found = await self._redis.get(self._announced)
        return found if isinstance(found, bytes) else None

    async def _hand_out(self, data: bytes) -> bytes:
        try:
            results = ForwardedResults(data)
        except LinkRefused as error:  # our own worker's; the gateway would end the link over it
            log.warning("unreadable-reply", detail=str(error))
            self._handed_out.append([])
            return ForwardedResults.NONE
        names = results.references
        values = await self._redis.mget(names) if names else []
        self._handed_out.append(names)
        used = []
        for key in results.finished:
            self._let_go(key)
            if key in self._large:
                self._large.discard(key)
                used.append(_input_key(*key))
        if used:
            await self._redis.unlink(*used)
        return results.to_bytes(dict(zip(names, _all_bytes(values), strict=True)))

    # --- what was seen -----------------------------------------------------------------------------------------

    @staticmethod
    def _bucket_now() -> int:
        return int(time.time() // SEEN_SECONDS)

    def _turn_buckets(self) -> None:
        now = self._bucket_now()
        if now != self._bucket:
            self._seen_before = self._seen if now == self._bucket + 1 else set()
            self._seen, self._bucket = set(), now

    async def _members(self, bucket: int) -> set[bytes]:
        return set(_all_bytes(await self._redis.smembers(self._seen_prefix + str(bucket))))


def _all_bytes(values: Any) -> list[bytes]:
    # The client's types say what it would return if it were told to decode, which it is not.
    return list(values)


def _input_key(request_id: bytes, attempt: str) -> str:
    return blob_key("in", request_id, attempt)
