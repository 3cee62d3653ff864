"""Brings a database to the newest schema; called at every start, does nothing when nothing is to do."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from market.adapters.database.engine import reachable

_SCRIPTS = Path(__file__).parent / "migrations"
# Any number, as long as every process of every version takes the same one.
_UPGRADE_LOCK = 7_263_514


def upgrade(engine: Engine) -> None:
    """Apply the migrations that are missing, in one transaction; processes that start together take turns.

    Raises:
        DatabaseUnreachable: the database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    with reachable(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
