"""Databases that tests begin from."""

import tempfile
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from tests.support.postgres import server_url

SERVERS = ["sqlite", "postgres"]


@cache
def empty_database() -> Path:
    """Return a SQLite file of the newest schema, to be copied; making one takes longer than most examples."""
    path = Path(tempfile.mkdtemp(prefix="empty-database-")) / "empty.db"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


def open_database(kind: str, folder: Path) -> sa.Engine:
    """Open an empty database of the newest schema on one of `SERVERS`; the last one on PostgreSQL is emptied."""
    made = open_engine(f"sqlite:///{folder}/ledger.db") if kind == "sqlite" else _fresh_postgres()
    upgrade(made)
    return made


def _fresh_postgres() -> sa.Engine:
    engine = open_engine(server_url())
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    return engine
