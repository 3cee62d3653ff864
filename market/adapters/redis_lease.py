"""Sees to it that reservations are counted in one place: by one gateway process alone, or by several through Redis.

Decides whether this process may start and go on. A process that reserves in its own memory must be the only one of its
gateway; one that reserves in Redis may have company of its kind. Never touches money. Built by `market.bootstrap`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import structlog

from market.adapters.redis_client import open_redis, reachable
from market.adapters.redis_line import RedisLine
from market.errors import ConfigurationError, RedisUnreachable

LEASE_SECONDS = 6
RENEW_SECONDS = 2.0
SHARED = "shared"

# ARGV: value, life in ms. Takes the lease, or renews it, where nobody else holds it; answers who does.
_HOLD = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

log = structlog.get_logger(__name__)


class ReservationsLease:
    """The right to reserve for a gateway; `shared` for processes that reserve in Redis."""

    def __init__(self, redis_url: str, gateway: bytes, *, shared: bool, process_id: str) -> None:
        self._redis_url = redis_url
        self._key = f"reservations:{gateway.hex()}"
        self._value = SHARED if shared else f"{socket.gethostname()}|{os.getpid()}|{process_id}"
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self) -> None:
        """Take the lease; waits for a dead holder's to run out.

        Raises:
            ConfigurationError: another process holds it and goes on renewing it.
            RedisUnreachable: Redis does not answer.
        """
        for _ in range(int(LEASE_SECONDS / 0.25) + 2):
            holder = await self._hold()
            if holder == self._value:
                return
            if _is_dead(holder):
                await self._run(_DROP, holder)
                continue
            await asyncio.sleep(0.25)
        raise ConfigurationError(
            "another process of this gateway is running.",
            field="MARKET_SHARED_RESERVATIONS",
            remedy="Stop it, or set MARKET_SHARED_RESERVATIONS=true for all processes of the gateway.",
        )

    def start(self) -> None:
        """Renew the lease from now on; call it inside the event loop."""
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def close(self) -> None:
        """Give the lease back; a shared one runs out by itself, since others may hold it too."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        if self._value != SHARED:
            try:
                await self._run(_DROP, self._value)
            except RedisUnreachable:
                log.info("lease-left-to-expire")

    async def _renew(self) -> None:
        line = RedisLine(open_redis(self._redis_url, max_connections=1))
        try:
            await self._renew_by(line)
        finally:
            await line.close()

    async def _renew_by(self, line: RedisLine) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                with reachable():
                    holder = _text(await line.call("EVAL", _HOLD, 1, self._key, self._value, LEASE_SECONDS * 1_000))
            except RedisUnreachable as error:
                log.warning("lease-not-renewed", code=error.code)
                continue
            if holder != self._value:
                # Both would lend on the same deposits. Whoever came later asked for the lease while we were cut off.
                log.error("lease-lost", remedy="Run one process, or set MARKET_SHARED_RESERVATIONS=true for all.")
                signal.raise_signal(signal.SIGTERM)
                return

    async def _hold(self) -> str:
        return _text(await self._run(_HOLD, self._value, LEASE_SECONDS * 1_000))

    async def _run(self, script: str, *arguments: str | int) -> object:
        # A connection of its own each time: it is used at the beginning and at the end, by two event loops.
        client = open_redis(self._redis_url, max_connections=1)
        try:
            with reachable():
                answer: object = await client.eval(script, 1, self._key, *arguments)
                return answer
        finally:
            await client.aclose()


def _text(answer: object) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _is_dead(holder: str) -> bool:
    """Tell whether the holder was a process of this machine that is gone, killed before it could give back."""
    host, _, rest = holder.partition("|")
    pid = rest.partition("|")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
