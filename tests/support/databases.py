"""Databases that tests begin from."""

import tempfile
from functools import cache
from pathlib import Path

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade


@cache
def empty_database() -> Path:
    """Return a SQLite file of the newest schema, to be copied; making one takes longer than most examples."""
    path = Path(tempfile.mkdtemp(prefix="empty-database-")) / "empty.db"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path
