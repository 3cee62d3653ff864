"""Keeps outgoing transactions. Implements `contracts.bindings.outbox.Outbox`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from contracts.bindings.outbox import Outgoing
from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_chain import outbox_transactions as table


class DatabaseOutbox:
    """One outbox for every account of this database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, account: bytes, purpose: str) -> Outgoing | None:
        """See `Outbox.get`."""
        query = sa.select(table).where(table.c.account == account, table.c.purpose == purpose)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _outgoing(row)

    def pending(self, account: bytes) -> Sequence[Outgoing]:
        """See `Outbox.pending`."""
        query = sa.select(table).where(table.c.account == account, table.c.done.is_(False)).order_by(table.c.nonce)
        with reading(self._engine) as connection:
            return [_outgoing(row) for row in connection.execute(query)]

    def at(self, account: bytes, nonce: int) -> Outgoing | None:
        """See `Outbox.at`."""
        query = sa.select(table).where(table.c.account == account, table.c.nonce == nonce)
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(table.c.sent_at.desc()).limit(1)).one_or_none()
        return None if row is None else _outgoing(row)

    def add(self, outgoing: Outgoing) -> bool:
        """See `Outbox.add`."""
        try:
            with writing(self._engine) as connection:
                connection.execute(sa.insert(table).values(_row(outgoing)))
        except IntegrityError:
            return False
        return True

    def put(self, outgoing: Outgoing) -> None:
        """See `Outbox.put`."""
        here = (table.c.account == outgoing.account) & (table.c.purpose == outgoing.purpose)
        with writing(self._engine) as connection:
            connection.execute(sa.update(table).where(here).values(_row(outgoing)))

    def drop(self, account: bytes, purpose: str) -> None:
        """See `Outbox.drop`."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(table).where(table.c.account == account, table.c.purpose == purpose))


def _row(outgoing: Outgoing) -> dict[str, Any]:
    return {
        "account": outgoing.account,
        "purpose": outgoing.purpose,
        "to": outgoing.to,
        "data": outgoing.data,
        "gas": outgoing.gas,
        "nonce": outgoing.nonce,
        "max_fee_per_gas": str(outgoing.max_fee_per_gas),
        "priority_fee_per_gas": str(outgoing.priority_fee_per_gas),
        "raw": outgoing.raw,
        "tx_hashes": b"".join(outgoing.tx_hashes),
        "sent_at": outgoing.sent_at,
        "done": outgoing.done,
    }


def _outgoing(row: Any) -> Outgoing:
    hashes = bytes(row.tx_hashes)
    return Outgoing(
        account=bytes(row.account),
        purpose=row.purpose,
        to=None if row.to is None else bytes(row.to),
        data=bytes(row.data),
        gas=row.gas,
        nonce=row.nonce,
        max_fee_per_gas=int(row.max_fee_per_gas),
        priority_fee_per_gas=int(row.priority_fee_per_gas),
        raw=bytes(row.raw),
        tx_hashes=tuple(hashes[i : i + 32] for i in range(0, len(hashes), 32)),
        sent_at=row.sent_at,
        done=row.done,
    )
