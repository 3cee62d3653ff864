"""Promised refunds in the database, read from memory: every paid request asks whether its channel has one.

`refresh` brings what other processes promised. Implements `market.payments.refunds.RefundPromises`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_refunds import refund_promises as t


class DatabaseRefundPromises:
    """One per process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[bytes, tuple[int, int, int]] = {}
        insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        row = insert(t)
        higher = sa.case((t.c.amount > row.excluded.amount, t.c.amount), else_=row.excluded.amount)
        self._raise = row.on_conflict_do_update(index_elements=[t.c.channel_id, t.c.nonce], set_={"amount": higher})
        self.refresh()

    def outstanding(self, channel_id: bytes, nonce: int) -> int:
        """See `RefundPromises.outstanding`."""
        known = self._known.get(channel_id)
        return known[1] if known is not None and known[0] == nonce else 0

    def signed(self, channel_id: bytes, nonce: int) -> int:
        """See `RefundPromises.signed`."""
        known = self._known.get(channel_id)
        return known[2] if known is not None and known[0] == nonce else 0

    def keep(self, channel_id: bytes, nonce: int, amount: int) -> None:
        """See `RefundPromises.keep`."""
        with writing(self._engine) as connection:
            connection.execute(self._raise, {"channel_id": channel_id, "nonce": nonce, "amount": amount})
        self.refresh()

    def sign(self, channel_id: bytes, nonce: int, amount: int) -> bool:
        """See `RefundPromises.sign`."""
        where = (t.c.channel_id == channel_id) & (t.c.nonce == nonce) & (t.c.amount >= amount)
        most = sa.case((t.c.signed > amount, t.c.signed), else_=amount)
        with writing(self._engine) as connection:
            found = connection.execute(t.update().where(where).values(signed=most)).rowcount == 1
        self.refresh()
        return found

    def take_back(self, channel_id: bytes, nonce: int, amount: int) -> None:
        """See `RefundPromises.take_back`."""
        where = (t.c.channel_id == channel_id) & (t.c.nonce == nonce)
        least = sa.case((t.c.signed > amount, t.c.signed), else_=amount)
        with writing(self._engine) as connection:
            connection.execute(t.update().where(where).values(amount=least))
            connection.execute(t.delete().where(where, t.c.amount == 0))
        self.refresh()

    def refresh(self) -> None:
        """See `RefundPromises.refresh`."""
        newest: dict[bytes, tuple[int, int, int]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(sa.select(t).order_by(t.c.nonce)):
                newest[row.channel_id] = (row.nonce, row.amount, row.signed)
        self._known = newest
