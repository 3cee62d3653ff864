"""Keep promised refunds.

Revision 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refund_promises",
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "nonce", name=op.f("pk_refund_promises")),
    )


def downgrade() -> None:
    op.drop_table("refund_promises")
