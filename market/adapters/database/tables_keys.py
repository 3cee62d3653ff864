"""The table of API keys: whose money each may spend, how much of it, and what it has spent.

Written by `market.adapters.database.key_book`, except `spent`, which the ledger raises in the transaction of each
charge. The key itself is never here. The database itself refuses a charge above the limit: the table has the check.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Table, Text

from market.adapters.database.tables_base import Address, Amount, Hash, Signature, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_hash", Hash, primary_key=True, doc="SHA-256 of the key's text"),
    Column("channel_id", Hash, nullable=False),
    Column("signer", Address, nullable=False),
    Column("name", Text, nullable=False),
    Column("models", Text, nullable=False, doc="one a line; empty means all"),
    Column("spending_limit", Amount, nullable=False),
    Column("spent", Amount, nullable=False),
    Column("expires_at", BigInteger, nullable=False, doc="unix seconds, 0: never"),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, nullable=True),
    Column("grant_signature", Signature, nullable=False, doc="the signer's, over the KeyGrant of this row"),
    Column("voucher_amount", Amount, nullable=False, doc="the best voucher given for the channel's keys"),
    Column("voucher_signature", Signature, nullable=False),
    CheckConstraint("spent >= 0 AND spent <= spending_limit", name="within_limit"),
)
Index("ix_api_keys_channel", api_keys.c.channel_id, api_keys.c.created_at)
