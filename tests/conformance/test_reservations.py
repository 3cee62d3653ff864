"""One suite for every adapter of `payments.ports.Reservations`."""

import asyncio
import secrets
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import redis as sync_redis

from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_reservations import MemoryReservations
from market.adapters.redis_reservations import RedisReservations
from market.devnet.services import find_valkey
from market.errors import InsufficientVoucher, KeyLimit, RedisUnreachable, RequestInProgress, StaleVoucher
from market.payments.channels import REBUILD_SEQ_GAP
from market.payments.model import Account, KeySpending
from market.payments.ports import AlreadyCharged, OverLimit
from tests.support.money import claim as claim_on
from tests.support.plain import ToldLater

TOP = 2**63 - 1


@pytest.fixture
def channel_id():
    return secrets.token_bytes(32)


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def reservations(request, ledger):
    if request.param == "memory":
        yield MemoryReservations(ledger)
        return
    adapter = RedisReservations(request.getfixturevalue("redis_url"), ledger)
    yield adapter
    await adapter.close()


@pytest.fixture
def claim(channel_id):
    def make(price, ceiling, **changes):
        return claim_on(price, ceiling, **{"request": 1, "channel_id": channel_id} | changes)

    return make


async def test_reserve_commit_release(reservations, claim, channel_id):
    first = await reservations.reserve(claim(30, 100, request=1))
    second = await reservations.reserve(claim(30, 100, request=2))
    assert first.cumulative == 30
    assert (second.seq, second.cumulative, second.voucher_amount) == (first.seq + 1, 30, 100)
    assert second.voucher_signature == (100).to_bytes(65, "big")
    assert await reservations.commit(first, 30)
    assert await reservations.release(second)
    assert not await reservations.release(second)
    assert not await reservations.commit(first, 30)
    account = await reservations.account(channel_id)
    assert (account.charged, account.reserved, account.ceiling, account.last_seq) == (30, 0, 100, second.seq)


async def test_less_than_was_reserved_may_be_charged(reservations, claim, channel_id):
    first = await reservations.reserve(claim(60, 100, request=1))
    second = await reservations.reserve(claim(40, 100, request=2))
    assert await reservations.commit(first, 5)
    third = await reservations.reserve(claim(55, 100, request=3))
    assert third.cumulative == 5 + 55
    assert await reservations.commit(second, 6)
    account = await reservations.account(channel_id)
    assert (account.charged, account.reserved) == (6, 55)


async def test_exactly_the_ceiling_fits(reservations, claim):
    await reservations.reserve(claim(60, 100, request=1))
    await reservations.reserve(claim(39, 100, request=2))
    with pytest.raises(InsufficientVoucher) as caught:
        await reservations.reserve(claim(2, 100, request=3))
    assert caught.value.required == 101
    await reservations.reserve(claim(1, 100, request=4))
    with pytest.raises(StaleVoucher):
        await reservations.reserve(claim(1, 100, request=5))


async def test_spent_voucher_is_stale(reservations, claim):
    await reservations.commit(await reservations.reserve(claim(100, 100, request=1)), 100)
    with pytest.raises(StaleVoucher) as caught:
        await reservations.reserve(claim(1, 100, request=2))
    assert caught.value.required == 101


async def test_limit_is_told_apart_from_the_voucher(reservations, claim):
    await reservations.reserve(claim(10, 100, request=1))
    with pytest.raises(OverLimit) as caught:
        await reservations.reserve(claim(10, 100, request=2, limit=19))
    account = caught.value.account
    assert (account.charged, account.reserved, account.ceiling) == (0, 10, 100)


async def test_best_voucher_counts_whatever_the_order(reservations, claim):
    await reservations.reserve(claim(10, 100, request=1))
    second = await reservations.reserve(claim(10, 15, request=2))
    assert (second.voucher_amount, second.cumulative) == (100, 10)


async def test_voucher_refused_for_its_price_still_raises_the_ceiling(reservations, claim, channel_id):
    with pytest.raises(InsufficientVoucher):
        await reservations.reserve(claim(200, 150, request=1))
    assert (await reservations.account(channel_id)).ceiling == 150


async def test_one_request_id_holds_once(reservations, claim):
    held = await reservations.reserve(claim(10, 100, token=1))
    with pytest.raises(RequestInProgress):
        await reservations.reserve(claim(10, 100, token=2))
    await reservations.release(held)
    await reservations.reserve(claim(10, 100, token=2))


