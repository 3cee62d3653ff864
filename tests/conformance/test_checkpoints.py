"""SQLite's log is carried over by a thread, and does not grow for ever; a real database in a file."""

import sqlite3
import time
from contextlib import closing, suppress

from market.adapters.database.checkpoints import Checkpoints
from market.adapters.database.engine import open_engine
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.migrate import upgrade
from tests.support.money import GATEWAY, charge


async def test_the_log_does_not_grow_with_what_is_written(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'market.db'}")
    upgrade(engine)
    ledger = DatabaseLedger(engine, GATEWAY.address)
    ledger._checkpoints.close()
    ledger._checkpoints = Checkpoints(engine, ledger._writer.do, rows_between=50)
    sizes = []
    for number in range(600):
        await ledger.record(charge(1, 10**6, request=number, seq=number))
        sizes.append((tmp_path / "market.db-wal").stat().st_size)
    pages = max(sizes) / 4_096
    # Some seven pages a charge.
    assert pages < 600 * 7 / 2
    file, written = f"file:{tmp_path / 'market.db'}?mode=ro&immutable=1", 0
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and written < 500:
        # Read without a lock, the file may be seen half written.
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(file, uri=True)) as alone:
            (written,) = alone.execute("SELECT count(*) FROM receipts").fetchone()
    # What the file itself holds, without its log.
    assert written >= 500
    ledger.close()
    engine.dispose()


def test_a_database_that_is_gone_does_not_end_the_thread(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'no-such-folder' / 'market.db'}")
    checkpoints = Checkpoints(engine, lambda action: action(), rows_between=1)
    for _ in range(3):
        checkpoints.count(1)
        time.sleep(0.02)
    assert checkpoints._thread.is_alive()
    checkpoints.close()
