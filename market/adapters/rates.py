"""Counts requests against the operator's limits: in memory for one process, in Redis for several of one gateway.

Both keep one moment a name: when its requests so far would be due at an even pace. Without Redis each process counts
for itself. Implement `market.inference.rates.Rates`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from market.adapters.redis_client import open_redis, reachable
from market.errors import RedisUnreachable
from market.inference.rates import By, RateLimits, refusal, slack

NAMES_KEPT = 65_536

# ARGV: milliseconds between requests, milliseconds that they may run ahead. Answers how long to wait, 0 if admitted.
_ADMIT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local due = tonumber(redis.call('GET', KEYS[1]) or '0')
-- nothing is due later than this: Redis' clock was set back
if due < now or due > now + ARGV[1] + ARGV[2] then due = now end
if due - now > tonumber(ARGV[2]) then return string.format('%.0f', math.ceil(due - now - ARGV[2])) end
due = due + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.3f', due), 'PX', math.ceil(due - now) + 1)
return '0'
"""


class MemoryRates:
    """Counts in this process; never waits."""

    def __init__(self, limits: RateLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._due: dict[tuple[By, bytes], float] = {}

    def admit(self, by: By, name: bytes) -> None:
        """See `Rates.admit`."""
        rate = self._limits.of(by)
        if not rate:
            return
        now = self._clock()
        key = (by, name)
        due = max(now, self._due.get(key, now))
        wait = due - now - slack(rate)
        if wait > 0:
            raise refusal(by, rate, wait)
        if key not in self._due and len(self._due) >= NAMES_KEPT:
            self._forget(now)
        self._due[key] = due + 1.0 / rate

    def _forget(self, now: float) -> None:
        """Drop the names that are due nothing, and if that is nobody the one seen first."""
        self._due = {key: due for key, due in self._due.items() if due > now}
        if len(self._due) >= NAMES_KEPT:
            del self._due[next(iter(self._due))]


class RedisRates:
    """Counts in Redis, for all processes of a gateway together."""

    def __init__(self, redis_url: str, gateway: bytes, limits: RateLimits) -> None:
        self._redis = open_redis(redis_url)
        self._admit = self._redis.register_script(_ADMIT)
        self._prefix = f"rate:{gateway.hex()}:"
        self._limits = limits
        self._alone = MemoryRates(limits)

    async def close(self) -> None:
        """Drop the connections."""
        await self._redis.aclose()

    def admit(self, by: By, name: bytes) -> Awaitable[None] | None:
        """See `Rates.admit`."""
        rate = self._limits.of(by)
        return self._count(by, name, rate) if rate else None

    async def _count(self, by: By, name: bytes, rate: float) -> None:
        key = f"{self._prefix}{by.value}:{name.hex()}"
        try:
            with reachable():
                answer = await self._admit(keys=[key], args=[f"{1_000 / rate:.3f}", f"{1_000 * slack(rate):.3f}"])
        except RedisUnreachable:
            self._alone.admit(by, name)
            return
        wait = int(answer)
        if wait:
            raise refusal(by, rate, wait / 1_000)
