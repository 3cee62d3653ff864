"""Who may not link for a while: a worker that flooded us with results that nobody asked for.

In memory for one process; in Redis for the several of one gateway, so that a worker which one of them has barred finds
the others' doors closed too. Without Redis each process knows its own. Called by `market.adapters.link_hub`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from market.adapters.redis_client import open_redis, reachable
from market.errors import RedisUnreachable

PENALTY_SECONDS = 60.0

log = structlog.get_logger(__name__)


class Bars(Protocol):
    """Keeps workers out."""

    def bar(self, worker: bytes) -> None:
        """Keep a worker out from now on, for `PENALTY_SECONDS`."""
        ...

    async def among(self, workers: Collection[bytes]) -> frozenset[bytes]:
        """Return those of some workers that are kept out; never fails."""
        ...


class MemoryBars:
    """For a gateway of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def bar(self, worker: bytes) -> None:
        """See `Bars.bar`."""
        now = self._clock()
        self._until = {one: until for one, until in self._until.items() if until > now}
        self._until[worker] = now + PENALTY_SECONDS

    async def among(self, workers: Collection[bytes]) -> frozenset[bytes]:
        """See `Bars.among`."""
        now = self._clock()
        return frozenset(worker for worker in workers if self._until.get(worker, 0.0) > now)


class RedisBars:
    """For the processes of one gateway together. Keys begin with `relay:`, where no worker's broker user may write."""

    def __init__(self, redis_url: str, gateway: bytes) -> None:
        self._redis = open_redis(redis_url, max_connections=2)
        self._prefix = f"relay:barred:{gateway.hex()}:"
        self._alone = MemoryBars()
        self._writing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Drop the connections."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._redis.aclose()

    def bar(self, worker: bytes) -> None:
        """See `Bars.bar`; the others know a moment later."""
        self._alone.bar(worker)
        task = asyncio.get_running_loop().create_task(self._share(worker))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def among(self, workers: Collection[bytes]) -> frozenset[bytes]:
        """See `Bars.among`."""
        found = await self._alone.among(workers)
        asked = [worker for worker in workers if worker not in found]
        if not asked:
            return found
        try:
            with reachable():
                values = await self._redis.mget([self._prefix + worker.hex() for worker in asked])
        except RedisUnreachable:
            return found
        return found | {worker for worker, value in zip(asked, values, strict=True) if value is not None}

    async def _share(self, worker: bytes) -> None:
        try:
            with reachable():
                await self._redis.set(self._prefix + worker.hex(), b"1", px=int(PENALTY_SECONDS * 1_000))
        except RedisUnreachable:
            log.warning("bar-not-shared", worker=worker.hex())
