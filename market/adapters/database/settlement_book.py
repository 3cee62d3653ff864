"""The book of settlement over the ledger's receipts. Implements `market.settlement.ports.SettlementBook`.

The only writer of `receipts.epoch` and `receipts.leaf_index`, and of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_chain import settled_totals, settlement_batches
from market.adapters.database.tables_ledger import channel_accounts, receipts
from market.settlement.ports import Backlog, Batch, Due, DueChannel, DueReceipt

_IN_GROUP = 500  # SQLite bounds the parameters of a statement


class _Taken(Exception):
    """Another process put one of the receipts into a batch."""


class DatabaseSettlementBook:
    """One database's book."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def backlog(self, gateway: bytes) -> Backlog:
        """See `SettlementBook.backlog`."""
        query = sa.select(sa.func.count(), sa.func.sum(receipts.c.price), sa.func.min(receipts.c.served_at)).where(
            _unsettled(gateway)
        )
        with reading(self._engine) as connection:
            count, value, oldest_at = connection.execute(query).one()
        return Backlog(count, int(value or 0), int(oldest_at or 0))

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
            channel_ids = sorted({receipt.channel_id for receipt in found})
            payees = {receipt.worker_payee for receipt in found} | {receipt.owner_payee for receipt in found}
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
        return Due(found, channels, {payee: totals.get(payee, 0) for payee in payees})

    def decide(self, batch: Batch, due: Sequence[DueReceipt], totals: Mapping[bytes, int]) -> bool:
        """See `SettlementBook.decide`."""
        key = (settlement_batches.c.gateway == batch.gateway) & (settlement_batches.c.epoch == batch.epoch)
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
        taken = connection.execute(
            sa.update(receipts)
            .where(receipts.c.position == sa.bindparam("at"), receipts.c.epoch.is_(None))
            .values(epoch=batch.epoch, leaf_index=sa.bindparam("leaf")),
            [{"at": receipt.position, "leaf": index} for index, receipt in enumerate(due)],
        )
        if taken.rowcount not in (len(due), -1):
            raise _Taken
        for account in totals:
            here = (settled_totals.c.gateway == batch.gateway) & (settled_totals.c.account == account)
            connection.execute(sa.delete(settled_totals).where(here))
        connection.execute(
            sa.insert(settled_totals),
            [{"gateway": batch.gateway, "account": account, "total": total} for account, total in totals.items()],
        )

    def open_batch(self, gateway: bytes) -> Batch | None:
        """See `SettlementBook.open_batch`."""
        table = settlement_batches
        query = sa.select(table).where(table.c.gateway == gateway, table.c.tx_hash.is_(None)).order_by(table.c.epoch)
        with reading(self._engine) as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        return None if row is None else _batch(row)

    def batch(self, gateway: bytes, epoch: int) -> Batch | None:
        """See `SettlementBook.batch`."""
        table = settlement_batches
        query = sa.select(table).where(table.c.gateway == gateway, table.c.epoch == epoch)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _batch(row)

    def confirm(self, gateway: bytes, epoch: int, *, tx_hash: bytes, gas_used: int, block_number: int) -> None:
        """See `SettlementBook.confirm`."""
        table = settlement_batches
        with writing(self._engine) as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.gateway == gateway, table.c.epoch == epoch)
                .values(tx_hash=tx_hash, gas_used=gas_used, block_number=block_number)
            )


def _unsettled(gateway: bytes) -> Any:
    return sa.and_(receipts.c.epoch.is_(None), receipts.c.gateway == gateway)


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
