"""The book of settlement over the ledger's receipts. Implements `market.settlement.ports.SettlementBook`.

The only one that moves receipts from the unsettled to the settled ones, and the only writer of the batches.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_chain import settled_totals, settlement_batches
from market.adapters.database.tables_ledger import channel_accounts, receipts, settled_receipts, unsettled_receipts
from market.settlement.ports import Backlog, Batch, Due, DueChannel, DueReceipt, Sent

_ID_BYTES = 32
_IN_GROUP = 500  # SQLite bounds the parameters of a statement


# Two statements for all receipts of a batch, in the order of its leaves: charges wait as long as they take.
_TAKE = {
    "sqlite": sa.text("DELETE FROM unsettled_receipts WHERE position IN (SELECT value FROM json_each(:positions))"),
    "postgresql": sa.text(
        "DELETE FROM unsettled_receipts WHERE position IN"
        " (SELECT CAST(value AS bigint) FROM json_array_elements_text(CAST(:positions AS json)))"
    ),
}
_PLACE = {
    "sqlite": sa.text(
        "INSERT INTO settled_receipts (position, epoch, leaf_index)"
        " SELECT taken.value, :epoch, taken.key FROM json_each(:positions) AS taken"
    ),
    "postgresql": sa.text(
        "INSERT INTO settled_receipts (position, epoch, leaf_index)"
        " SELECT CAST(taken.position AS bigint), :epoch, taken.number - 1"
        " FROM json_array_elements_text(CAST(:positions AS json)) WITH ORDINALITY AS taken (position, number)"
    ),
}


class _Taken(Exception):
    """Another process put one of the receipts into a batch."""


class DatabaseSettlementBook:
    """One database's book."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def backlog(self, gateway: bytes) -> Backlog:
        """See `SettlementBook.backlog`."""
        query = sa.select(sa.func.count(), sa.func.sum(receipts.c.price), sa.func.min(receipts.c.position)).where(
            _unsettled(gateway)
        )
        with reading(self._engine) as connection:
            count, value, oldest = connection.execute(query).one()
        return Backlog(count, int(value or 0), int(oldest or 0))

    def unsettled_channels(self, gateway: bytes) -> Sequence[bytes]:
        """See `SettlementBook.unsettled_channels`."""
        query = sa.select(receipts.c.channel_id).where(_unsettled(gateway)).distinct()
        with reading(self._engine) as connection:
            return [bytes(found) for found in connection.execute(query).scalars()]

    def due(self, gateway: bytes, limit: int) -> Due:
        """See `SettlementBook.due`."""
        columns = (
            receipts.c.position,
            receipts.c.digest,
            receipts.c.channel_id,
            receipts.c.price,
            receipts.c.worker_payee,
            receipts.c.worker_amount,
            receipts.c.owner_payee,
            receipts.c.owner_amount,
        )
        query = sa.select(*columns).where(_unsettled(gateway)).order_by(receipts.c.position).limit(limit)
        with reading(self._engine) as connection:
            found = [_due(row) for row in connection.execute(query)]
            waiting = sa.select(settled_totals.c.account).where(
                settled_totals.c.gateway == gateway, settled_totals.c.unpaid.is_(sa.true())
            )
            unpaid = frozenset(bytes(account) for account in connection.execute(waiting).scalars())
            channel_ids = sorted({receipt.channel_id for receipt in found} | {a for a in unpaid if len(a) == _ID_BYTES})
            payees = {receipt.worker_payee for receipt in found} | {receipt.owner_payee for receipt in found}
            payees |= {account for account in unpaid if len(account) != _ID_BYTES}
            totals = _totals(connection, gateway, [*channel_ids, *sorted(payees)])
            channels = {}
            for group in _groups(channel_ids):
                accounts = sa.select(channel_accounts).where(channel_accounts.c.channel_id.in_(group))
                for row in connection.execute(accounts):
                    channel_id = bytes(row.channel_id)
                    channels[channel_id] = DueChannel(
                        channel_id=channel_id,
                        payer=bytes(row.payer),
                        signer=bytes(row.signer),
                        salt=int.from_bytes(row.salt, "big"),
                        voucher_amount=row.voucher_amount,
                        voucher_signature=bytes(row.voucher_signature),
                        claimed=totals.get(channel_id, 0),
                    )
        return Due(found, channels, {payee: totals.get(payee, 0) for payee in payees}, unpaid)

    def decide(self, batch: Batch, due: Sequence[DueReceipt], totals: Mapping[bytes, int]) -> bool:
        """See `SettlementBook.decide`."""
        key = _is(batch.gateway, batch.epoch)
        try:
            with writing(self._engine) as connection:
                if connection.execute(sa.select(settlement_batches.c.epoch).where(key)).one_or_none() is not None:
                    return False
                self._decide(connection, batch, due, totals)
        except _Taken:
            return False
        return True

    @staticmethod
    def _decide(connection: Connection, batch: Batch, due: Sequence[DueReceipt], totals: Mapping[bytes, int]) -> None:
        connection.execute(
            sa.insert(settlement_batches).values(
                gateway=batch.gateway,
                epoch=batch.epoch,
                root=batch.root,
                receipt_count=batch.receipt_count,
                debited=batch.debited,
                credited=batch.credited,
                call_data=batch.call_data,
            )
        )
        if due:
            positions = json.dumps([receipt.position for receipt in due])
            taken = connection.execute(_TAKE[connection.dialect.name], {"positions": positions})
            if taken.rowcount != len(due):
                raise _Taken
            connection.execute(_PLACE[connection.dialect.name], {"epoch": batch.epoch, "positions": positions})
        _save_totals(connection, batch.gateway, totals)

    def open_batch(self, gateway: bytes) -> Batch | None:
        """See `SettlementBook.open_batch`."""
        table = settlement_batches
        query = sa.select(table).where(table.c.gateway == gateway, table.c.tx_hash.is_(None)).order_by(table.c.epoch)
        with reading(self._engine) as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        return None if row is None else _batch(row)

    def newest_confirmed(self, gateway: bytes) -> Batch | None:
        """See `SettlementBook.newest_confirmed`."""
        table = settlement_batches
        query = sa.select(table).where(table.c.gateway == gateway, table.c.tx_hash.is_not(None))
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(table.c.epoch.desc()).limit(1)).one_or_none()
        return None if row is None else _batch(row)

    def batch(self, gateway: bytes, epoch: int) -> Batch | None:
        """See `SettlementBook.batch`."""
        table = settlement_batches
        query = sa.select(table).where(table.c.gateway == gateway, table.c.epoch == epoch)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _batch(row)

    def confirm(self, gateway: bytes, epoch: int, sent: Sent) -> None:
        """See `SettlementBook.confirm`."""
        self._update(gateway, epoch, tx_hash=sent.tx_hash, gas_used=sent.gas_used, block_number=sent.block_number)

    def reopen(self, gateway: bytes, epoch: int) -> None:
        """See `SettlementBook.reopen`."""
        self._update(gateway, epoch, tx_hash=None, gas_used=None, block_number=None)

    def _update(self, gateway: bytes, epoch: int, **values: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(sa.update(settlement_batches).where(_is(gateway, epoch)).values(values))

    def withdraw(self, gateway: bytes, epoch: int) -> None:
        """See `SettlementBook.withdraw`."""
        placed = sa.select(receipts.c.position).join_from(
            settled_receipts, receipts, settled_receipts.c.position == receipts.c.position
        )
        placed = placed.where(receipts.c.gateway == gateway, settled_receipts.c.epoch == epoch)
        mine = receipts.c.position.in_(placed)
        parts = (
            (receipts.c.channel_id, receipts.c.price),
            (receipts.c.worker_payee, receipts.c.worker_amount),
            (receipts.c.owner_payee, receipts.c.owner_amount),
        )
        with writing(self._engine) as connection:
            gone = connection.execute(
                sa.delete(settlement_batches).where(_is(gateway, epoch), settlement_batches.c.tx_hash.is_(None))
            )
            if gone.rowcount != 1:
                return
            added: dict[bytes, int] = defaultdict(int)
            for account, amount in parts:
                for row in connection.execute(sa.select(account, sa.func.sum(amount)).where(mine).group_by(account)):
                    added[bytes(row[0])] += int(row[1])
            totals = _totals(connection, gateway, sorted(added))
            _save_totals(connection, gateway, {key: totals[key] - added[key] for key in added if key in totals})
            connection.execute(sa.insert(unsettled_receipts).from_select(["position"], placed))
            connection.execute(sa.delete(settled_receipts).where(settled_receipts.c.position.in_(placed)))

    def mark_paid(self, gateway: bytes, totals: Mapping[bytes, int]) -> None:
        """See `SettlementBook.mark_paid`."""
        if not totals:
            return
        c = settled_totals.c
        seen = (c.gateway == gateway) & (c.account == sa.bindparam("of")) & (c.total <= sa.bindparam("reached"))
        rows = [{"of": account, "reached": totals[account]} for account in sorted(totals)]
        with writing(self._engine) as connection:
            connection.execute(sa.update(settled_totals).where(seen).values(unpaid=False), rows)


def _is(gateway: bytes, epoch: int) -> Any:
    return sa.and_(settlement_batches.c.gateway == gateway, settlement_batches.c.epoch == epoch)


def _save_totals(connection: Connection, gateway: bytes, totals: Mapping[bytes, int]) -> None:
    for group in _groups(sorted(totals)):
        here = (settled_totals.c.gateway == gateway) & settled_totals.c.account.in_(group)
        connection.execute(sa.delete(settled_totals).where(here))
        rows = [{"gateway": gateway, "account": key, "total": totals[key], "unpaid": True} for key in group]
        connection.execute(sa.insert(settled_totals), rows)


def _unsettled(gateway: bytes) -> Any:
    waiting = sa.select(unsettled_receipts.c.position)
    return sa.and_(receipts.c.position.in_(waiting), receipts.c.gateway == gateway)


def _groups(keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
    return [keys[i : i + _IN_GROUP] for i in range(0, len(keys), _IN_GROUP)]


def _totals(connection: Connection, gateway: bytes, accounts: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for group in _groups(accounts):
        query = sa.select(settled_totals.c.account, settled_totals.c.total).where(
            settled_totals.c.gateway == gateway, settled_totals.c.account.in_(group)
        )
        found.update({bytes(row.account): row.total for row in connection.execute(query)})
    return found


def _due(row: Any) -> DueReceipt:
    return DueReceipt(
        position=row.position,
        digest=bytes(row.digest),
        channel_id=bytes(row.channel_id),
        price=row.price,
        worker_payee=bytes(row.worker_payee),
        worker_amount=row.worker_amount,
        owner_payee=bytes(row.owner_payee),
        owner_amount=row.owner_amount,
    )


def _batch(row: Any) -> Batch:
    return Batch(
        gateway=bytes(row.gateway),
        epoch=row.epoch,
        root=bytes(row.root),
        receipt_count=row.receipt_count,
        debited=row.debited,
        credited=row.credited,
        call_data=bytes(row.call_data),
        tx_hash=None if row.tx_hash is None else bytes(row.tx_hash),
        gas_used=row.gas_used,
        block_number=row.block_number,
    )
