"""Brings a database to the newest schema; called at every start, does nothing when nothing is to do."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from market.adapters.database.engine import reachable
from market.errors import ConfigurationError

_SCRIPTS = Path(__file__).parent / "migrations"
# Any number, as long as every process of every version takes the same one.
_UPGRADE_LOCK = 7_263_514


def upgrade(engine: Engine) -> None:
    """Apply the migrations that are missing, in one transaction; processes that start together take turns.

    Raises:
        DatabaseUnreachable: the database does not answer.
        ConfigurationError: a newer version of this program has used it.
    """
    with reachable(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        revision = _revision(connection)
        if revision == newest_revision():
            return
        if revision not in (None, *_revisions()):
            raise ConfigurationError(
                f"the database is of a newer version ({revision}, this program knows {newest_revision()}).",
                field="MARKET_DATABASE_URL",
                remedy="Run the version that used it last or a newer one, or name another database.",
            )
        # Six megabytes that a program which has nothing to migrate can do without.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def newest_revision() -> str:
    """Return the number of the newest migration: files are named by theirs."""
    return max(_revisions())


def _revisions() -> list[str]:
    return [path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*.py")]


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found
