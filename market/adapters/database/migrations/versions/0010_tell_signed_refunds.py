"""Which of the promised refunds were signed.

Revision 0010, after 0009. What is promised by then may have been signed, and counts as signed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("refund_promises", sa.Column("signed", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE refund_promises SET signed = amount")


def downgrade() -> None:
    op.execute("ALTER TABLE refund_promises DROP COLUMN signed")
