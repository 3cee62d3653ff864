"""The whole schema: importing this module registers every table on one metadata."""

from __future__ import annotations

from market.adapters.database import (
    tables_audits,
    tables_chain,
    tables_keys,
    tables_ledger,
    tables_refunds,
    tables_x402,
)
from market.adapters.database.tables_base import metadata

__all__ = ["metadata", "tables_audits", "tables_chain", "tables_keys", "tables_ledger", "tables_refunds", "tables_x402"]
