"""Opens the database: one place for the URL forms, the SQLite pragmas and what a lost connection is called.

SQLite runs in WAL mode with synchronous=FULL: in WAL mode NORMAL may lose the last commits at a power cut, and a charge
must be durable before the answer leaves. Group commit pays for the flush.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from contracts.wal import enter_wal
from market.errors import DatabaseUnreachable

BUSY_TIMEOUT_MS = 10_000
# The ledger's inserts have a text for each number of rows.
STATEMENTS_KEPT = 512
_READ_ONLY = "market_read_only"


def open_engine(url: str) -> Engine:
    """Open a database by URL; `postgres://` and `postgresql://` mean psycopg 3.

    Raises:
        DatabaseUnreachable: the URL cannot be understood.
    """
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            url = "postgresql+psycopg://" + url.removeprefix(prefix)
    is_sqlite = url.startswith("sqlite")
    # Of a server whose databases name no encoding (SQL_ASCII), texts would come as bytes.
    settings: dict[str, Any] = {"cached_statements": STATEMENTS_KEPT} if is_sqlite else {"client_encoding": "utf8"}
    try:
        engine = sa.create_engine(url, pool_pre_ping=not is_sqlite, connect_args=settings)
    except (SQLAlchemyError, ImportError) as error:
        raise DatabaseUnreachable("The database URL is not understood.", field="MARKET_DATABASE_URL") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes too late and is never IMMEDIATE; _begin_sqlite sends it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    enter_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: upgrading a read lock later can fail without waiting.
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection that only reads and never waits for a writer.

    Raises:
        DatabaseUnreachable: the database does not answer.
    """
    with reachable(), engine.connect() as connection:
        yield connection.execution_options(**{_READ_ONLY: True})


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that commits at the end of the block.

    Raises:
        DatabaseUnreachable: the database does not answer, or another writer holds it for too long.
    """
    with reachable(), engine.begin() as connection:
        yield connection


@contextmanager
def reachable() -> Iterator[None]:
    """Name connection and lock failures after the market; leave all other errors as they are."""
    try:
        yield
    except DBAPIError as error:
        # A bare DatabaseError is SQLite's word for a file that is no database, or a damaged one.
        unusable = (
            isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) or type(error) is sa.exc.DatabaseError
        )
        if unusable or error.connection_invalidated:
            raise DatabaseUnreachable(_said_by(error.orig)) from error
        raise


def _said_by(error: BaseException | None) -> str:
    if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "The database's file is damaged, or no database."
    return f"The database does not answer: {type(error).__name__}."
