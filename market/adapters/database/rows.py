"""Writes many rows of one table with one statement, straight through the driver.

A statement takes the interpreter lock once, which a busy event loop in the same process feels; so 64 rows go in one, be
they new or added to what is there. Used on the ledger's hot path only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Dialect, Table

from market.adapters.database.direct import Executes

# Each number of rows has a text of its own, which drivers keep prepared.
MOST_ROWS = 64


class RowInsert:
    """An INSERT of fixed columns; what is in `adding` is added to a row of the same primary key."""

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        dialect: Dialect,
        *,
        adding: Sequence[str] = (),
        returning: Sequence[str] = (),
    ) -> None:
        mark = "?" if dialect.paramstyle == "qmark" else "%s"
        names = ", ".join(table.c[name].name for name in columns)
        self._row = f"({', '.join([mark] * len(columns))})"
        self._head = f"INSERT INTO {table.name} ({names}) VALUES "  # noqa: S608  # names of our own tables
        self._tail = ""
        if adding:
            keys = ", ".join(column.name for column in table.primary_key.columns)
            sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in adding)
            self._tail = f" ON CONFLICT ({keys}) DO UPDATE SET {sums}"
        self._returns = bool(returning)
        if returning:
            self._tail += f" RETURNING {', '.join(returning)}"
        self._texts: dict[int, str] = {}

    def execute(self, connection: Executes, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Write `rows`, each in the order of the columns; returns what the statement says it returns."""
        returned: list[Any] = []
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            found = connection.exec_driver_sql(self._text(len(part)), tuple(chain.from_iterable(part)))
            if self._returns:
                returned += found
        return returned

    def _text(self, rows: int) -> str:
        text = self._texts.get(rows)
        if text is None:
            text = self._texts[rows] = self._head + ", ".join([self._row] * rows) + self._tail
        return text
