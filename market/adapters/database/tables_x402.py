"""Tables of payments by x402: authorizations used, credit bought, channels, and what each payment was charged.

Written by `market.adapters.database.x402_book` alone. The database itself refuses credit used twice: `x402_credits` has
the check, and an authorization's four parts are its key.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
)

from market.adapters.database.tables_base import Address, Amount, Hash, Signature, metadata

# One row an EIP-3009 authorization that was reserved; `settled_in` stays NULL until its transaction is confirmed.
x402_authorizations = Table(
    "x402_authorizations",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("token", Address, primary_key=True),
    Column("payer", Address, primary_key=True),
    Column("nonce", Hash, primary_key=True),
    Column("value", Amount, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("payload", Text, nullable=False, doc="JSON as it came: what a restart settles again"),
    Column("reserved_until", Float, nullable=False),
    Column("settled_in", Text, nullable=True),
    Column("inputs", Hash, nullable=True, doc="what it was sent with: on chain anybody reads the authorization"),
)

# What a payer bought in packs and has not used.
x402_credits = Table(
    "x402_credits",
    metadata,
    Column("payer", Address, primary_key=True),
    Column("balance", Amount, nullable=False),
    Column("held", Amount, nullable=False),
    Column("bought", Amount, nullable=False),
    Column("refunded", Amount, nullable=False),
    CheckConstraint("held >= 0 AND balance >= held", name="covered"),
)

# One row a channel of the x402 contract; chain facts as last seen. `busy_with` names the one request in flight.
x402_channels = Table(
    "x402_channels",
    metadata,
    Column("channel_id", Hash, primary_key=True),
    Column("payer", Address, nullable=False),
    Column("payer_authorizer", Address, nullable=False),
    Column("receiver", Address, nullable=False),
    Column("receiver_authorizer", Address, nullable=False),
    Column("token", Address, nullable=False),
    Column("withdraw_delay", BigInteger, nullable=False),
    Column("salt", Hash, nullable=False),
    Column("charged", Amount, nullable=False),
    Column("signed_max", Amount, nullable=False),
    Column("signature", Signature, nullable=False),
    Column("balance", Amount, nullable=False),
    Column("total_claimed", Amount, nullable=False),
    Column("withdraw_requested_at", BigInteger, nullable=False),
    Column("refund_nonce", BigInteger, nullable=False),
    Column("synced_at", Float, nullable=False),
    Column("busy_with", Hash, nullable=True),
    Column("busy_until", Float, nullable=False),
    Column("last_request", Hash, nullable=True),
    Column("last_request_at", Float, nullable=False),
    CheckConstraint("charged >= 0 AND charged <= signed_max", name="covered"),
)

# One row a payment for one request; the request's receipt names the house channel, this row names who really paid.
x402_payments = Table(
    "x402_payments",
    metadata,
    Column("request_id", Hash, primary_key=True),
    Column("scheme", Text, nullable=False),
    Column("payer", Address, nullable=False),
    Column("channel_id", Hash, nullable=True, doc="of the batch-settlement scheme; NULL means paid from credit"),
    Column("held", Amount, nullable=False),
    Column("charged", Amount, nullable=True),
    Column("state", SmallInteger, nullable=False),
    Column("held_until", Float, nullable=False),
    Column("charged_at", Float, nullable=True),
    CheckConstraint("held >= 0 AND (charged IS NULL OR charged <= held)", name="amounts"),
)
Index(
    "ix_x402_payments_held",
    x402_payments.c.held_until,
    sqlite_where=x402_payments.c.state == 0,
    postgresql_where=x402_payments.c.state == 0,
)
Index("ix_x402_payments_payer", x402_payments.c.payer)

# One row a refund of unused credit, written before the transaction is sent.
x402_refunds = Table(
    "x402_refunds",
    metadata,
    Column("request_id", Hash, primary_key=True),
    Column("payer", Address, nullable=False),
    Column("amount", Amount, nullable=False),
    Column("decided_at", Float, nullable=False),
    Column("sent_in", Text, nullable=True),
)
