"""The times and the trace of a charged request.

Revision 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("receipts", sa.Column("timeline", sa.LargeBinary(), nullable=True))
    op.add_column("receipts", sa.Column("trace", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.drop_column("trace")
        batch_op.drop_column("timeline")
