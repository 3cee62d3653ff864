"""One thread's way past SQLAlchemy's fixed cost a statement: what it compiled once, run by SQLite's driver itself.

The ledger commits a group of charges with half a dozen statements, whose bookkeeping cost more than SQLite's work on
them. Any other database is written through SQLAlchemy as ever. Used by the ledger's two threads alone.
"""

from __future__ import annotations

import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Engine

from market.adapters.database.engine import BUSY_TIMEOUT_MS, reading, writing
from market.errors import DatabaseUnreachable

_KEYS = "keys"
_COMPILED_KEPT = 256
_LOOK_MS = 3


class Executes(Protocol):
    """The part of a SQLAlchemy connection that the ledger's hot path uses."""

    def execute(self, statement: Any, parameters: Any = None, /) -> Iterable[Any]:
        """Run a statement, once or for each of a list of parameters."""
        ...

    def exec_driver_sql(self, statement: str, parameters: Any = None, /) -> Iterable[Any]:
        """Run a text of the driver's own; only what returns rows may be iterated."""
        ...


class _Compiled:
    """A statement's text, the order of its parameters and how its rows are read."""

    def __init__(self, statement: Any, dialect: sa.Dialect, parameters: Mapping[str, Any]) -> None:
        if _KEYS in parameters:
            # A list of keys has as many marks in the text as it has members.
            compiled = statement.params(**parameters).compile(
                dialect=dialect, compile_kwargs={"render_postcompile": True}
            )
        else:
            compiled = statement.compile(dialect=dialect, column_keys=sorted(parameters))
        self.text = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()
        self.row: Callable[..., Any] | None = None

    def values(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        left = iter(parameters.get(_KEYS, ()))
        return tuple(parameters[name] if name in parameters else next(left) for name in self._names)


class WriterBusy(Exception):
    """Somebody else writes, and this connection does not wait; nothing was done."""


class DirectConnection:
    """Implements `Executes` on a connection of SQLite's driver that nobody else uses.

    `waits` is whether it waits for another writer to finish; one that does not raises `WriterBusy`.
    """

    def __init__(self, engine: Engine, *, waits: bool = True) -> None:
        self._dialect = engine.dialect
        self._waits = waits
        # From the pool, so that it is prepared as all are, and never given back.
        pooled = engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        self._driver: sqlite3.Connection = driver
        self._driver.execute(f"PRAGMA busy_timeout = {_LOOK_MS if waits else 0}")
        # The log is carried into the database by a thread of its own, see `checkpoints`.
        self._driver.execute("PRAGMA wal_autocheckpoint = 0")
        self._compiled: dict[tuple[int, int, bool], tuple[Any, _Compiled]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._driver.close()

    def execute(self, statement: Any, parameters: Any = None, /) -> Iterable[Any]:
        """See `Executes.execute`."""
        if isinstance(parameters, list):
            compiled = self._compile(statement, parameters[0])
            self._driver.executemany(compiled.text, [compiled.values(row) for row in parameters])
            return ()
        given = parameters or {}
        compiled = self._compile(statement, given)
        cursor = self._driver.execute(compiled.text, compiled.values(given))
        if cursor.description is None:
            return ()
        if compiled.row is None:
            kind = namedtuple("Row", [column[0] for column in cursor.description])  # type: ignore[misc]  # noqa: PYI024
            compiled.row = kind
        return [compiled.row(*row) for row in cursor]

    def exec_driver_sql(self, statement: str, parameters: Any = None, /) -> Iterable[Any]:
        """See `Executes.exec_driver_sql`."""
        return self._driver.execute(statement, parameters or ())

    @contextmanager
    def writing(self) -> Iterator[DirectConnection]:
        """Open a transaction that commits at the end of the block.

        Raises:
            WriterBusy: another writer is at it, and this connection does not wait.
            DatabaseUnreachable: the database does not answer, or another writer holds it for too long.
        """
        with _reachable():
            self._begin()
            try:
                yield self
                self._driver.execute("COMMIT")
            except BaseException:
                if self._driver.in_transaction:
                    self._driver.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[DirectConnection]:
        """Give itself for statements that only read.

        Raises:
            DatabaseUnreachable: the database does not answer.
        """
        with _reachable():
            yield self

    def _begin(self) -> None:
        """Take the write lock, looking for it every few milliseconds while another process has it.

        SQLite's own waiting sleeps up to a tenth of a second at a time, as often as a settlement marks its receipts.
        """
        until = time.monotonic() + BUSY_TIMEOUT_MS / 1_000
        while True:
            try:
                self._driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                if not self._waits:
                    raise WriterBusy from error
                if time.monotonic() >= until:
                    raise

    def _compile(self, statement: Any, parameters: Mapping[str, Any]) -> _Compiled:
        keys = parameters.get(_KEYS)
        # The statement is kept beside its text, so that its identity stays its own.
        at = (id(statement), -1 if keys is None else len(keys), bool(parameters))
        known = self._compiled.get(at)
        if known is None:
            if len(self._compiled) >= _COMPILED_KEPT:
                self._compiled.clear()
            known = self._compiled[at] = statement, _Compiled(statement, self._dialect, parameters)
        return known[1]


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise sa.exc.IntegrityError(None, None, error) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            raise DatabaseUnreachable(f"The database does not answer: {type(error).__name__}.") from error
        raise


class ThreadsConnection:
    """The connection of one thread that reads or writes, the short way where the database is SQLite."""

    def __init__(self, engine: Engine, *, waits: bool = True) -> None:
        self._engine = engine
        self._waits = waits
        self._direct: DirectConnection | None = None

    @contextmanager
    def writing(self) -> Iterator[Executes]:
        """See `engine.writing`."""
        if self._engine.dialect.name != "sqlite":
            with writing(self._engine) as connection:
                yield connection
            return
        with self._opened().writing() as direct:
            yield direct

    @contextmanager
    def reading(self) -> Iterator[Executes]:
        """See `engine.reading`."""
        if self._engine.dialect.name != "sqlite":
            with reading(self._engine) as connection:
                yield connection
            return
        with self._opened().reading() as direct:
            yield direct

    def close(self) -> None:
        """Close what was opened."""
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    def _opened(self) -> DirectConnection:
        if self._direct is None:
            with _reachable():
                self._direct = DirectConnection(self._engine, waits=self._waits)
        return self._direct
