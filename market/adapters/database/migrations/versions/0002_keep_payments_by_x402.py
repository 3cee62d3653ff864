"""Keep payments by x402.

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "x402_authorizations",
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.LargeBinary(length=20), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("nonce", sa.LargeBinary(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("reserved_until", sa.Float(), nullable=False),
        sa.Column("settled_in", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("chain_id", "token", "payer", "nonce", name=op.f("pk_x402_authorizations")),
    )
    op.create_table(
        "x402_channels",
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("payer_authorizer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("receiver", sa.LargeBinary(length=20), nullable=False),
        sa.Column("receiver_authorizer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("token", sa.LargeBinary(length=20), nullable=False),
        sa.Column("withdraw_delay", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.LargeBinary(length=32), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("signed_max", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(length=65), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("total_claimed", sa.BigInteger(), nullable=False),
        sa.Column("withdraw_requested_at", sa.BigInteger(), nullable=False),
        sa.Column("refund_nonce", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.Float(), nullable=False),
        sa.Column("busy_with", sa.LargeBinary(length=32), nullable=True),
        sa.Column("busy_until", sa.Float(), nullable=False),
        sa.Column("last_request", sa.LargeBinary(length=32), nullable=True),
        sa.Column("last_request_at", sa.Float(), nullable=False),
        sa.CheckConstraint("charged >= 0 AND charged <= signed_max", name=op.f("ck_x402_channels_covered")),
        sa.PrimaryKeyConstraint("channel_id", name=op.f("pk_x402_channels")),
    )
    op.create_table(
        "x402_credits",
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("bought", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held >= 0 AND balance >= held", name=op.f("ck_x402_credits_covered")),
        sa.PrimaryKeyConstraint("payer", name=op.f("pk_x402_credits")),
    )
    op.create_table(
        "x402_refunds",
        sa.Column("request_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=False),
        sa.Column("sent_in", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_x402_refunds")),
    )
    op.create_table(
        "x402_payments",
        sa.Column("request_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=True),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.Column("charged_at", sa.Float(), nullable=True),
        sa.CheckConstraint("held >= 0 AND (charged IS NULL OR charged <= held)", name=op.f("ck_x402_payments_amounts")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_x402_payments")),
    )
    with op.batch_alter_table("x402_payments", schema=None) as batch_op:
        batch_op.create_index(
            "ix_x402_payments_held",
            ["held_until"],
            unique=False,
            sqlite_where=sa.text("state = 0"),
            postgresql_where=sa.text("state = 0"),
        )
        batch_op.create_index("ix_x402_payments_payer", ["payer"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("x402_payments", schema=None) as batch_op:
        batch_op.drop_index("ix_x402_payments_payer")
        batch_op.drop_index(
            "ix_x402_payments_held", sqlite_where=sa.text("state = 0"), postgresql_where=sa.text("state = 0")
        )

    op.drop_table("x402_payments")
    op.drop_table("x402_refunds")
    op.drop_table("x402_credits")
    op.drop_table("x402_channels")
    op.drop_table("x402_authorizations")
