"""The table of refunds that this gateway signs and the chain has not paid yet. Written by `refund_promises` alone."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table

from market.adapters.database.tables_base import Amount, Hash, metadata

# The highest promise of each number, and what of it was signed: that the payer may submit at any time.
refund_promises = Table(
    "refund_promises",
    metadata,
    Column("channel_id", Hash, primary_key=True),
    Column("nonce", BigInteger, primary_key=True),
    Column("amount", Amount, nullable=False),
    Column("signed", Amount, nullable=False, server_default="0"),
)
