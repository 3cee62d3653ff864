"""Tells the traces of settled requests in which transaction they were settled.

Reads only, and only while somebody collects traces. Called by the jobs through `market.bootstrap`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Engine

from contracts import tracing
from market.adapters.database.engine import reading
from market.adapters.database.tables_ledger import receipts, settled_receipts
from market.settlement.ports import Batch

MAX_TOLD = 5_000


class DatabaseTraces:
    """The receipts of a batch that belong to a trace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tell(self, batch: Batch, began_at: float, ended_at: float) -> int:
        """Add the settlement to the trace of each of its requests, `MAX_TOLD` at most; returns to how many."""
        c = receipts.c
        query = (
            sa.select(c.trace, c.request_id, c.price)
            .join_from(settled_receipts, receipts, settled_receipts.c.position == c.position)
            .where(c.gateway == batch.gateway, settled_receipts.c.epoch == batch.epoch, c.trace.is_not(None))
            .limit(MAX_TOLD)
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        for row in found:
            span = tracing.start("settle", tracing.read(row.trace), began_at, kind="internal")
            if span is not None:
                attributes: dict[str, str | int] = {
                    "market.request_id": "0x" + row.request_id.hex(),
                    "market.epoch": batch.epoch,
                    "market.receipts": batch.receipt_count,
                    "market.price": row.price,
                }
                if batch.tx_hash is not None:
                    attributes["market.transaction"] = "0x" + batch.tx_hash.hex()
                if batch.block_number is not None:
                    attributes["market.block"] = batch.block_number
                span.end(ended_at, attributes)
        return len(found)
