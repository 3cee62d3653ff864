"""One transaction a nonce, however many processes send for an account.

Revision 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("outbox_transactions", schema=None) as batch_op:
        batch_op.create_index(
            "uq_outbox_transactions_nonce",
            ["account", "nonce"],
            unique=True,
            sqlite_where=sa.text("done IS 0"),
            postgresql_where=sa.text("done IS FALSE"),
        )


def downgrade() -> None:
    with op.batch_alter_table("outbox_transactions", schema=None) as batch_op:
        batch_op.drop_index("uq_outbox_transactions_nonce")