async def test_named_request_is_remembered_after_its_charge(reservations, claim, channel_id):
    held = await reservations.reserve(claim(10, 100, remember=True))
    await reservations.commit(held, 10)
    with pytest.raises(AlreadyCharged):
        await reservations.reserve(claim(10, 100, token=9, remember=True))
    assert not await reservations.release(held)
    assert (await reservations.account(channel_id)).reserved == 0


async def test_expired_reservation_gives_its_money_back_and_fences_its_holder(reservations, claim, channel_id):
    late = await reservations.reserve(claim(100, 100, token=1, ttl_seconds=0.05))
    await asyncio.sleep(0.08)
    fresh = await reservations.reserve(claim(100, 100, token=2))
    assert not await reservations.release(late)
    assert (await reservations.account(channel_id)).reserved == 100
    assert not await reservations.commit(late, 0)
    assert await reservations.commit(fresh, 100)
    assert (await reservations.account(channel_id)).charged == 100


async def test_remembered_request_is_forgotten_at_its_time(reservations, claim, channel_id):
    held = await reservations.reserve(claim(10, 100, remember=True, ttl_seconds=0.05))
    await reservations.commit(held, 10)
    await asyncio.sleep(0.08)
    assert (await reservations.reserve(claim(10, 100, token=2))).cumulative == 20
    assert (await reservations.account(channel_id)).reserved == 10


async def test_ledger_total_only_grows(reservations, claim, channel_id):
    first = await reservations.reserve(claim(10, 100, request=1))
    second = await reservations.reserve(claim(10, 100, request=2))
    await reservations.commit(second, 20)
    await reservations.commit(first, 10)
    assert (await reservations.account(channel_id)).charged == 20


async def test_account_is_rebuilt_from_the_ledger(reservations, claim, ledger, channel_id):
    ledger.accounts[channel_id] = Account(40, 0, 90, b"v" * 65, 7)
    assert (await reservations.account(channel_id)).charged == 40
    held = await reservations.reserve(claim(50, 10))
    assert (held.cumulative, held.voucher_amount, held.voucher_signature) == (90, 90, b"v" * 65)
    assert held.seq > 7 + REBUILD_SEQ_GAP


async def test_concurrent_requests_never_pass_the_ceiling(reservations, claim, channel_id):
    done = await asyncio.gather(
        *(reservations.reserve(claim(7, 1_000, request=i)) for i in range(1, 301)), return_exceptions=True
    )
    held = [one for one in done if not isinstance(one, Exception)]
    assert len(held) == 1_000 // 7
    assert len({one.seq for one in held}) == len(held)
    assert {one.cumulative for one in held} == {7}, "what others hold may still be given back"
    await asyncio.gather(*(reservations.release(one) for one in held))
    assert (await reservations.account(channel_id)).reserved == 0


async def test_largest_voucher_keeps_its_exact_amount(reservations, claim):
    held = await reservations.reserve(claim(10, TOP))
    assert held.voucher_amount == TOP


async def test_amounts_beyond_doubles_are_exact_or_refused(reservations, claim):
    price = 2**52 + 1
    assert (await reservations.reserve(claim(price, TOP, limit=TOP))).cumulative == price


# --- Redis alone ---------------------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_two_processes_share_the_money(redis_url, ledger, claim):
    one, two = RedisReservations(redis_url, ledger), RedisReservations(redis_url, ledger)
    both = [one, two]
    done = await asyncio.gather(
        *(both[i % 2].reserve(claim(7, 1_000, request=i)) for i in range(1, 301)), return_exceptions=True
    )
    assert sum(not isinstance(result, Exception) for result in done) == 142
    for adapter in both:
        await adapter.close()


@pytest.mark.integration
async def test_losing_redis_loses_no_money(redis_url, ledger, claim, channel_id):
    adapter = RedisReservations(redis_url, ledger)
    held = await adapter.reserve(claim(10, 100, request=1))
    ledger.accounts[channel_id] = Account(10, 0, 100, b"v" * 65, held.seq)
    with sync_redis.Redis.from_url(redis_url) as client:
        client.flushall()
        client.script_flush()
    # The charge was durable, so the commit finds nothing to do and the next use starts from the ledger.
    assert not await adapter.commit(held, 10)
    again = await adapter.reserve(claim(10, 100, request=2))
    assert again.cumulative == 20
    assert again.seq > held.seq
    await adapter.close()


