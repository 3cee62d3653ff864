"""Tables of the ledger: what was charged, to whom it is owed, and the papers that prove it.

Written by `market.adapters.database.ledger` alone, except that settlement moves receipts from the unsettled to the
settled ones once a batch is decided. The database itself refuses a charge above the voucher: `channel_accounts` has the
check.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

from market.adapters.database.tables_base import Address, Amount, Hash, Position, Signature, metadata

ROLE_WORKER = 0
ROLE_OWNER = 1

# One row a charged request, in the order of commitment; never changed again.
receipts = Table(
    "receipts",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("request_id", Hash, nullable=False),
    Column("channel_id", Hash, nullable=False),
    Column("payer", Address, nullable=False),
    Column("gateway", Address, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("worker", Address, nullable=False),
    Column("model_id", Hash, nullable=False),
    Column("input_hash", Hash, nullable=False),
    Column("output_hash", Hash, nullable=False),
    Column("price", Amount, nullable=False),
    Column("worker_amount", Amount, nullable=False),
    Column("owner_amount", Amount, nullable=False),
    Column("cumulative", Amount, nullable=False),
    Column("served_at", BigInteger, nullable=False),
    Column("digest", Hash, nullable=False),
    Column("worker_signature", Signature, nullable=False),
    Column("gateway_signature", Signature, nullable=False),
    Column("worker_payee", Address, nullable=False),
    Column("owner_payee", Address, nullable=False),
    Column("timeline", LargeBinary, nullable=True, doc="Timeline.to_bytes: when each step of the request happened"),
    Column("trace", LargeBinary, nullable=True, doc="SpanContext.to_bytes, if the request belongs to a trace"),
    UniqueConstraint("request_id", "channel_id"),
    CheckConstraint("price >= 0 AND worker_amount >= 0 AND owner_amount >= 0", name="amounts"),
    CheckConstraint("worker_amount + owner_amount <= price", name="split"),
)
Index("ix_receipts_channel", receipts.c.channel_id, receipts.c.position)

# Which receipts no batch has taken yet, and where in which batch the others are: each receipt is in one of the two.
# On their own since a receipt's row is a kilobyte: to mark a batch there would write a thousand pages, here some forty.
unsettled_receipts = Table(
    "unsettled_receipts",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
)
settled_receipts = Table(
    "settled_receipts",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("leaf_index", Integer, nullable=False),
)
Index("ix_settled_receipts_epoch", settled_receipts.c.epoch, settled_receipts.c.leaf_index)

# One row a channel that was ever charged: its identity, its total and the best voucher that covers the total.
channel_accounts = Table(
    "channel_accounts",
    metadata,
    Column("channel_id", Hash, primary_key=True),
    Column("payer", Address, nullable=False),
    Column("signer", Address, nullable=False),
    Column("gateway", Address, nullable=False),
    Column("salt", LargeBinary(8), nullable=False, doc="uint64, big endian: a BIGINT cannot hold its upper half"),
    Column("charged", Amount, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("voucher_amount", Amount, nullable=False),
    Column("voucher_signature", Signature, nullable=False),
    CheckConstraint("charged >= 0 AND charged <= voucher_amount", name="covered"),
)

# What the gateway owes a payee in all since the beginning; what is credited on chain never exceeds it.
payee_totals = Table(
    "payee_totals",
    metadata,
    Column("gateway", Address, primary_key=True),
    Column("payee", Address, primary_key=True),
    Column("earned", Amount, nullable=False),
    CheckConstraint("earned >= 0", name="earned"),
)

# The same money by role and model, for owners' and operators' reports.
earnings = Table(
    "earnings",
    metadata,
    Column("gateway", Address, primary_key=True),
    Column("payee", Address, primary_key=True),
    Column("role", SmallInteger, primary_key=True),
    Column("model_id", Hash, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("earned", Amount, nullable=False),
)

# Answers kept for clients that name their requests, so that a repeated request id is answered and not charged again.
responses = Table(
    "responses",
    metadata,
    Column("request_id", Hash, primary_key=True),
    Column("channel_id", Hash, primary_key=True),
    Column("outputs", LargeBinary, nullable=False),
    Column("expires_at", Float, nullable=False),
)
Index("ix_responses_expires_at", responses.c.expires_at)

# Signed statements of workers that contradict what they delivered.
evidence = Table(
    "evidence",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("worker", Address, nullable=False),
    Column("channel_id", Hash, nullable=False),
    Column("request_id", Hash, nullable=False),
    Column("receipt", LargeBinary, nullable=False, doc="Receipt.to_bytes of what should have been signed"),
    Column("signature", LargeBinary, nullable=False),
    Column("detail", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
)
Index("ix_evidence_worker", evidence.c.worker)
