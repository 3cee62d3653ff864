"""Audits of what workers answered.

Revision 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_secrets",
        sa.Column("commitment", sa.LargeBinary(length=32), nullable=False),
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("secret", sa.LargeBinary(length=32), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("commitment", name=op.f("pk_audit_secrets")),
    )
    op.create_index("ix_audit_secrets_gateway", "audit_secrets", ["gateway", "began_at"], unique=False)
    op.create_table(
        "audited_workers",
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("worker", sa.LargeBinary(length=20), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("agreed", sa.BigInteger(), nullable=False),
        sa.Column("convicted_at", sa.Float(), nullable=True),
        sa.Column("conviction", sa.BigInteger(), nullable=True),
        sa.Column("pardoned_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("gateway", "worker", name=op.f("pk_audited_workers")),
    )
    op.create_table(
        "audits",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.LargeBinary(length=20), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("against", sa.LargeBinary(length=20), nullable=True),
        sa.Column("error", sa.Float(), nullable=True),
        sa.Column("tolerance", sa.Float(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audits")),
    )
    op.create_index("ix_audits_gateway", "audits", ["gateway", "number"], unique=False)
    op.create_index("ix_audits_against", "audits", ["gateway", "against", "at"], unique=False)
    op.create_table(
        "audit_statements",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("worker", sa.LargeBinary(length=20), nullable=False),
        sa.Column("operator", sa.LargeBinary(length=20), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["number"], ["audits.number"], name=op.f("fk_audit_statements_number")),
        sa.PrimaryKeyConstraint("number", "place", name=op.f("pk_audit_statements")),
    )
    op.create_index("ix_audit_statements_worker", "audit_statements", ["worker", "number"], unique=False)


def downgrade() -> None:
    op.drop_table("audit_statements")
    op.drop_table("audits")
    op.drop_table("audited_workers")
    op.drop_table("audit_secrets")