@contextmanager
def server(folder, port):
    """A server that writes to its disk at once, killed at the end."""
    folder.mkdir(exist_ok=True)
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--logfile", str(folder / "log")]
    started = subprocess.Popen([find_valkey(), *where, "--appendonly", "yes", "--appendfsync", "always", "--save", ""])
    try:
        yield
    finally:
        started.kill()
        started.wait()


async def surely(ask):
    """Ask until the server is up."""
    for _ in range(200):
        try:
            return await ask()
        except RedisUnreachable:
            await asyncio.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.mark.integration
async def test_a_server_that_forgot_what_it_said_last_gives_no_number_twice(
    ledger, claim, channel_id, tmp_path, unused_tcp_port
):
    """Two receipts of one number, countersigned, take a part of the gateway's reserve from it."""
    folder, disk = tmp_path / "redis", tmp_path / "disk"
    adapter = RedisReservations(f"redis://127.0.0.1:{unused_tcp_port}/0", ledger)
    with server(folder, unused_tcp_port):
        first = await surely(lambda: adapter.reserve(claim(10, 100, request=1)))
        await adapter.commit(first, 10)
        shutil.copytree(folder, disk)
        second = await adapter.reserve(claim(10, 100, request=2))
        await adapter.commit(second, 20)
        ledger.accounts[channel_id] = Account(20, 0, 100, b"v" * 65, second.seq)
        third = await adapter.reserve(claim(10, 100, request=3))  # given, and not charged yet
        assert (second.seq, third.seq) == (first.seq + 1, first.seq + 2)
    with server(disk, unused_tcp_port):
        assert (await surely(lambda: adapter.account(channel_id))).charged == 20, "a refund must not be signed for more"
        assert await soon(adapter, claim(10, 100, request=4)) == [None]
        fourth = await adapter.reserve(claim(10, 100, request=4))
        assert fourth.seq > third.seq + REBUILD_SEQ_GAP
        assert fourth.cumulative == 30
        (fifth,) = await soon(adapter, claim(10, 100, request=5))
        assert fifth.seq == fourth.seq + 1
        await asyncio.sleep(0.05)
        sixth = await adapter.reserve(claim(10, 100, request=6))
        assert sixth.seq == fifth.seq + 1, "the same server, though it was asked nothing for a while"
    await adapter.close()


@pytest.mark.integration
async def test_channel_state_goes_away_by_itself(redis_url, ledger, claim, channel_id):
    adapter = RedisReservations(redis_url, ledger)
    await adapter.reserve(claim(10, 100))
    with sync_redis.Redis.from_url(redis_url) as client:
        ttls = [client.ttl(key) for key in client.keys(f"channel:*{channel_id.hex()}*")]
    assert len(ttls) == 2
    assert all(0 < ttl <= 86_400 for ttl in ttls)
    await adapter.close()


async def test_unreachable_redis_is_named(ledger, claim):
    adapter = RedisReservations("redis://127.0.0.1:1/0", ledger)
    with pytest.raises(RedisUnreachable):
        await adapter.reserve(claim(10, 100))
    await adapter.close()


KEY = KeySpending(b"\x0c" * 32, 50)
OTHER_KEY = KeySpending(b"\x0d" * 32, 1_000)


async def test_a_key_sets_aside_no_more_than_its_limit(reservations, claim):
    first = await reservations.reserve(claim(30, 1_000, request=1, key=KEY))
    second = await reservations.reserve(claim(20, 1_000, request=2, key=KEY))
    with pytest.raises(KeyLimit):
        await reservations.reserve(claim(1, 1_000, request=3, key=KEY))
    await reservations.reserve(claim(500, 1_000, request=4, key=OTHER_KEY))
    await reservations.reserve(claim(100, 1_000, request=5))
    assert await reservations.release(first)
    # Metered: less than was set aside is charged, and the rest is free again.
    assert await reservations.commit(second, 5, 5)
    third = await reservations.reserve(claim(45, 1_000, request=6, key=KEY))
    with pytest.raises(KeyLimit):
        await reservations.reserve(claim(1, 1_000, request=7, key=KEY))
    assert await reservations.commit(third, 50, 50)
    with pytest.raises(KeyLimit):
        await reservations.reserve(claim(1, 1_000, request=8, key=KEY))
    await reservations.reserve(claim(0, 1_000, request=9, key=KEY))


