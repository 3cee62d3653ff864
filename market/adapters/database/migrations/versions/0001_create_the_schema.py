"""Create the schema.

Revision 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chain_blocks",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_chain_blocks")),
    )
    op.create_table(
        "chain_cursor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("block_timestamp", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_cursor")),
    )
    op.create_table(
        "chain_events",
        sa.Column("tx_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("block_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("args", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tx_hash", "block_hash", "log_index", name=op.f("pk_chain_events")),
    )
    with op.batch_alter_table("chain_events", schema=None) as batch_op:
        batch_op.create_index("ix_chain_events_order", ["block_number", "log_index"], unique=False)

    op.create_table(
        "chain_records",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_chain_records")),
    )
    with op.batch_alter_table("chain_records", schema=None) as batch_op:
        batch_op.create_index("ix_chain_records_version", ["version"], unique=False)

    op.create_table(
        "channel_accounts",
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("signer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("salt", sa.LargeBinary(length=8), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("voucher_amount", sa.BigInteger(), nullable=False),
        sa.Column("voucher_signature", sa.LargeBinary(length=65), nullable=False),
        sa.CheckConstraint("charged >= 0 AND charged <= voucher_amount", name=op.f("ck_channel_accounts_covered")),
        sa.PrimaryKeyConstraint("channel_id", name=op.f("pk_channel_accounts")),
    )
    op.create_table(
        "earnings",
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("payee", sa.LargeBinary(length=20), nullable=False),
        sa.Column("role", sa.SmallInteger(), nullable=False),
        sa.Column("model_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("earned", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "payee", "role", "model_id", name=op.f("pk_earnings")),
    )
    op.create_table(
        "evidence",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("worker", sa.LargeBinary(length=20), nullable=False),
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("request_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
    )
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.create_index("ix_evidence_worker", ["worker"], unique=False)

    op.create_table(
        "outbox_transactions",
        sa.Column("account", sa.LargeBinary(length=20), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("to", sa.LargeBinary(length=20), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("gas", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.Column("max_fee_per_gas", sa.Text(), nullable=False),
        sa.Column("priority_fee_per_gas", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("tx_hashes", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("account", "purpose", name=op.f("pk_outbox_transactions")),
    )
    op.create_table(
        "payee_totals",
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("payee", sa.LargeBinary(length=20), nullable=False),
        sa.Column("earned", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("earned >= 0", name=op.f("ck_payee_totals_earned")),
        sa.PrimaryKeyConstraint("gateway", "payee", name=op.f("pk_payee_totals")),
    )
    op.create_table(
        "receipts",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("request_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payer", sa.LargeBinary(length=20), nullable=False),
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.LargeBinary(length=20), nullable=False),
        sa.Column("model_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("input_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("output_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("worker_amount", sa.BigInteger(), nullable=False),
        sa.Column("owner_amount", sa.BigInteger(), nullable=False),
        sa.Column("cumulative", sa.BigInteger(), nullable=False),
        sa.Column("served_at", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("worker_signature", sa.LargeBinary(length=65), nullable=False),
        sa.Column("gateway_signature", sa.LargeBinary(length=65), nullable=False),
        sa.Column("worker_payee", sa.LargeBinary(length=20), nullable=False),
        sa.Column("owner_payee", sa.LargeBinary(length=20), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("leaf_index", sa.Integer(), nullable=True),
        sa.CheckConstraint("price >= 0 AND worker_amount >= 0 AND owner_amount >= 0", name=op.f("ck_receipts_amounts")),
        sa.CheckConstraint("worker_amount + owner_amount <= price", name=op.f("ck_receipts_split")),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_receipts")),
        sa.UniqueConstraint("request_id", "channel_id", name=op.f("uq_receipts_request_id_channel_id")),
    )
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.create_index("ix_receipts_channel", ["channel_id", "position"], unique=False)
        batch_op.create_index(
            "ix_receipts_settled",
            ["gateway", "epoch", "leaf_index"],
            unique=False,
            sqlite_where=sa.text("epoch IS NOT NULL"),
            postgresql_where=sa.text("epoch IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_receipts_unsettled",
            ["position"],
            unique=False,
            sqlite_where=sa.text("epoch IS NULL"),
            postgresql_where=sa.text("epoch IS NULL"),
        )

    op.create_table(
        "responses",
        sa.Column("request_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("channel_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("outputs", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "channel_id", name=op.f("pk_responses")),
    )
    with op.batch_alter_table("responses", schema=None) as batch_op:
        batch_op.create_index("ix_responses_expires_at", ["expires_at"], unique=False)

    op.create_table(
        "settled_totals",
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("account", sa.LargeBinary(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("unpaid", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "account", name=op.f("pk_settled_totals")),
    )
    with op.batch_alter_table("settled_totals", schema=None) as batch_op:
        batch_op.create_index("ix_settled_totals_unpaid", ["gateway", "unpaid"], unique=False)

    op.create_table(
        "settlement_batches",
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("receipt_count", sa.Integer(), nullable=False),
        sa.Column("debited", sa.BigInteger(), nullable=False),
        sa.Column("credited", sa.BigInteger(), nullable=False),
        sa.Column("call_data", sa.LargeBinary(), nullable=False),
        sa.Column("tx_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("gas_used", sa.BigInteger(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("gateway", "epoch", name=op.f("pk_settlement_batches")),
    )


def downgrade() -> None:
    op.drop_table("settlement_batches")
    with op.batch_alter_table("settled_totals", schema=None) as batch_op:
        batch_op.drop_index("ix_settled_totals_unpaid")

    op.drop_table("settled_totals")
    with op.batch_alter_table("responses", schema=None) as batch_op:
        batch_op.drop_index("ix_responses_expires_at")

    op.drop_table("responses")
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_receipts_unsettled", sqlite_where=sa.text("epoch IS NULL"), postgresql_where=sa.text("epoch IS NULL")
        )
        batch_op.drop_index(
            "ix_receipts_settled",
            sqlite_where=sa.text("epoch IS NOT NULL"),
            postgresql_where=sa.text("epoch IS NOT NULL"),
        )
        batch_op.drop_index("ix_receipts_channel")

    op.drop_table("receipts")
    op.drop_table("payee_totals")
    op.drop_table("outbox_transactions")
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index("ix_evidence_worker")

    op.drop_table("evidence")
    op.drop_table("earnings")
    op.drop_table("channel_accounts")
    with op.batch_alter_table("chain_records", schema=None) as batch_op:
        batch_op.drop_index("ix_chain_records_version")

    op.drop_table("chain_records")
    with op.batch_alter_table("chain_events", schema=None) as batch_op:
        batch_op.drop_index("ix_chain_events_order")

    op.drop_table("chain_events")
    op.drop_table("chain_cursor")
    op.drop_table("chain_blocks")
