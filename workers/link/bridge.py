"""Between the link and the node's own broker: jobs in as Celery tasks, results out in the order they came.

A job runs once however often it is delivered, and a result stays in the broker until the gateway has it, so that
neither a cut link nor a dead link process loses or repeats work. Never lets a gateway name a key or a list: all names
are made here. Called by `workers.link.connection`.
"""

from __future__ import annotations

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

SEEN_SECONDS = 900
LISTEN_SECONDS = 1
MAX_JOBS_IN_HAND = 16_384
GRACE_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Bridge:
    """One gateway's traffic through one node's broker."""

    def __init__(self, redis_url: str, *, worker: bytes, gateway: bytes) -> None:
        self._redis = _open(redis_url, timeout=15.0)
        # Blocks on its connection, so it has a client of its own.
        self._listening = _open(redis_url, timeout=15.0)
        self._queue = worker_queue(worker)
        self._announced = ANNOUNCE_KEY_PREFIX + worker.hex()
        # Several workers may share a broker of their operator's, and one worker several gateways.
        self._reply_to = reply_key(f"link-{gateway.hex()}-{worker.hex()}")
        self._sent = f"{self._reply_to}:sent"
        self._seen_prefix = f"link:seen:{gateway.hex()}:{worker.hex()}:"
        self._bucket = 0
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        self._in_hand: dict[tuple[bytes, str], float] = {}
        self._large: set[tuple[bytes, str]] = set()
        # What was handed out and not yet acknowledged, in the order of the list `sent`: the names of its blobs.
        self._handed_out: deque[list[str]] = deque()
        self.repeated_jobs = 0

    async def recover(self) -> None:
        """Remember what an earlier process of this node had in hand; its unacknowledged results go out again."""
        self._bucket = self._bucket_now()
        self._seen = await self._members(self._bucket)
        self._seen_before = await self._members(self._bucket - 1)
        while await self._redis.lmove(self._sent, self._reply_to, "RIGHT", "LEFT") is not None:
            pass

    async def close(self) -> None:
        """Drop the connections."""
        await self._redis.aclose()
        await self._listening.aclose()

    def in_hand(self) -> int:
        """Return how many jobs have come whose results have not, and may still."""
        now = time.time()
        self._in_hand = {key: until for key, until in self._in_hand.items() if until > now}
        self._large &= self._in_hand.keys()
        return len(self._in_hand)

    # --- inbound -----------------------------------------------------------------------------------------------

    async def forward(self, data: bytes) -> None:
        """Queue a pack's jobs that are not here yet, and its papers.

        Raises:
            LinkRefused: malformed, or more than a gateway may send.
            redis.RedisError: the broker is away; nothing was queued.
        """
        pack = ForwardedPack(data)
        self._turn_buckets()
        names = {(job.request_id, job.attempt): job.request_id + job.attempt.encode() for job in pack.jobs}
        known = {key for key, name in names.items() if name in self._seen or name in self._seen_before}
        if known:
            self.repeated_jobs += len(known)
            pack.drop(known)
        if (
            len(self._in_hand) + len(pack.jobs) > MAX_JOBS_IN_HAND
            and self.in_hand() + len(pack.jobs) > MAX_JOBS_IN_HAND
        ):
            raise LinkRefused(f"more than {MAX_JOBS_IN_HAND} jobs at once.", field="jobs")
        now = time.time()
        fresh = [names[job.request_id, job.attempt] for job in pack.jobs]
        async with self._redis.pipeline(transaction=True) as pipe:
            for job, inputs in pack.take_out(INLINE_LIMIT_BYTES, _input_key):
                life = max(1, int(min(job.deadline_at - now, SEEN_SECONDS)) + 10)
                pipe.set(_input_key(job.request_id, job.attempt), inputs, ex=life)
                self._large.add((job.request_id, job.attempt))
            if fresh:
                key = self._seen_prefix + str(self._bucket)
                pipe.sadd(key, *fresh)
                pipe.expire(key, 2 * SEEN_SECONDS)
            pipe.lpush(self._queue, task_message(TASK_RUN, pack.to_bytes(self._reply_to), self._queue))
            await pipe.execute()
        self._seen.update(fresh)
        for job in pack.jobs:
            self._in_hand[job.request_id, job.attempt] = min(job.deadline_at, now + SEEN_SECONDS) + GRACE_SECONDS

    async def file_papers(self, data: bytes) -> None:
        """Queue papers that came without jobs.

        Raises:
            MessageError: malformed.
            redis.RedisError: the broker is away.
        """
        decode_papers(data)
        await self._redis.lpush(self._queue, task_message(TASK_FILE_PAPERS, data, self._queue))

    async def stop(self, stop: Stop) -> None:
        """Ask the worker to end a streamed job.

        Raises:
            redis.RedisError: the broker is away.
        """
        name = cancel_key(stop.request_id, stop.attempt)
        await self._redis.set(name, str(stop.tokens), ex=REPLY_TTL_SECONDS)

    # --- outbound ----------------------------------------------------------------------------------------------

    async def next_results(self) -> bytes | None:
        """Wait a moment for a reply of the workers; it stays in the broker until `acknowledged`.

        Raises:
            redis.RedisError: the broker is away; call `resync` when it is back.
        """
        found = await self._listening.blmove(self._reply_to, self._sent, LISTEN_SECONDS, "LEFT", "RIGHT")
        return await self._hand_out(found) if isinstance(found, bytes) else None

    async def resync(self) -> list[bytes]:
        """Return replies that moved while the broker's connection broke, so that nobody took them.

        Raises:
            redis.RedisError: the broker is still away.
        """
        rows = await self._redis.lrange(self._sent, len(self._handed_out), -1)
        return [await self._hand_out(row) for row in _all_bytes(rows)]

    async def again(self) -> list[bytes]:
        """Return all that was handed out and not acknowledged, for a gateway that knows nothing of it.

        Raises:
            redis.RedisError: the broker is away.
        """
        rows = await self._redis.lrange(self._sent, 0, -1)
        self._handed_out.clear()
        return [await self._hand_out(row) for row in _all_bytes(rows)]

    async def acknowledged(self, count: int) -> None:
        """Forget the oldest replies handed out.

        Raises:
            redis.RedisError: the broker is away; they are still kept.
        """
        count = min(count, len(self._handed_out))
        if not count:
            return
        blobs = [name for names in islice(self._handed_out, count) for name in names]
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.lpop(self._sent, count)
            if blobs:
                pipe.unlink(*blobs)
            await pipe.execute()
        for _ in range(count):
            self._handed_out.popleft()

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
            self._in_hand.pop(key, None)
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


def _open(url: str, *, timeout: float) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=timeout, protocol=2)
