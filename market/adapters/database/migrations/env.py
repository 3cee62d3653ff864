"""Runs migrations on the connection that `migrate.upgrade` opened; there is no other way in."""

from __future__ import annotations

from alembic import context

from market.adapters.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a constraint in place; batch mode copies the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
