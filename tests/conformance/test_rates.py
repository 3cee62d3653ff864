"""Several processes of one gateway count requests together, and each alone while Redis is away."""

import asyncio
import secrets

import pytest
import redis as sync_redis

from market.adapters.rates import RedisRates
from market.errors import TooManyRequests
from market.inference.rates import BURST_SECONDS, By, RateLimits

pytestmark = pytest.mark.integration

LIMITS = RateLimits(address=2.0)


async def admitted(processes, times, name):
    pending = [processes[n % len(processes)].admit(By.ADDRESS, name) for n in range(times)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert all(isinstance(one, TooManyRequests) and int(one.headers["Retry-After"]) >= 1 for one in refused)
    return times - len(refused)


async def test_two_processes_share_one_limit(redis_url):
    gateway = secrets.token_bytes(20)
    both = [RedisRates(redis_url, gateway, LIMITS) for _ in range(2)]
    other = RedisRates(redis_url, secrets.token_bytes(20), LIMITS)
    full = int(2 * BURST_SECONDS)
    # Time goes on meanwhile: two a second.
    assert full <= await admitted(both, 3 * full, b"a") <= full + 4
    assert await admitted(both, 5, b"b") == 5
    assert await admitted([other], 5, b"a") == 5
    assert both[0].admit(By.PAYER, b"a") is None
    for one in (*both, other):
        await one.close()


async def test_without_redis_each_counts_alone():
    alone = RedisRates("redis://127.0.0.1:1/0", b"g", LIMITS)
    assert await admitted([alone], 30, b"a") == 2 * BURST_SECONDS
    await alone.close()


async def test_a_server_whose_clock_was_set_back_keeps_nobody_out(redis_url):
    gateway = secrets.token_bytes(20)
    rates = RedisRates(redis_url, gateway, LIMITS)
    full = int(2 * BURST_SECONDS)
    assert full <= await admitted([rates], 3 * full, b"a") <= full + 4
    with sync_redis.Redis.from_url(redis_url) as client:
        (name,) = client.keys(f"rate:{gateway.hex()}:*")
        client.set(name, float(client.get(name)) + 3_600_000)
    assert full <= await admitted([rates], 3 * full, b"a") <= full + 4
    await rates.close()