async def test_what_a_key_set_aside_comes_back_when_its_time_is_over(reservations, claim):
    await reservations.reserve(claim(50, 1_000, request=1, key=KEY, ttl_seconds=0.05))
    await asyncio.sleep(0.1)
    await reservations.reserve(claim(50, 1_000, request=2, key=KEY))


async def test_what_a_key_spent_is_read_from_the_ledger(reservations, claim, ledger):
    ledger.spent[KEY.key_hash] = 45
    with pytest.raises(KeyLimit):
        await reservations.reserve(claim(6, 1_000, request=1, key=KEY))
    await reservations.reserve(claim(5, 1_000, request=2, key=KEY))


async def test_requests_at_once_do_not_pass_a_keys_limit(reservations, claim):
    done = await asyncio.gather(
        *(reservations.reserve(claim(7, 10_000, request=n, key=KEY)) for n in range(1, 30)), return_exceptions=True
    )
    assert sum(not isinstance(one, Exception) for one in done) == 7
    assert all(isinstance(one, KeyLimit) for one in done if isinstance(one, Exception))


@pytest.mark.integration
async def test_what_the_version_before_keys_set_aside_expires_as_ever(redis_url, ledger, claim, channel_id):
    adapter = RedisReservations(redis_url, ledger)
    await adapter.reserve(claim(10, 100, request=1, ttl_seconds=0.05))
    state, hold = f"channel:{{{channel_id.hex()}}}", f"h:{(1).to_bytes(32, 'big').hex()}"
    with sync_redis.Redis.from_url(redis_url) as client:
        # Its processes may still read what is written without a key, and theirs are found after an upgrade.
        assert client.hget(state, hold) == b"0000000000000001:10:0"
        client.hset(state, hold, b"0000000000000001:10:0")
    await asyncio.sleep(0.1)
    await adapter.reserve(claim(100, 100, request=2))
    await adapter.close()


@pytest.mark.integration
async def test_processes_together_do_not_pass_a_keys_limit(redis_url, ledger, claim):
    both = [RedisReservations(redis_url, ledger) for _ in range(2)]
    wishes = [claim(7, 1_000, request=number, key=KEY) for number in range(1, 31)]
    done = await asyncio.gather(*(both[i % 2].reserve(wish) for i, wish in enumerate(wishes)), return_exceptions=True)
    made = [one for one in done if not isinstance(one, Exception)]
    assert len(made) == KEY.limit // 7
    assert all(isinstance(one, KeyLimit) for one in done if isinstance(one, Exception))
    # Metered: less is charged than was set aside, and each process sees what the other gave back.
    for spent, reservation in enumerate(made, start=1):
        assert await both[spent % 2].commit(reservation, spent, spent)
    assert (await both[0].reserve(claim(KEY.limit - len(made), 1_000, request=99, key=KEY))).key == KEY
    with pytest.raises(KeyLimit):
        await both[1].reserve(claim(1, 1_000, request=100, key=KEY))
    for adapter in both:
        await adapter.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def shared(request, ledger):
    """Reservations told by call-back, and the awaited form over the same state."""
    if request.param == "memory":
        memory = MemoryReservations(ledger)
        yield ToldLater(memory), memory
        return
    adapter = RedisReservations(request.getfixturevalue("redis_url"), ledger)
    yield adapter, adapter
    await adapter.close()


async def soon(reservations, *claims):
    """What each claim is told; all are asked in one turn of the loop."""
    told = [asyncio.get_running_loop().create_future() for _ in claims]
    for one, future in zip(claims, told, strict=True):
        reservations.reserve_soon(one, future.set_result)
    assert not any(future.done() for future in told)
    return await asyncio.gather(*told)


async def test_told_by_call_back_it_is_the_same(shared, claim, channel_id):
    told, awaited = shared
    assert await soon(told, claim(30, 100, request=1)) == [None]
    await awaited.release(await awaited.reserve(claim(30, 100, request=1)))
    first, second, short = await soon(told, *(claim(40, 100, request=number) for number in (2, 3, 4)))
    assert (second.seq, second.cumulative, second.voucher_amount) == (first.seq + 1, 40, 100)
    assert (type(short), short.required) == (InsufficientVoucher, 120)
    told.commit_now(first, 40)
    told.release_now(second)
    third, again = await soon(told, claim(60, 100, request=5), claim(60, 100, request=5))
    assert (third.cumulative, type(again)) == (100, RequestInProgress)
    account = await awaited.account(channel_id)
    assert (account.charged, account.reserved) == (40, 60)


