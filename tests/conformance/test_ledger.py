"""One suite for every adapter of `payments.ports.Ledger`; SQLite and PostgreSQL are real."""

import asyncio
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import IntegrityError

from market.adapters.database import migrate
from market.adapters.database import tables_ledger as t
from market.adapters.database.engine import open_engine, reading, writing
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.migrate import newest_revision, upgrade
from market.adapters.database.schema import metadata
from market.adapters.memory_ledger import MemoryLedger
from market.errors import ConfigurationError, DatabaseUnreachable, InsufficientVoucher
from market.payments.model import Evidence
from market.payments.ports import DuplicateCharge
from tests.support.databases import SERVERS, open_database
from tests.support.money import GATEWAY, charge

WORKER_PAYEE, OWNER_PAYEE = b"\x07" * 20, b"\x08" * 20


@pytest.fixture
def database(engine):
    ledger = DatabaseLedger(engine, GATEWAY.address)
    yield ledger
    ledger.close()


@pytest.fixture(params=["memory", *SERVERS])
def ledger(request, tmp_path):
    if request.param == "memory":
        yield MemoryLedger()
        return
    made = open_database(request.param, tmp_path)
    ledger = DatabaseLedger(made, GATEWAY.address)
    yield ledger
    ledger.close()
    made.dispose()


async def test_many_are_recorded_and_looked_up_at_once_as_one_by_one(ledger):
    if isinstance(ledger, MemoryLedger):
        pytest.skip("has the awaited forms only")
    charges = [charge(100, 1_000, request=number, seq=number, outputs=b"out") for number in (1, 2, 1)]
    recorded = asyncio.get_running_loop().create_future()
    ledger.record_all(charges, recorded.set_result)
    first, second, third = await recorded
    assert (first.charged, second.charged, type(third)) == (100, 200, DuplicateCharge)
    channel_id = charges[0].receipt.channel_id
    wanted = [(channel_id, number.to_bytes(32, "big")) for number in (2, 3, 1)]
    found = asyncio.get_running_loop().create_future()
    ledger.answer_all(wanted, found.set_result)
    assert await found == [await ledger.answer(*one) for one in wanted]
    assert [one and one.outputs for one in await found] == [b"out", None, b"out"]


async def test_charge_moves_everything_at_once(ledger):
    first = await ledger.record(charge(100, 1_000, request=1))
    second = await ledger.record(charge(50, 500, request=2, seq=5))
    assert (first.charged, second.charged) == (100, 150)
    assert (first.worker_earned, second.worker_earned) == (80, 120)
    channel_id = charge(1, 1, request=1).receipt.channel_id
    account = await ledger.account(channel_id)
    assert (account.charged, account.ceiling, account.last_seq) == (150, 1_000, 5)
    assert account.voucher_signature == (1_000).to_bytes(65, "big")
    assert (await ledger.earned(WORKER_PAYEE), await ledger.earned(OWNER_PAYEE)) == (120, 15)
    assert {(one.role, one.requests, one.earned) for one in await ledger.earnings(WORKER_PAYEE)} == {("worker", 2, 120)}
    stored = await ledger.receipts(channel_id)
    assert [one.receipt.price for one in stored] == [100, 50]
    assert stored[0].receipt == charge(100, 1_000, request=1).receipt
    assert (stored[0].epoch, stored[0].leaf_index) == (None, None)
    assert stored[0].position < stored[1].position
    assert [one.receipt.price for one in await ledger.receipts(channel_id, after=stored[0].position)] == [50]


async def test_total_never_passes_the_best_voucher(ledger):
    await ledger.record(charge(60, 100, request=1))
    with pytest.raises(InsufficientVoucher) as caught:
        await ledger.record(charge(41, 90, request=2))
    assert caught.value.required == 101
    assert (await ledger.record(charge(40, 90, request=3))).charged == 100
    assert await ledger.receipt((2).to_bytes(32, "big")) is None


async def test_one_request_id_is_charged_once_a_channel(ledger):
    await ledger.record(charge(10, 100, request=1))
    with pytest.raises(DuplicateCharge):
        await ledger.record(charge(10, 100, request=1, seq=2))
    await ledger.record(charge(10, 100, request=1, salt=1))
    channel_id = charge(1, 1, request=1).receipt.channel_id
    assert (await ledger.account(channel_id)).charged == 10
    assert await ledger.receipt((1).to_bytes(32, "big")) is None
    assert (await ledger.receipt((1).to_bytes(32, "big"), channel_id)).receipt.channel_id == channel_id


