"""Shared metadata and column types of every table; holds no table itself.

Amounts are 64-bit integers of atomic units: up to 9.2e12 tokens of six decimals, exact in SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, LargeBinary, MetaData
from sqlalchemy.types import TypeEngine

MAX_STORED_AMOUNT = 2**63 - 1

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column declared exactly INTEGER.
Position: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Amount: TypeEngine[int] = BigInteger()
Address: TypeEngine[bytes] = LargeBinary(20)
Hash: TypeEngine[bytes] = LargeBinary(32)
Signature: TypeEngine[bytes] = LargeBinary(65)
