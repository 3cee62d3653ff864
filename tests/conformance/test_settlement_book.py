"""The book of settlement on both databases: whose turn a receipt is, and what an older schema's columns become."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from market.adapters.database import migrate
from market.adapters.database import tables_ledger as t
from market.adapters.database.engine import reading
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.settlement_book import DatabaseSettlementBook
from market.settlement.ports import Batch
from tests.support.money import CHANNEL_ID, GATEWAY, charge


@pytest.fixture
def ledger(engine):
    ledger = DatabaseLedger(engine, GATEWAY.address)
    yield ledger
    ledger.close()


def batch(epoch, receipts):
    return Batch(GATEWAY.address, epoch, bytes(32), len(receipts), 0, 0, b"")


async def charged(ledger, count):
    await asyncio.gather(*(ledger.record(charge(10, 10_000, request=1 + i)) for i in range(count)))


async def places(ledger):
    return [(stored.epoch, stored.leaf_index) for stored in await ledger.receipts(CHANNEL_ID)]


async def test_a_receipt_is_in_one_batch(engine, ledger):
    await charged(ledger, 5)
    book = DatabaseSettlementBook(engine)
    due = book.due(GATEWAY.address, 3).receipts
    assert [receipt.position for receipt in due] == sorted(receipt.position for receipt in due)
    assert book.decide(batch(1, due), due[::-1], {CHANNEL_ID: 30})
    assert await places(ledger) == [(1, 2), (1, 1), (1, 0), (None, None), (None, None)]
    rest = book.due(GATEWAY.address, 10)
    assert len(rest.receipts) == 2
    assert rest.channels[CHANNEL_ID].claimed == 30
    assert book.backlog(GATEWAY.address).receipts == 2
    # Another process that read the same before may not take one of them again.
    assert not book.decide(batch(2, due), [*rest.receipts, due[0]], {})
    assert book.backlog(GATEWAY.address).receipts == 2
    assert book.batch(GATEWAY.address, 2) is None
    assert [s.leaf_index for s in await ledger.batch(1)] == [0, 1, 2]
    assert [s.leaf_index for s in await ledger.batch(1, after=0, limit=1)] == [1]


async def test_what_another_process_promised_meanwhile_is_not_marked_as_paid(engine, ledger):
    await charged(ledger, 2)
    book, other = DatabaseSettlementBook(engine), DatabaseSettlementBook(engine)
    receipts = book.due(GATEWAY.address, 2).receipts
    payee, paid = receipts[0].worker_payee, receipts[0].owner_payee
    assert book.decide(batch(1, receipts[:1]), receipts[:1], {CHANNEL_ID: 10, payee: 8, paid: 1})
    seen = book.due(GATEWAY.address, 2)
    assert seen.unpaid == {CHANNEL_ID, payee, paid}
    assert other.decide(batch(2, receipts[1:]), receipts[1:], {CHANNEL_ID: 20, payee: 16})
    book.mark_paid(GATEWAY.address, {CHANNEL_ID: 10, payee: 8, paid: 1})  # as the chain says of the first batch
    assert book.due(GATEWAY.address, 2).unpaid == {CHANNEL_ID, payee}
    book.mark_paid(GATEWAY.address, {CHANNEL_ID: 20, payee: 16})
    assert not book.due(GATEWAY.address, 2).unpaid
    book.mark_paid(GATEWAY.address, {})


async def test_a_batch_that_is_withdrawn_gives_its_receipts_back(engine, ledger):
    await charged(ledger, 3)
    book = DatabaseSettlementBook(engine)
    due = book.due(GATEWAY.address, 2).receipts
    assert book.decide(batch(1, due), due, {CHANNEL_ID: 20})
    book.withdraw(GATEWAY.address, 1)
    assert await places(ledger) == [(None, None)] * 3
    again = book.due(GATEWAY.address, 10)
    assert len(again.receipts) == 3
    assert again.channels[CHANNEL_ID].claimed == 0
    book.withdraw(GATEWAY.address, 1)  # there is no such batch any more
    assert book.backlog(GATEWAY.address).receipts == 3


async def test_what_an_older_schema_says_of_receipts_is_kept(engine, ledger):
    await charged(ledger, 4)
    book = DatabaseSettlementBook(engine)
    due = book.due(GATEWAY.address, 2).receipts
    assert book.decide(batch(7, due), due, {CHANNEL_ID: 20})
    before = await places(ledger)
    ledger.close()
    engine.dispose()

    _migrate(engine, command.downgrade, "0008")
    with engine.connect() as connection:
        old = connection.execute(sa.text("SELECT epoch, leaf_index FROM receipts ORDER BY position")).all()
    assert [tuple(row) for row in old] == before
    _migrate(engine, command.upgrade, "head")

    reopened = DatabaseLedger(engine, GATEWAY.address)
    assert await places(reopened) == before
    with reading(engine) as connection:
        waiting = connection.execute(sa.select(t.unsettled_receipts.c.position)).scalars().all()
    assert sorted(waiting) == [receipt.position for receipt in book.due(GATEWAY.address, 10).receipts]
    await reopened.record(charge(10, 10_000, request=99))
    assert book.backlog(GATEWAY.address).receipts == 3
    reopened.close()


def _migrate(engine, how, revision):
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        how(config, revision)