async def test_answers_are_kept_for_their_time(ledger):
    await ledger.record(charge(10, 100, request=1, outputs=b"out"))
    await ledger.record(charge(10, 100, request=2))
    channel_id = charge(1, 1, request=1).receipt.channel_id
    assert (await ledger.answer(channel_id, (1).to_bytes(32, "big"))).outputs == b"out"
    assert (await ledger.answer(channel_id, (2).to_bytes(32, "big"))).outputs is None
    assert await ledger.answer(channel_id, (3).to_bytes(32, "big")) is None
    assert await ledger.answer(b"\x00" * 32, (1).to_bytes(32, "big")) is None
    assert await ledger.sweep(999.0) == 0
    assert await ledger.sweep(1_000.0) == 1
    assert (await ledger.answer(channel_id, (1).to_bytes(32, "big"))).outputs is None


async def test_unknown_channel_and_payee(ledger):
    assert await ledger.account(b"\x00" * 32) is None
    assert await ledger.earned(b"\x00" * 20) == 0
    assert list(await ledger.earnings(b"\x00" * 20)) == []


async def test_one_bad_charge_does_not_fail_its_neighbours(ledger):
    await ledger.record(charge(10, 10_000, request=0))
    charges = [charge(10, 10_000, request=i // 2, salt=0) for i in range(60)]
    charges += [charge(100, 99, request=i, salt=2) for i in range(5)]
    done = await asyncio.gather(*(ledger.record(one) for one in charges), return_exceptions=True)
    assert sum(isinstance(one, DuplicateCharge) for one in done) == 31
    assert sum(isinstance(one, InsufficientVoucher) for one in done) == 5
    assert (await ledger.account(charges[0].receipt.channel_id)).charged == 300


async def test_concurrent_charges_add_up(ledger):
    charges = [charge(7, 10**6, request=i, salt=i % 13) for i in range(1_500)]
    totals = await asyncio.gather(*(ledger.record(one) for one in charges))
    assert await ledger.earned(WORKER_PAYEE) == sum(one.receipt.worker_amount for one in charges)
    assert max(total.worker_earned for total in totals) == await ledger.earned(WORKER_PAYEE)
    for salt in range(13):
        mine = [one for one in charges if one.channel.salt == salt]
        assert (await ledger.account(mine[0].receipt.channel_id)).charged == 7 * len(mine)


async def test_largest_salt(ledger):
    assert (await ledger.record(charge(1, 1, request=1, salt=2**64 - 1))).charged == 1


async def test_evidence_is_kept(database, engine):
    receipt = charge(1, 1, request=1).receipt
    await database.keep_evidence(Evidence("receipt-mismatch", b"\x01" * 20, receipt, b"sig", "why", 5.0))
    with reading(engine) as connection:
        row = connection.execute(sa.select(t.evidence)).one()
    assert (row.receipt, row.signature, row.detail) == (receipt.to_bytes(), b"sig", "why")


# --- the database alone --------------------------------------------------------------------------------------------


async def test_a_new_ledger_on_the_same_database_continues(database, engine):
    await database.record(charge(60, 100, request=1, seq=9))
    again = DatabaseLedger(engine, GATEWAY.address)
    assert (await again.record(charge(40, 100, request=2))).charged == 100
    with pytest.raises(InsufficientVoucher):
        await again.record(charge(1, 100, request=3))
    again.close()


async def test_two_processes_charge_one_channel(engine):
    ledgers = [DatabaseLedger(engine, GATEWAY.address) for _ in range(3)]
    charges = [charge(10, 4_000, request=i) for i in range(600)]
    done = await asyncio.gather(*(ledgers[i % 3].record(one) for i, one in enumerate(charges)), return_exceptions=True)
    assert sum(isinstance(one, InsufficientVoucher) for one in done) == 200
    assert sum(not isinstance(one, Exception) for one in done) == 400
    assert (await ledgers[0].account(charges[0].receipt.channel_id)).charged == 4_000
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("values", [{"charged": 101}, {"charged": -1}, {"voucher_amount": 99}])
async def test_the_table_itself_refuses_an_uncovered_charge(database, engine, values):
    await database.record(charge(100, 100, request=1))
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(t.channel_accounts.update().values(values))


async def test_a_group_that_breaks_off_leaves_nothing(database, engine):
    broken = charge(10, 100, request=1)
    broken = replace(broken, worker_payee=None)  # NOT NULL: the receipts insert fails half way
    done = await asyncio.gather(
        database.record(charge(10, 100, request=2)), database.record(broken), return_exceptions=True
    )
    assert all(isinstance(one, Exception) for one in done)
    assert await database.account(broken.receipt.channel_id) is None
    assert await database.earned(OWNER_PAYEE) == 0


async def test_a_cancelled_caller_is_charged_all_the_same(database):
    task = asyncio.create_task(database.record(charge(10, 100, request=1)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await database.record(charge(10, 100, request=2))).charged == 20


async def test_readers_do_not_wait_for_a_writer(database, engine):
    await database.record(charge(10, 100, request=1))
    with writing(engine) as connection:
        connection.execute(t.payee_totals.update().values(earned=1))
        assert await asyncio.wait_for(database.earned(WORKER_PAYEE), 2) == 8


def test_sqlite_is_durable(engine):
    if engine.dialect.name != "sqlite":
        pytest.skip("SQLite's settings")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_migrations_make_exactly_the_declared_schema(engine):
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.parametrize("attempt", range(20))  # one file in sixty was found locked
def test_upgrades_at_the_same_time_take_turns(tmp_path, attempt):
    engines = [open_engine(f"sqlite:///{tmp_path}/both.db") for _ in range(3)]
    faults = []

    def run(engine):
        try:
            upgrade(engine)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for engine in engines:
        engine.dispose()


def test_unreachable_database_is_named(tmp_path):
    with pytest.raises(DatabaseUnreachable):
        upgrade(open_engine(f"sqlite:///{tmp_path}/no/such/folder.db"))
    with pytest.raises(DatabaseUnreachable):
        open_engine("nonsense://")


def test_the_name_of_a_migration_tells_the_newest(tmp_path):
    folder = Path(migrate.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == newest_revision()
    engine = open_engine(f"sqlite:///{tmp_path / 'market.db'}")
    for _ in range(2):
        upgrade(engine)
        with engine.connect() as connection:
            assert MigrationContext.configure(connection).get_current_revision() == newest_revision()
    engine.dispose()


def test_a_database_of_a_newer_version_is_named(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError) as refused:
        upgrade(engine)
    assert refused.value.field == "MARKET_DATABASE_URL"
    assert "newer version (9999" in str(refused.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "market.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    engine = open_engine(f"sqlite:///{tmp_path / 'market.db'}")
    with pytest.raises(DatabaseUnreachable, match="damaged"):
        upgrade(engine)
    engine.dispose()


async def test_a_charge_goes_on_soon_after_another_process_lets_go_of_sqlite(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'market.db'}")
    upgrade(engine)
    ledger = DatabaseLedger(engine, GATEWAY.address)
    await ledger.record(charge(1, 100, request=1))
    other = sqlite3.connect(tmp_path / "market.db", isolation_level=None, check_same_thread=False)
    late = []
    for request in range(2, 6):
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(ledger.record(charge(1, 100, request=request)))
        await asyncio.sleep(0.25)
        assert not waiting.done()
        other.execute("COMMIT")
        released = time.monotonic()
        await waiting
        late.append(time.monotonic() - released)
    # SQLite's own waiting would be asleep for up to 0.1 s, half of that on average.
    assert min(late) < 0.03
    other.close()
    ledger.close()
    engine.dispose()


async def test_small_groups_are_charged_where_it_costs_least(database, engine, monkeypatch):
    threads, commit = [], database._commit

    def watched(*arguments, **options):
        threads.append(threading.get_ident())
        return commit(*arguments, **options)

    monkeypatch.setattr(database, "_commit", watched)
    await database.record(charge(1, 1_000, request=0))
    assert (threads == [threading.get_ident()]) == (engine.dialect.name == "sqlite")
    threads.clear()
    await asyncio.gather(*(database.record(charge(1, 1_000, request=number)) for number in range(1, 200)))
    assert threading.get_ident() not in threads, "two hundred at once would hold up everybody"
    assert (await database.account(charge(1, 1, request=0).receipt.channel_id)).charged == 200
