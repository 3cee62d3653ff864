import sqlite3
import threading

import pytest

from contracts.wal import enter_wal


@pytest.mark.parametrize("attempt", range(20))
def test_programs_that_make_the_same_file_at_once_wait_for_each_other(tmp_path, attempt):
    start, faults = threading.Barrier(4), []

    def run():
        database = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
        start.wait()
        try:
            enter_wal(database)
            database.execute("CREATE TABLE IF NOT EXISTS words (word TEXT)")
        except sqlite3.OperationalError as error:
            faults.append(error)
        database.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_file_that_cannot_be_written_is_named_at_once(tmp_path):
    sqlite3.connect(tmp_path / "made.db").execute("CREATE TABLE words (word TEXT)").connection.close()
    database = sqlite3.connect(f"file:{tmp_path / 'made.db'}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        enter_wal(database)
