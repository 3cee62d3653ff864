"""Which receipts are settled, in tables of their own.

Revision 0009, after 0008. Moves what columns of `receipts` said; on a large ledger this takes about as long as copying
the database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "unsettled_receipts",
        sa.Column("position", _POSITION, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_unsettled_receipts")),
    )
    op.create_table(
        "settled_receipts",
        sa.Column("position", _POSITION, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("leaf_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_settled_receipts")),
    )
    op.execute("INSERT INTO unsettled_receipts SELECT position FROM receipts WHERE epoch IS NULL")
    op.execute("INSERT INTO settled_receipts SELECT position, epoch, leaf_index FROM receipts WHERE epoch IS NOT NULL")
    op.create_index("ix_settled_receipts_epoch", "settled_receipts", ["epoch", "leaf_index"], unique=False)
    op.drop_index("ix_receipts_settled", table_name="receipts")
    op.drop_index("ix_receipts_unsettled", table_name="receipts")
    # Not by alembic's batches, which on SQLite would copy a table that other programs may be reading.
    op.execute("ALTER TABLE receipts DROP COLUMN epoch")
    op.execute("ALTER TABLE receipts DROP COLUMN leaf_index")


def downgrade() -> None:
    op.add_column("receipts", sa.Column("epoch", sa.BigInteger(), nullable=True))
    op.add_column("receipts", sa.Column("leaf_index", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE receipts SET epoch = settled_receipts.epoch, leaf_index = settled_receipts.leaf_index"
        " FROM settled_receipts WHERE settled_receipts.position = receipts.position"
    )
    none, some = sa.text("epoch IS NULL"), sa.text("epoch IS NOT NULL")
    op.create_index(
        "ix_receipts_unsettled", "receipts", ["position"], unique=False, sqlite_where=none, postgresql_where=none
    )
    op.create_index(
        "ix_receipts_settled",
        "receipts",
        ["gateway", "epoch", "leaf_index"],
        unique=False,
        sqlite_where=some,
        postgresql_where=some,
    )
    op.drop_table("settled_receipts")
    op.drop_table("unsettled_receipts")
