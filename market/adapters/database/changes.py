"""Tells whether anything was written to an SQLite file, without a query: what follows a database need not read it else.

A look costs some microseconds, so it may stand in the event loop. Of a database server that says no such thing, the
answer is always that something may have been written. Used by the loop that follows the registry.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine


class Changes:
    """One reader's memory of when it last looked; for one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._seen: int | None = None

    def any(self) -> bool:
        """Tell whether something may have been written since the last call; True at the first."""
        if self._engine.dialect.name != "sqlite":
            return True
        try:
            version = self._version()
        except sqlite3.Error:
            # Whoever reads the database says what is wrong with it.
            self.close()
            return True
        seen, self._seen = self._seen, version
        return version != seen

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _version(self) -> int:
        if self._connection is None:
            # One that nobody writes by: the number is of what others wrote.
            pooled = self._engine.raw_connection()
            pooled.detach()
            self._connection = pooled
            pooled.cursor().execute("PRAGMA busy_timeout = 0")
        (version,) = self._connection.cursor().execute("PRAGMA data_version").fetchone()
        return int(version)
