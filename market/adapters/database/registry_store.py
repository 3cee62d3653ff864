"""Keeps the chain's events and what they fold to; a view of it in memory for everybody who only reads.

A range is applied in one transaction, after a check that the cursor is where the caller saw it. Implements
`market.registry.ports.RegistryStore` and `RegistryView`.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import msgpack
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_chain import chain_blocks, chain_cursor, chain_events, chain_records
from market.registry.fold import Fold, key_of
from market.registry.indexer import KEPT_BLOCKS
from market.registry.model import Record
from market.registry.ports import Block, ChainEvent
from market.registry.view import KINDS, SnapshotView

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in KINDS}
_R = TypeVar("_R", bound=Record)


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, default=_big, use_bin_type=True))


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, use_list=False, ext_hook=lambda _, body: int.from_bytes(body, "big"))


def _big(value: Any) -> Any:
    if isinstance(value, int):  # beyond 64 bits
        return msgpack.ExtType(1, value.to_bytes(32, "big"))
    raise TypeError(f"{type(value).__name__} cannot be stored")


class _Session:
    """The fold's state inside one transaction: records read on demand, changed ones written at the end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._records: dict[tuple[str, bytes], Record | None] = {}
        self._changed: set[tuple[str, bytes]] = set()

    def get(self, kind: type[_R], key: Hashable) -> _R | None:
        name = (kind.__name__, _pack(key))
        if name not in self._records:
            row = self._connection.execute(
                sa.select(chain_records.c.data).where(chain_records.c.kind == name[0], chain_records.c.key == name[1])
            ).one_or_none()
            self._records[name] = None if row is None else kind(*_unpack(row.data))
        return self._records[name]  # type: ignore[return-value]  # the kind is part of the name

    def put(self, record: Record) -> None:
        name = (type(record).__name__, _pack(key_of(record)))
        self._records[name] = record
        self._changed.add(name)

    def flush(self, version: int) -> None:
        for kind, key in self._changed:
            record = self._records[kind, key]
            here = (chain_records.c.kind == kind) & (chain_records.c.key == key)
            self._connection.execute(sa.delete(chain_records).where(here))
            data = _pack([getattr(record, f.name) for f in fields(_KINDS[kind])])
            self._connection.execute(sa.insert(chain_records).values(kind=kind, key=key, data=data, version=version))


class DatabaseRegistryStore:
    """Implements `RegistryStore`; `min_stake` is the worker registry's constant."""

    def __init__(self, engine: Engine, *, min_stake: int) -> None:
        self._engine = engine
        self._fold = Fold(min_stake)

    def cursor(self) -> Block | None:
        """See `RegistryStore.cursor`."""
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(chain_cursor)).one_or_none()
        return None if row is None or row.block_number < 0 else _cursor_block(row)

    def known_blocks(self) -> Sequence[Block]:
        """See `RegistryStore.known_blocks`."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(chain_blocks).order_by(chain_blocks.c.number.desc())).all()
        return [Block(row.number, bytes(row.hash), row.timestamp) for row in rows]

    def apply(self, after: Block | None, blocks: Sequence[Block], events: Sequence[ChainEvent]) -> bool:
        """See `RegistryStore.apply`."""
        with writing(self._engine) as connection:
            row = connection.execute(sa.select(chain_cursor).with_for_update()).one_or_none()
            stored = None if row is None or row.block_number < 0 else _cursor_block(row)
            if stored != after:
                return False
            version = 1 if row is None else row.version + 1
            session = _Session(connection)
            for event in events:
                connection.execute(sa.insert(chain_events).values(_event_row(event)))
                self._fold.apply(session, event)
            session.flush(version)
            connection.execute(
                sa.insert(chain_blocks),
                [{"number": b.number, "hash": b.hash, "timestamp": b.timestamp} for b in blocks],
            )
            last = blocks[-1]
            connection.execute(sa.delete(chain_blocks).where(chain_blocks.c.number < last.number - KEPT_BLOCKS))
            _move(connection, row, last, version, generation=0 if row is None else row.generation)
        return True

    def rewind(self, to_block: int) -> None:
        """See `RegistryStore.rewind`."""
        with writing(self._engine) as connection:
            row = connection.execute(sa.select(chain_cursor).with_for_update()).one()
            if row.block_number <= to_block:
                return
            connection.execute(sa.delete(chain_events).where(chain_events.c.block_number > to_block))
            connection.execute(sa.delete(chain_blocks).where(chain_blocks.c.number > to_block))
            connection.execute(sa.delete(chain_records))
            session = _Session(connection)
            order = sa.select(chain_events).order_by(chain_events.c.block_number, chain_events.c.log_index)
            for stored in connection.execute(order):
                self._fold.apply(session, _stored_event(stored))
            version = row.version + 1
            session.flush(version)
            kept = connection.execute(sa.select(chain_blocks).where(chain_blocks.c.number == to_block)).one()
            block = Block(kept.number, bytes(kept.hash), kept.timestamp)
            _move(connection, row, block, version, generation=row.generation + 1)


class DatabaseRegistryView(SnapshotView):
    """A snapshot of this database's records, brought up to date by `refresh`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._lock = threading.Lock()
        self._seen = (-1, 0)

    def refresh(self) -> bool:
        """Read what changed since the last call; True if anything did.

        Raises:
            DatabaseUnreachable: the view stays as it was.
        """
        with self._lock, reading(self._engine) as connection:
            row = connection.execute(_CURSOR).one_or_none()
            if row is None or (row.generation, row.version) == self._seen:
                return False
            whole = row.generation != self._seen[0]
            since = 0 if whole else self._seen[1]
            found = connection.execute(sa.select(chain_records).where(chain_records.c.version > since)).all()
            self.show(row.block_number, [_KINDS[stored.kind](*_unpack(stored.data)) for stored in found], whole=whole)
            self._seen = (row.generation, row.version)
        return True


# Asked several times a second by every process of a gateway.
_CURSOR = sa.select(chain_cursor)


def _cursor_block(row: Any) -> Block:
    return Block(row.block_number, bytes(row.block_hash), row.block_timestamp)


def _move(connection: Connection, row: Any, block: Block, version: int, *, generation: int) -> None:
    values = {
        "block_number": block.number,
        "block_hash": block.hash,
        "block_timestamp": block.timestamp,
        "generation": generation,
        "version": version,
    }
    if row is None:
        connection.execute(sa.insert(chain_cursor).values(id=1, **values))
    else:
        connection.execute(sa.update(chain_cursor).where(chain_cursor.c.id == 1).values(**values))


def _event_row(event: ChainEvent) -> dict[str, Any]:
    return {
        "tx_hash": event.tx_hash,
        "block_hash": event.block_hash,
        "log_index": event.log_index,
        "block_number": event.block_number,
        "contract": event.contract,
        "name": event.name,
        "args": _pack(dict(event.args)),
    }


def _stored_event(row: Any) -> ChainEvent:
    return ChainEvent(
        contract=row.contract,
        name=row.name,
        args=_unpack(row.args),
        block_number=row.block_number,
        block_hash=bytes(row.block_hash),
        tx_hash=bytes(row.tx_hash),
        log_index=row.log_index,
    )
