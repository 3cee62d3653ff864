"""One suite for every adapter of `payments.ports.KeyBook`, with the ledger that counts what keys spend."""

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from market.adapters.database.engine import writing
from market.adapters.database.key_book import DatabaseKeyBook
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.tables_keys import api_keys
from market.adapters.memory_keys import MemoryKeyBook
from market.adapters.memory_ledger import MemoryLedger
from market.errors import KeyLimit
from market.payments.keys import KeyCount
from market.payments.model import KeySpending, ParsedVoucher
from tests.support.databases import SERVERS, open_database
from tests.support.keys import api_key
from tests.support.money import CHANNEL_ID, GATEWAY, charge

KEY = api_key(1, limit=100)
HASH = KEY.grant.key_hash


@pytest.fixture(params=["memory", *SERVERS])
def kept(request, tmp_path):
    """A book and its ledger."""
    if request.param == "memory":
        ledger = MemoryLedger()
        yield MemoryKeyBook(ledger), ledger
        return
    engine = open_database(request.param, tmp_path)
    book, ledger = DatabaseKeyBook(engine), DatabaseLedger(engine, GATEWAY.address)
    yield book, ledger
    book.close()
    ledger.close()
    engine.dispose()


def spending(price, *, request, key=KEY):
    return replace(charge(price, 10_000, request=request), key=key.spending)


async def test_a_key_is_kept_as_it_was_made(kept):
    book, _ = kept
    full = api_key(2, limit=2**63 - 1, models=("minilm", "a/b c"), expires_at=2_000_000_000, created_at=5)
    assert await book.add(full) == full
    assert await book.find(full.grant.key_hash) == full
    assert await book.find(b"\0" * 32) is None


async def test_a_hash_names_one_key_for_ever(kept):
    book, _ = kept
    await book.add(KEY)
    other = replace(KEY, grant=replace(KEY.grant, spending_limit=10**6, name="mine"))
    assert (await book.add(other)).grant == KEY.grant


async def test_keys_of_a_channel_are_listed_the_oldest_first(kept):
    book, _ = kept
    keys = [api_key(number, created_at=10 - number) for number in range(1, 4)]
    for key in keys:
        await book.add(key)
    await book.add(api_key(9, channel_id=b"\x09" * 32))
    assert [key.grant.name for key in await book.of_channel(CHANNEL_ID)] == ["key 3", "key 2", "key 1"]


async def test_a_key_is_revoked_once_and_stays(kept):
    book, _ = kept
    await book.add(KEY)
    assert (await book.revoke(HASH, 50)).revoked_at == 50
    assert (await book.revoke(HASH, 60)).revoked_at == 50
    assert (await book.find(HASH)).revoked_at == 50
    assert (await book.add(KEY)).revoked_at == 50
    assert await book.revoke(b"\0" * 32, 50) is None


async def test_the_best_voucher_stands_behind_all_keys_of_its_channel(kept):
    book, _ = kept
    stranger = api_key(8, channel_id=b"\x09" * 32, ceiling=7)
    for key in (api_key(1, ceiling=500), api_key(2, ceiling=900), api_key(3, ceiling=600), stranger):
        await book.add(key)
    found = await book.of_channel(CHANNEL_ID)
    assert {key.voucher for key in found} == {ParsedVoucher(CHANNEL_ID, 900, (900).to_bytes(65, "big"))}
    await book.fund(ParsedVoucher(CHANNEL_ID, 800, b"\1" * 65), 0)
    await book.fund(ParsedVoucher(CHANNEL_ID, 1_000, b"\2" * 65), 0)
    assert (await book.find(HASH)).voucher == ParsedVoucher(CHANNEL_ID, 1_000, b"\2" * 65)
    assert (await book.find(stranger.grant.key_hash)).voucher.cumulative_amount == 7


async def test_a_voucher_is_kept_for_open_keys_and_found_again_where_it_stood_behind_ended_ones(kept):
    """Ended keys stay for ever: to write to all of them each time would keep charges waiting."""
    book, _ = kept
    ended, over, still = (api_key(number, ceiling=500, expires_at=50 if number == 2 else 0) for number in (1, 2, 3))
    for key in (ended, over, still):
        await book.add(key)
    await book.revoke(ended.grant.key_hash, 10)
    await book.fund(ParsedVoucher(CHANNEL_ID, 900, b"\2" * 65), 50)
    found = {key.grant.name: key.voucher.cumulative_amount for key in await book.of_channel(CHANNEL_ID)}
    assert found == {"key 1": 500, "key 2": 500, "key 3": 900}
    await book.revoke(still.grant.key_hash, 60)
    await book.add(api_key(4, ceiling=600, created_at=70))
    newest = await book.find(api_key(4).grant.key_hash)
    assert newest.voucher == ParsedVoucher(CHANNEL_ID, 900, b"\2" * 65)


