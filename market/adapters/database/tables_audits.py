"""Tables of audits: by which secrets requests were chosen, what audits say of workers, and where answers differed.

Written by `market.adapters.database.audit_book` alone.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, LargeBinary, SmallInteger, Table, Text

from market.adapters.database.tables_base import Address, Hash, Position, metadata

audit_secrets = Table(
    "audit_secrets",
    metadata,
    Column("commitment", Hash, primary_key=True, doc="SHA-256 of the secret"),
    Column("gateway", Address, nullable=False),
    Column("secret", Hash, nullable=False),
    Column("began_at", Float, nullable=False),
)
Index("ix_audit_secrets_gateway", audit_secrets.c.gateway, audit_secrets.c.began_at)

# One row a worker that answered anything since audits are made.
audited_workers = Table(
    "audited_workers",
    metadata,
    Column("gateway", Address, primary_key=True),
    Column("worker", Address, primary_key=True),
    Column("answered", BigInteger, nullable=False, doc="requests while it was new; not counted any more after that"),
    Column("agreed", BigInteger, nullable=False, doc="audits that it passed"),
    Column("convicted_at", Float, nullable=True),
    Column("conviction", BigInteger, nullable=True, doc="the audit that it was convicted by"),
    Column("pardoned_at", Float, nullable=True),
)

# One row an audit in which answers differed.
audits = Table(
    "audits",
    metadata,
    Column("number", Position, primary_key=True, autoincrement=True),
    Column("gateway", Address, nullable=False),
    Column("at", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("against", Address, nullable=True),
    Column("error", Float, nullable=True, doc="relative L2; NULL where there is no such number"),
    Column("tolerance", Float, nullable=False),
    Column("detail", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("commitment", Hash, nullable=False),
)
Index("ix_audits_gateway", audits.c.gateway, audits.c.number)
Index("ix_audits_against", audits.c.gateway, audits.c.against, audits.c.at)

# What each worker of an audit signed; place 0 is that of the worker who served the client.
audit_statements = Table(
    "audit_statements",
    metadata,
    Column("number", BigInteger, ForeignKey("audits.number"), primary_key=True),
    Column("place", SmallInteger, primary_key=True),
    Column("worker", Address, nullable=False),
    Column("operator", Address, nullable=False),
    Column("receipt", LargeBinary, nullable=False, doc="Receipt.to_bytes"),
    Column("signature", LargeBinary, nullable=False, doc="the worker's, alone or with a proof of its batch"),
)
Index("ix_audit_statements_worker", audit_statements.c.worker, audit_statements.c.number)