async def test_told_by_call_back_a_key_waits_for_the_ledger_once(shared, claim):
    told, awaited = shared
    await awaited.release(await awaited.reserve(claim(1, 100, request=1)))
    key = KeySpending(b"\x0a" * 32, 50)
    assert await soon(told, claim(30, 100, request=2, key=key)) == [None]
    await awaited.release(await awaited.reserve(claim(30, 100, request=2, key=key)))
    first, over = await soon(told, claim(30, 100, request=3, key=key), claim(30, 100, request=4, key=key))
    assert (first.key, type(over)) == (key, KeyLimit)


@pytest.mark.integration
async def test_told_by_call_back_that_redis_is_away(ledger, claim, unused_tcp_port):
    adapter = RedisReservations(f"redis://127.0.0.1:{unused_tcp_port}/0", ledger)
    told = await soon(adapter, claim(30, 100, request=1), claim(30, 100, request=2))
    assert [type(one) for one in told] == [RedisUnreachable] * 2
    await adapter.close()


@pytest.mark.integration
async def test_scripts_are_taught_again_to_a_redis_that_forgot_them(redis_url, ledger, claim):
    adapter = RedisReservations(redis_url, ledger)
    await adapter.release(await adapter.reserve(claim(30, 100, request=1)))
    sync_redis.Redis.from_url(redis_url).script_flush()
    first, second = await soon(adapter, claim(30, 100, request=2), claim(30, 100, request=3))
    assert (first.cumulative, second.seq) == (30, first.seq + 1)
    await adapter.close()


@pytest.mark.integration
async def test_what_ends_as_a_process_closes_has_ended(redis_url, ledger, claim, channel_id):
    closing, other = RedisReservations(redis_url, ledger), RedisReservations(redis_url, ledger)
    first, second = [await closing.reserve(claim(30, 100, request=number)) for number in (1, 2)]
    closing.commit_now(first, 30)
    closing.release_now(second)
    await closing.close()
    account = await other.account(channel_id)
    assert (account.charged, account.reserved) == (30, 0)
    await other.close()


def set_clock(redis_url, channel_id, seconds):
    """Let everything that a server wrote of a channel be as if its clock had been set on by so much just now."""
    state = f"channel:{{{channel_id.hex()}}}"
    with sync_redis.Redis.from_url(redis_url) as client:
        for name in ("at", "seen"):
            if (was := client.hget(state, name)) is not None:
                client.hset(state, name, int(was) - int(seconds * 1_000))
        for hold, until in client.zrange(f"{state}:holds", 0, -1, withscores=True):
            client.zadd(f"{state}:holds", {hold: until - seconds * 1_000})


@pytest.mark.integration
@pytest.mark.parametrize("seconds", [31, 3_600, 86_000, -3_600, -10_000_000])
async def test_a_server_whose_clock_is_set_frees_nothing_that_is_under_way(
    redis_url, ledger, claim, channel_id, seconds
):
    adapter = RedisReservations(redis_url, ledger)
    under_way = await adapter.reserve(claim(60, 1_000, request=1, limit=100, ttl_seconds=30.5))
    left = await adapter.reserve(claim(40, 1_000, request=2, limit=100, ttl_seconds=30.5))
    set_clock(redis_url, channel_id, seconds)
    with pytest.raises(OverLimit):
        await adapter.reserve(claim(1, 1_000, request=3, limit=100))
    with pytest.raises(RequestInProgress):
        await adapter.reserve(claim(1, 1_000, request=1, limit=100, token=3))
    assert await adapter.commit(under_way, 60)
    assert (await adapter.account(channel_id)).reserved == 40
    if seconds < 0:
        set_clock(redis_url, channel_id, 30)
        with pytest.raises(OverLimit):
            await adapter.reserve(claim(1, 1_000, request=3, limit=100))
    # What nobody closes ends all the same, when half a minute and its last half second passed.
    await asyncio.sleep(0.7)
    await adapter.reserve(claim(40, 1_000, request=4, limit=100))
    assert not await adapter.release(left)
    await adapter.close()
