"""Takes a SQLite file into WAL mode though other programs make the same new file at this moment."""

from __future__ import annotations

import sqlite3
import time

WAIT_SECONDS = 10.0


def enter_wal(database: sqlite3.Connection | sqlite3.Cursor) -> None:
    """Set the journal's mode, again and again for ten seconds while another program changes it.

    The busy timeout does not count here: where two readers both want to change the mode, SQLite asks neither to wait.

    Raises:
        sqlite3.DatabaseError: the file stays locked, cannot be written or is no database; a note names it.
    """
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                error.add_note(str(database.execute("PRAGMA database_list").fetchone()[2]))
                raise
            time.sleep(0.01)
