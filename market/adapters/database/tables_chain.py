"""Tables of what was read from and sent to the chain: blocks, events, folded records, outgoing transactions, batches.

The folded records are derived: they can be made again from the events at any time. Written by `registry_store`,
`outbox` and `settlement_book` alone.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, Table, Text

from market.adapters.database.tables_base import Address, Amount, Hash, metadata

# One row: how far the chain was folded. `generation` grows at each rewind, `version` at each change.
chain_cursor = Table(
    "chain_cursor",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", Hash, nullable=False),
    Column("block_timestamp", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# Hashes of the newest applied blocks, to notice a reorganisation.
chain_blocks = Table(
    "chain_blocks",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("hash", Hash, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
)

chain_events = Table(
    "chain_events",
    metadata,
    Column("tx_hash", Hash, primary_key=True),
    Column("block_hash", Hash, primary_key=True),
    Column("log_index", Integer, primary_key=True),
    Column("block_number", BigInteger, nullable=False),
    Column("contract", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("args", LargeBinary, nullable=False, doc="msgpack"),
)
Index("ix_chain_events_order", chain_events.c.block_number, chain_events.c.log_index)

chain_records = Table(
    "chain_records",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False, doc="msgpack of the record's fields in order"),
    Column("version", BigInteger, nullable=False),
)
Index("ix_chain_records_version", chain_records.c.version)

# Signed bytes are here before any node has seen them.
outbox_transactions = Table(
    "outbox_transactions",
    metadata,
    Column("account", Address, primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("to", Address, nullable=True),
    Column("data", LargeBinary, nullable=False),
    Column("gas", BigInteger, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee_per_gas", Text, nullable=False, doc="decimal: wei can exceed 64 bits"),
    Column("priority_fee_per_gas", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("tx_hashes", LargeBinary, nullable=False, doc="32 bytes each, the newest last"),
    Column("sent_at", Float, nullable=False),
    Column("done", Boolean, nullable=False),
)
# However many processes send for an account, a nonce is one transaction's.
Index(
    "uq_outbox_transactions_nonce",
    outbox_transactions.c.account,
    outbox_transactions.c.nonce,
    unique=True,
    sqlite_where=outbox_transactions.c.done.is_(False),
    postgresql_where=outbox_transactions.c.done.is_(False),
)

# A settlement as decided, before it is sent; `tx_hash` stays NULL until it is confirmed.
settlement_batches = Table(
    "settlement_batches",
    metadata,
    Column("gateway", Address, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("root", Hash, nullable=False),
    Column("receipt_count", Integer, nullable=False),
    Column("debited", Amount, nullable=False),
    Column("credited", Amount, nullable=False),
    Column("call_data", LargeBinary, nullable=False),
    Column("tx_hash", Hash, nullable=True),
    Column("gas_used", BigInteger, nullable=True),
    Column("block_number", BigInteger, nullable=True),
)

# What batches have claimed of a channel and promised to a payee in all, decided batches included. `unpaid` until the
# chain is seen to have reached the total; where deposit or money did not suffice, later batches try again.
settled_totals = Table(
    "settled_totals",
    metadata,
    Column("gateway", Address, primary_key=True),
    Column("account", LargeBinary, primary_key=True, doc="channel id (32 bytes) or payee (20 bytes)"),
    Column("total", Amount, nullable=False),
    Column("unpaid", Boolean, nullable=False),
)
Index("ix_settled_totals_unpaid", settled_totals.c.gateway, settled_totals.c.unpaid)
