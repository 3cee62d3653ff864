"""API keys on SQLAlchemy Core; look-ups of a busy moment share one query.

Decides nothing. Built by `market.bootstrap`; implements `market.payments.ports.KeyBook`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_keys import api_keys
from market.adapters.grouping import GroupThread
from market.payments.keys import ApiKey, Grant, KeyCount
from market.payments.model import ParsedVoucher


class DatabaseKeyBook:
    """Implements `KeyBook`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = GroupThread[bytes, ApiKey | None]("keys-read", self._find_group, max_group=400)

    def close(self) -> None:
        """End the thread; the engine stays its owner's."""
        self._reader.close()

    async def add(self, key: ApiKey) -> ApiKey:
        """See `KeyBook.add`."""
        return await asyncio.to_thread(self._add, key)

    async def find(self, key_hash: bytes) -> ApiKey | None:
        """See `KeyBook.find`."""
        return await self._reader.run(key_hash)

    async def of_channel(self, channel_id: bytes) -> Sequence[ApiKey]:
        """See `KeyBook.of_channel`."""
        return await asyncio.to_thread(self._of_channel, channel_id)

    async def revoke(self, key_hash: bytes, now: int) -> ApiKey | None:
        """See `KeyBook.revoke`."""
        return await asyncio.to_thread(self._revoke, key_hash, now)

    async def count(self, channel_id: bytes, now: int) -> KeyCount:
        """See `KeyBook.count`."""
        return await asyncio.to_thread(self._count, channel_id, now)

    async def fund(self, voucher: ParsedVoucher, now: int) -> None:
        """See `KeyBook.fund`."""
        await asyncio.to_thread(self._fund, voucher, now)

    def _add(self, key: ApiKey) -> ApiKey:
        insert: Any = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        grant = key.grant
        row = {
            "key_hash": grant.key_hash,
            "channel_id": grant.channel_id,
            "signer": key.signer,
            "name": grant.name,
            "models": "\n".join(grant.models),
            "spending_limit": grant.spending_limit,
            "spent": 0,
            "expires_at": grant.expires_at,
            "created_at": key.created_at,
            "revoked_at": None,
            "grant_signature": grant.signature,
            "voucher_amount": key.voucher.cumulative_amount,
            "voucher_signature": key.voucher.signature,
        }
        with writing(self._engine) as connection:
            connection.execute(insert(api_keys).values(row).on_conflict_do_nothing())
            _raise_vouchers(connection, key.voucher, key.created_at)
            found = _select(connection, grant.key_hash)
        assert found is not None, "written above"
        return found

    def _find_group(self, hashes: list[bytes]) -> Sequence[ApiKey | None]:
        query = sa.select(api_keys).where(api_keys.c.key_hash.in_(set(hashes)))
        with reading(self._engine) as connection:
            found = {row.key_hash: _key(row) for row in connection.execute(query)}
        return [found.get(key_hash) for key_hash in hashes]

    def _of_channel(self, channel_id: bytes) -> list[ApiKey]:
        c = api_keys.c
        query = sa.select(api_keys).where(c.channel_id == channel_id).order_by(c.created_at, c.key_hash)
        with reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(query)]

    def _revoke(self, key_hash: bytes, now: int) -> ApiKey | None:
        c = api_keys.c
        with writing(self._engine) as connection:
            alive = (c.key_hash == key_hash) & c.revoked_at.is_(None)
            connection.execute(api_keys.update().where(alive).values(revoked_at=now))
            return _select(connection, key_hash)

    def _count(self, channel_id: bytes, now: int) -> KeyCount:
        c = api_keys.c
        made = sa.select(sa.func.count()).where(c.channel_id == channel_id)
        still = sa.select(sa.func.count(), sa.func.sum(c.spending_limit - c.spent)).where(_open(channel_id, now))
        with reading(self._engine) as connection:
            count, allowance = connection.execute(still).one()
            return KeyCount(connection.execute(made).scalar_one(), count, int(allowance or 0))

    def _fund(self, voucher: ParsedVoucher, now: int) -> None:
        with writing(self._engine) as connection:
            _raise_vouchers(connection, voucher, now)


def _open(channel_id: bytes, now: int) -> sa.ColumnElement[bool]:
    """A channel's keys that can still spend anything; what others stand behind makes no difference."""
    c = api_keys.c
    return (c.channel_id == channel_id) & c.revoked_at.is_(None) & ((c.expires_at == 0) | (c.expires_at > now))


def _raise_vouchers(connection: Connection, voucher: ParsedVoucher, now: int) -> None:
    c = api_keys.c
    best = (
        sa.select(c.voucher_amount, c.voucher_signature)
        .where(c.channel_id == voucher.channel_id, c.voucher_amount > voucher.cumulative_amount)
        .order_by(c.voucher_amount.desc())
        .limit(1)
    )
    # Locked in order of hash first, as the ledger locks them for charges: neither then waits for the other in a circle.
    mine = sa.select(c.key_hash).where(_open(voucher.channel_id, now)).order_by(c.key_hash)
    connection.execute(mine.with_for_update()).all()
    given = connection.execute(best).one_or_none()
    if given is not None:
        voucher = ParsedVoucher(voucher.channel_id, given.voucher_amount, given.voucher_signature)
    lower = _open(voucher.channel_id, now) & (c.voucher_amount < voucher.cumulative_amount)
    better = {"voucher_amount": voucher.cumulative_amount, "voucher_signature": voucher.signature}
    connection.execute(api_keys.update().where(lower).values(better))


def _select(connection: Connection, key_hash: bytes) -> ApiKey | None:
    row = connection.execute(sa.select(api_keys).where(api_keys.c.key_hash == key_hash)).one_or_none()
    return None if row is None else _key(row)


def _key(row: Any) -> ApiKey:
    grant = Grant(
        key_hash=row.key_hash,
        channel_id=row.channel_id,
        name=row.name,
        models=tuple(row.models.split("\n")) if row.models else (),
        spending_limit=row.spending_limit,
        expires_at=row.expires_at,
        signature=row.grant_signature,
    )
    voucher = ParsedVoucher(row.channel_id, row.voucher_amount, row.voucher_signature)
    return ApiKey(grant, row.signer, voucher, row.spent, row.created_at, row.revoked_at)
