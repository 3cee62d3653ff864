"""Inserts many rows of one table with few statements, straight through the driver.

One statement of 64 rows takes the interpreter lock once where 64 statements take it 64 times, which a busy event loop
in the same process would feel. Used on the ledger's hot path only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Dialect, Table

from market.adapters.database.direct import Executes

_GROUPS = (64, 8, 1)


class RowInsert:
    """An INSERT of fixed columns, prepared for groups of 64, 8 and 1 rows."""

    def __init__(self, table: Table, columns: Sequence[str], dialect: Dialect) -> None:
        mark = "?" if dialect.paramstyle == "qmark" else "%s"
        names = ", ".join(table.c[name].name for name in columns)
        row = f"({', '.join([mark] * len(columns))})"
        head = f"INSERT INTO {table.name} ({names}) VALUES "  # noqa: S608  # names of our own tables
        self._statements = [(size, head + ", ".join([row] * size)) for size in _GROUPS]

    def execute(self, connection: Executes, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert `rows`, each in the order of the columns."""
        done = 0
        for size, statement in self._statements:
            while len(rows) - done >= size:
                group = rows[done : done + size]
                connection.exec_driver_sql(statement, tuple(value for row in group for value in row))
                done += size