async def test_keys_are_counted_with_what_they_may_still_spend(kept):
    book, ledger = kept
    assert await book.count(CHANNEL_ID, 0) == KeyCount(0, 0, 0)
    for number, expires_at in ((1, 0), (2, 50), (3, 0)):
        await book.add(api_key(number, limit=100, expires_at=expires_at))
    await book.add(api_key(9, channel_id=b"\x09" * 32))
    await ledger.record(spending(60, request=1))
    assert await book.count(CHANNEL_ID, 49) == KeyCount(3, 3, 240)
    assert await book.count(CHANNEL_ID, 50) == KeyCount(3, 2, 140)
    await book.revoke(HASH, 50)
    assert await book.count(CHANNEL_ID, 50) == KeyCount(3, 1, 100)


async def test_a_charge_counts_on_its_key(kept):
    book, ledger = kept
    await book.add(KEY)
    first = await ledger.record(spending(60, request=1))
    second = await ledger.record(charge(500, 10_000, request=2))
    third = await ledger.record(spending(40, request=3))
    assert [one.key_spent for one in (first, second, third)] == [60, 0, 100]
    assert (await book.find(HASH)).spent == await ledger.key_spent(HASH) == 100
    assert await ledger.key_spent(b"\0" * 32) == 0
    with pytest.raises(KeyLimit):
        await ledger.record(spending(1, request=4))
    assert (await ledger.account(CHANNEL_ID)).charged == 600
    assert await ledger.receipt((4).to_bytes(32, "big")) is None


async def test_a_key_never_passes_its_limit_in_one_group(kept):
    book, ledger = kept
    other = api_key(2, limit=1_000)
    await book.add(KEY)
    await book.add(other)
    charges = [spending(9, request=number, key=KEY if number % 2 else other) for number in range(60)]
    done = await asyncio.gather(*(ledger.record(one) for one in charges), return_exceptions=True)
    assert sum(isinstance(one, KeyLimit) for one in done) == 30 - 11
    assert await ledger.key_spent(HASH) == 99
    assert await ledger.key_spent(other.grant.key_hash) == 270
    assert (await ledger.account(CHANNEL_ID)).charged == 99 + 270


async def test_two_processes_share_one_limit(engine):
    book = DatabaseKeyBook(engine)
    ledgers = [DatabaseLedger(engine, GATEWAY.address) for _ in range(2)]
    try:
        await book.add(KEY)
        done = await asyncio.gather(
            *(ledgers[number % 2].record(spending(7, request=number)) for number in range(40)), return_exceptions=True
        )
        assert sum(not isinstance(one, Exception) for one in done) == 14
        assert all(isinstance(one, KeyLimit) for one in done if isinstance(one, Exception))
        assert (await book.find(HASH)).spent == 98
    finally:
        for ledger in ledgers:
            ledger.close()
        book.close()


async def test_a_charge_by_a_key_nobody_made_is_refused(engine):
    ledger = DatabaseLedger(engine, GATEWAY.address)
    try:
        with pytest.raises(KeyLimit):
            await ledger.record(replace(charge(1, 100, request=1), key=KeySpending(HASH, 10**6)))
    finally:
        ledger.close()


async def test_the_table_itself_refuses_more_than_the_limit(engine):
    book = DatabaseKeyBook(engine)
    await book.add(KEY)
    book.close()
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(sa.update(api_keys).values(spent=101))


async def test_a_better_voucher_locks_keys_in_the_order_in_which_charges_do(tmp_path):
    # On PostgreSQL alone: SQLite locks the whole database.
    engine = open_database("postgres", tmp_path)
    book = DatabaseKeyBook(engine)
    low, high = sorted((api_key(1), api_key(2)), key=lambda key: key.grant.key_hash)
    await book.add(high)
    await book.add(low)
    lock = sa.select(api_keys.c.spent).with_for_update()
    try:
        with writing(engine) as charging:
            charging.execute(lock.where(api_keys.c.key_hash == low.grant.key_hash))
            funding = asyncio.create_task(book.fund(ParsedVoucher(CHANNEL_ID, 20_000, b"\x09" * 65), 0))
            await asyncio.sleep(0.3)
            charging.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
            await asyncio.to_thread(charging.execute, lock.where(api_keys.c.key_hash == high.grant.key_hash))
        await funding
        assert (await book.find(low.grant.key_hash)).voucher.cumulative_amount == 20_000
    finally:
        book.close()
        engine.dispose()
