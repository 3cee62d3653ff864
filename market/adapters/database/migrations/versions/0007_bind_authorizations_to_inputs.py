"""What an x402 authorization was sent with.

Revision 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("x402_authorizations", sa.Column("inputs", sa.LargeBinary(length=32), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("x402_authorizations", schema=None) as batch_op:
        batch_op.drop_column("inputs")
