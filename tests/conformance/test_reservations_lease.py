"""Reservations are counted in one place: alone means alone, shared may have company of its kind."""

import asyncio

import pytest

from market.adapters import redis_lease
from market.adapters.redis_client import open_redis
from market.adapters.redis_lease import ReservationsLease
from market.errors import ConfigurationError, RedisUnreachable

GATEWAY = b"\x07" * 20


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(redis_lease, "LEASE_SECONDS", 1)
    monkeypatch.setattr(redis_lease, "RENEW_SECONDS", 0.1)


@pytest.fixture
async def lease(redis_url):
    made = []

    def make(name, *, shared=False):
        made.append(ReservationsLease(redis_url, GATEWAY, shared=shared, process_id=name))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    client = open_redis(redis_url)
    await client.delete(f"reservations:{GATEWAY.hex()}")
    await client.aclose()


async def test_a_second_process_is_refused_while_the_first_renews(lease):
    first = lease("a")
    await first.acquire()
    first.start()
    for shared in (False, True):
        with pytest.raises(ConfigurationError, match="another process"):
            await lease("b", shared=shared).acquire()
    await first.close()
    await lease("b").acquire()


async def test_shared_processes_keep_company_and_keep_a_lone_one_out(lease):
    one, two = lease("a", shared=True), lease("b", shared=True)
    await one.acquire()
    await two.acquire()
    one.start()
    with pytest.raises(ConfigurationError):
        await lease("c").acquire()


async def test_a_dead_process_of_this_machine_is_succeeded_at_once(lease, monkeypatch):
    monkeypatch.setattr(redis_lease.os, "getpid", lambda: 2**22 + 1)
    await lease("dead").acquire()
    monkeypatch.undo()
    monkeypatch.setattr(redis_lease, "LEASE_SECONDS", 60)
    async with asyncio.timeout(2):
        await lease("next").acquire()


async def test_a_process_that_lost_its_lease_ends(lease, monkeypatch, redis_url):
    ended = []
    monkeypatch.setattr(redis_lease.signal, "raise_signal", ended.append)
    first = lease("a")
    await first.acquire()
    first.start()
    client = open_redis(redis_url)
    await client.set(f"reservations:{GATEWAY.hex()}", "elsewhere|1|b", px=2_000)
    await client.aclose()
    await asyncio.sleep(0.4)
    assert ended


async def test_an_unreachable_redis_is_named():
    with pytest.raises(RedisUnreachable):
        await ReservationsLease("redis://127.0.0.1:1/0", GATEWAY, shared=False, process_id="a").acquire()
