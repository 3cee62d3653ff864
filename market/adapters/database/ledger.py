"""The durable ledger on SQLAlchemy Core: charges are grouped, each group is one transaction and one flush.

Decides nothing about money except the last word: a group's charge is written only where the total stays within the best
voucher, and the table's own check says so too. Must never report a charge before the commit returned. Built by
`market.bootstrap`; implements `market.payments.ports.Ledger`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from contracts.protocol.typed_data import Channel, Receipt
from market.adapters.database import tables_ledger as t
from market.adapters.database.at_once import AtOnce
from market.adapters.database.checkpoints import Checkpoints
from market.adapters.database.direct import Executes, ThreadsConnection
from market.adapters.database.engine import reading, writing
from market.adapters.database.rows import RowInsert
from market.adapters.database.tables_keys import api_keys
from market.adapters.grouping import GroupThread
from market.aside import looking
from market.errors import InsufficientVoucher, KeyLimit
from market.payments.model import Account, Charge, Earning, Evidence, Recorded, StoredAnswer, StoredReceipt
from market.payments.ports import DuplicateCharge

MAX_GROUP = 1_000
_ROLES = {t.ROLE_WORKER: "worker", t.ROLE_OWNER: "owner"}
_RECEIPT_FIELDS = tuple(name for name, _ in Receipt.FIELDS)
_RECEIPT_COLUMNS = (
    *_RECEIPT_FIELDS,
    "digest",
    "worker_signature",
    "gateway_signature",
    "worker_payee",
    "owner_payee",
    "timeline",
    "trace",
)
_receipt_values = attrgetter(*_RECEIPT_FIELDS)
# Receipts and where they are settled, if they are.
_PLACED = sa.select(t.receipts, t.settled_receipts.c.epoch, t.settled_receipts.c.leaf_index).join_from(
    t.receipts, t.settled_receipts, t.settled_receipts.c.position == t.receipts.c.position, isouter=True
)

_Key = tuple[bytes, bytes]
_Refusal = DuplicateCharge | InsufficientVoucher | KeyLimit


@dataclass(slots=True)
class _ChannelTotal:
    """What a channel is charged, and its best voucher, under the row's lock; see `Account`."""

    charged: int
    ceiling: int
    voucher_signature: bytes
    last_seq: int


@dataclass(slots=True)
class _KeyTotal:
    """What an API key has spent and may spend, under the row's lock."""

    spent: int
    limit: int


_ACCOUNT_COLUMNS = (
    t.channel_accounts.c.channel_id,
    t.channel_accounts.c.charged,
    t.channel_accounts.c.voucher_amount,
    t.channel_accounts.c.voucher_signature,
    t.channel_accounts.c.last_seq,
)


class _Statements:
    """The hot statements, built once: building costs as much as running them."""

    def __init__(self, dialect: sa.Dialect) -> None:
        insert: Any = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
        keys: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
        accounts, receipts, responses = t.channel_accounts, t.receipts, t.responses
        self.insert_receipts = RowInsert(receipts, _RECEIPT_COLUMNS, dialect, returning=("position",))
        self.insert_unsettled = RowInsert(t.unsettled_receipts, ("position",), dialect)
        self.insert_responses = RowInsert(responses, ("request_id", "channel_id", "outputs", "expires_at"), dialect)
        self.open_accounts = insert(accounts).on_conflict_do_nothing()
        self.lock_accounts = (
            sa.select(*_ACCOUNT_COLUMNS)
            .where(accounts.c.channel_id.in_(keys))
            .order_by(accounts.c.channel_id)
            .with_for_update()
        )
        self.save_account = (
            accounts.update()
            .where(accounts.c.channel_id == sa.bindparam("key"))
            .values({c.name: sa.bindparam(c.name) for c in _ACCOUNT_COLUMNS[1:]})
        )
        self.lock_keys = (
            sa.select(api_keys.c.key_hash, api_keys.c.spent, api_keys.c.spending_limit)
            .where(api_keys.c.key_hash.in_(keys))
            .order_by(api_keys.c.key_hash)
            .with_for_update()
        )
        self.save_key = (
            api_keys.update().where(api_keys.c.key_hash == sa.bindparam("key")).values(spent=sa.bindparam("spent"))
        )
        self.known_requests = sa.select(receipts.c.request_id, receipts.c.channel_id).where(
            receipts.c.request_id.in_(keys)
        )
        self.add_totals = RowInsert(
            t.payee_totals, ("gateway", "payee", "earned"), dialect, adding=("earned",), returning=("payee", "earned")
        )
        self.add_earnings = RowInsert(t.earnings, tuple(t.earnings.c.keys()), dialect, adding=("requests", "earned"))
        same = (responses.c.request_id == receipts.c.request_id) & (responses.c.channel_id == receipts.c.channel_id)
        self.answers = (
            _PLACED.add_columns(responses.c.outputs)
            .join(responses, same, isouter=True)
            .where(receipts.c.request_id.in_(keys))
        )


class DatabaseLedger:
    """Implements the `Ledger` port with one writing and one reading thread."""

    def __init__(self, engine: Engine, gateway: bytes) -> None:
        self._engine = engine
        self._gateway = gateway
        self._statements = _Statements(engine.dialect)
        self._writing, self._reading = ThreadsConnection(engine), ThreadsConnection(engine)
        is_sqlite = engine.dialect.name == "sqlite"
        self._at_once = AtOnce(engine) if is_sqlite else None
        self._writer = GroupThread[Charge, Recorded](
            "ledger-write",
            lambda charges: self._record_group(charges, self._writing),
            max_group=MAX_GROUP,
            at_once=self._record_at_once if is_sqlite else None,
        )
        self._checkpoints = Checkpoints(engine, self._writer.do) if is_sqlite else None
        self._reader = GroupThread[_Key, StoredAnswer | None](
            "ledger-read",
            lambda keys: self._find_group(keys, self._reading),
            max_group=400,
            at_once=self._find_at_once if is_sqlite else None,
        )

    def close(self) -> None:
        """Finish what waits and end the threads; the engine stays its owner's."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._writer.close()
        if self._at_once is not None:
            self._at_once.close()
        self._writing.close()
        self._reader.close()
        self._reading.close()

    async def record(self, charge: Charge) -> Recorded:
        """See `Ledger.record`."""
        return await self._writer.run(charge)

    def record_all(self, charges: list[Charge], done: Callable[[Sequence[Recorded | BaseException]], None]) -> None:
        """See `InstantLedger.record_all`."""
        self._writer.put(charges, done)

    def answer_all(
        self, wanted: list[tuple[bytes, bytes]], done: Callable[[Sequence[StoredAnswer | BaseException | None]], None]
    ) -> None:
        """See `InstantLedger.answer_all`."""
        self._reader.put([(request_id, channel_id) for channel_id, request_id in wanted], done)

    async def key_spent(self, key_hash: bytes) -> int:
        """See `Ledger.key_spent`."""
        return await asyncio.to_thread(self._key_spent, key_hash)

    async def answer(self, channel_id: bytes, request_id: bytes) -> StoredAnswer | None:
        """See `Ledger.answer`."""
        return await self._reader.run((request_id, channel_id))

    async def account(self, channel_id: bytes) -> Account | None:
        """See `Ledger.account`."""
        return await asyncio.to_thread(self._account, channel_id)

    async def receipt(self, request_id: bytes, channel_id: bytes | None = None) -> StoredReceipt | None:
        """See `Ledger.receipt`."""
        wanted = t.receipts.c.request_id == request_id
        if channel_id is not None:
            wanted &= t.receipts.c.channel_id == channel_id
        found = await asyncio.to_thread(self._receipts, _PLACED.where(wanted).limit(2))
        return found[0] if len(found) == 1 else None

    async def receipts(self, channel_id: bytes, *, after: int = 0, limit: int = 100) -> Sequence[StoredReceipt]:
        """See `Ledger.receipts`."""
        c = t.receipts.c
        wanted = (c.channel_id == channel_id) & (c.position > after)
        query = _PLACED.where(wanted).order_by(c.position).limit(limit)
        return await looking(self._receipts, query)

    async def batch(self, epoch: int, *, after: int = -1, limit: int = 100) -> Sequence[StoredReceipt]:
        """See `Ledger.batch`."""
        c = t.settled_receipts.c
        wanted = (t.receipts.c.gateway == self._gateway) & (c.epoch == epoch) & (c.leaf_index > after)
        query = _PLACED.where(wanted).order_by(c.leaf_index).limit(limit)
        return await looking(self._receipts, query)

    async def earned(self, payee: bytes) -> int:
        """See `Ledger.earned`."""
        return await asyncio.to_thread(self._earned, payee)

    async def earnings(self, payee: bytes) -> Sequence[Earning]:
        """See `Ledger.earnings`."""
        return await looking(self._earnings, payee)

    async def keep_evidence(self, evidence: Evidence) -> None:
        """See `Ledger.keep_evidence`."""
        await asyncio.to_thread(self._keep_evidence, evidence)

    async def sweep(self, now: float) -> int:
        """See `Ledger.sweep`."""
        return await asyncio.to_thread(self._sweep, now)

    # --- writing -----------------------------------------------------------------------------------------------

    def _record_at_once(self, charges: list[Charge]) -> Sequence[Recorded | BaseException] | None:
        """Commit in the event loop; None where the thread must, and nothing was done."""
        assert self._at_once is not None
        return self._at_once.run(lambda way: self._record_group(charges, way), len(charges))

    def _record_group(self, charges: list[Charge], way: ThreadsConnection) -> Sequence[Recorded | BaseException]:
        try:
            outcomes = self._commit(charges, way, look_for_duplicates=False)
        except IntegrityError:
            # Somewhere in the group a request id is already known: look for it instead of failing its neighbours.
            outcomes = self._commit(charges, way, look_for_duplicates=True)
        if self._checkpoints is not None:
            self._checkpoints.count(len(charges))
        return outcomes

    def _commit(
        self, charges: list[Charge], way: ThreadsConnection, *, look_for_duplicates: bool
    ) -> Sequence[Recorded | BaseException]:
        with way.writing() as connection:
            accounts = self._lock_accounts(connection, charges)
            keys = self._lock_keys(connection, charges)
            known = self._known_requests(connection, charges) if look_for_duplicates else set()
            verdicts = _decide(charges, accounts, keys, known)
            accepted = [charge for charge, verdict in zip(charges, verdicts, strict=True) if isinstance(verdict, tuple)]
            if not accepted:
                return [verdict for verdict in verdicts if isinstance(verdict, Exception)]
            places = self._statements.insert_receipts.execute(connection, [_receipt_row(charge) for charge in accepted])
            self._statements.insert_unsettled.execute(connection, [tuple(place) for place in places])
            touched = sorted({charge.receipt.channel_id for charge in accepted})
            connection.execute(
                self._statements.save_account,
                [_account_row(channel_id, accounts[channel_id]) for channel_id in touched],
            )
            if keys:
                rows = [{"key": key_hash, "spent": total.spent} for key_hash, total in sorted(keys.items())]
                connection.execute(self._statements.save_key, rows)
            kept = [_response_row(charge) for charge in accepted if charge.outputs is not None]
            if kept:
                self._statements.insert_responses.execute(connection, kept)
            earned = self._credit(connection, accepted)
        return [
            Recorded(verdict[0], earned[charge.worker_payee], verdict[1]) if isinstance(verdict, tuple) else verdict
            for charge, verdict in zip(charges, verdicts, strict=True)
        ]

    def _lock_accounts(self, connection: Executes, charges: list[Charge]) -> dict[bytes, _ChannelTotal]:
        channels = {charge.receipt.channel_id: charge.channel for charge in charges}
        accounts = self._select_accounts(connection, channels)
        fresh = sorted(channels.keys() - accounts.keys())
        if fresh:
            # Written empty first: another process may charge the same new channel, and only a row can be locked.
            rows = [_empty_account_row(channel_id, channels[channel_id]) for channel_id in fresh]
            connection.execute(self._statements.open_accounts, rows)
            accounts |= self._select_accounts(connection, fresh)
        return accounts

    def _select_accounts(self, connection: Executes, channel_ids: Iterable[bytes]) -> dict[bytes, _ChannelTotal]:
        # In order of id, so that two processes never wait for each other in a circle. SQLite knows no FOR UPDATE; there
        # the whole transaction holds the write lock.
        found = connection.execute(self._statements.lock_accounts, {"keys": list(channel_ids)})
        return {
            row.channel_id: _ChannelTotal(row.charged, row.voucher_amount, row.voucher_signature, row.last_seq)
            for row in found
        }

    def _lock_keys(self, connection: Executes, charges: list[Charge]) -> dict[bytes, _KeyTotal]:
        used = {charge.key.key_hash for charge in charges if charge.key is not None}
        if not used:
            return {}
        # After the accounts and in order, as every process does.
        found = connection.execute(self._statements.lock_keys, {"keys": list(used)})
        return {row.key_hash: _KeyTotal(row.spent, row.spending_limit) for row in found}

    def _known_requests(self, connection: Executes, charges: list[Charge]) -> set[_Key]:
        wanted = {charge.receipt.request_id for charge in charges}
        found = connection.execute(self._statements.known_requests, {"keys": list(wanted)})
        return {(row.request_id, row.channel_id) for row in found}

    def _credit(self, connection: Executes, charges: list[Charge]) -> dict[bytes, int]:
        # A group mostly is of one model at one worker: summed up for each such pair first.
        pairs: dict[tuple[bytes, bytes, bytes], list[int]] = {}
        for charge in charges:
            receipt = charge.receipt
            key = (charge.worker_payee, charge.owner_payee, receipt.model_id)
            pair = pairs.get(key)
            if pair is None:
                pair = pairs[key] = [0, 0, 0]
            pair[0] += 1
            pair[1] += receipt.worker_amount
            pair[2] += receipt.owner_amount
        totals: dict[bytes, int] = {}
        parts: dict[tuple[bytes, int, bytes], list[int]] = {}
        for (worker_payee, owner_payee, model_id), (count, for_worker, for_owner) in pairs.items():
            for payee, role, amount in (
                (worker_payee, t.ROLE_WORKER, for_worker),
                (owner_payee, t.ROLE_OWNER, for_owner),
            ):
                totals[payee] = totals.get(payee, 0) + amount
                part = parts.setdefault((payee, role, model_id), [0, 0])
                part[0] += count
                part[1] += amount
        self._statements.add_earnings.execute(
            connection,
            [
                (self._gateway, payee, role, model_id, *parts[payee, role, model_id])
                for payee, role, model_id in sorted(parts)
            ],
        )
        return dict(
            self._statements.add_totals.execute(
                connection, [(self._gateway, payee, totals[payee]) for payee in sorted(totals)]
            )
        )

    def _keep_evidence(self, evidence: Evidence) -> None:
        with writing(self._engine) as connection:
            connection.execute(
                t.evidence.insert(),
                {
                    "kind": evidence.kind,
                    "worker": evidence.worker,
                    "channel_id": evidence.receipt.channel_id,
                    "request_id": evidence.receipt.request_id,
                    "receipt": evidence.receipt.to_bytes(),
                    "signature": evidence.signature,
                    "detail": evidence.detail,
                    "recorded_at": evidence.recorded_at,
                },
            )

    def _sweep(self, now: float) -> int:
        with writing(self._engine) as connection:
            return connection.execute(t.responses.delete().where(t.responses.c.expires_at <= now)).rowcount

    # --- reading -----------------------------------------------------------------------------------------------

    def _find_at_once(self, keys: list[_Key]) -> Sequence[StoredAnswer | BaseException | None] | None:
        """Look up in the event loop; None where the thread must."""
        assert self._at_once is not None
        return self._at_once.run(lambda way: self._find_group(keys, way), len(keys))

    def _find_group(self, keys: list[_Key], way: ThreadsConnection) -> Sequence[StoredAnswer | None]:
        with way.reading() as connection:
            found = {
                (row.request_id, row.channel_id): StoredAnswer(_stored(row), row.outputs)
                for row in connection.execute(self._statements.answers, {"keys": [key[0] for key in keys]})
            }
        return [found.get(key) for key in keys]

    def _account(self, channel_id: bytes) -> Account | None:
        query = sa.select(*_ACCOUNT_COLUMNS).where(t.channel_accounts.c.channel_id == channel_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _account(row)

    def _key_spent(self, key_hash: bytes) -> int:
        with reading(self._engine) as connection:
            query = sa.select(api_keys.c.spent).where(api_keys.c.key_hash == key_hash)
            return connection.execute(query).scalar_one_or_none() or 0

    def _receipts(self, query: sa.Select[Any]) -> list[StoredReceipt]:
        with reading(self._engine) as connection:
            return [_stored(row) for row in connection.execute(query)]

    def _earned(self, payee: bytes) -> int:
        c = t.payee_totals.c
        with reading(self._engine) as connection:
            query = sa.select(c.earned).where(c.gateway == self._gateway, c.payee == payee)
            return connection.execute(query).scalar_one_or_none() or 0

    def _earnings(self, payee: bytes) -> list[Earning]:
        c = t.earnings.c
        query = sa.select(t.earnings).where(c.gateway == self._gateway, c.payee == payee).order_by(c.role, c.model_id)
        with reading(self._engine) as connection:
            return [
                Earning(row.payee, _ROLES[row.role], row.model_id, row.requests, row.earned)
                for row in connection.execute(query)
            ]


def _decide(
    charges: list[Charge], accounts: Mapping[bytes, _ChannelTotal], keys: Mapping[bytes, _KeyTotal], known: set[_Key]
) -> list[tuple[int, int] | _Refusal]:
    """Say for each charge, in order, the new totals of channel and key, or the refusal; updates what it is given."""
    verdicts: list[tuple[int, int] | _Refusal] = []
    for charge in charges:
        receipt = charge.receipt
        key = (receipt.request_id, receipt.channel_id)
        account = accounts[receipt.channel_id]
        if key in known:
            verdicts.append(DuplicateCharge())
            continue
        ceiling = max(account.ceiling, charge.voucher_amount)
        total = account.charged + receipt.price
        if total > ceiling:
            detail = f"The channel would be charged {total}; its best voucher allows {ceiling}."
            verdicts.append(InsufficientVoucher(detail, required=total))
            continue
        total_of_key = _KeyTotal(0, 0)
        if charge.key is not None:
            total_of_key = keys.get(charge.key.key_hash, total_of_key)
            if total_of_key.spent + receipt.price > total_of_key.limit:
                verdicts.append(KeyLimit())
                continue
            total_of_key.spent += receipt.price
        known.add(key)
        account.charged = total
        account.last_seq = max(account.last_seq, receipt.seq)
        if ceiling > account.ceiling:
            account.ceiling, account.voucher_signature = ceiling, charge.voucher_signature
        verdicts.append((total, total_of_key.spent))
    return verdicts


def _account(row: Any) -> Account:
    return Account(row.charged, 0, row.voucher_amount, row.voucher_signature, row.last_seq)


def _account_row(channel_id: bytes, account: _ChannelTotal) -> dict[str, Any]:
    return {
        "key": channel_id,
        "charged": account.charged,
        "last_seq": account.last_seq,
        "voucher_amount": account.ceiling,
        "voucher_signature": account.voucher_signature,
    }


def _empty_account_row(channel_id: bytes, channel: Channel) -> dict[str, Any]:
    return {
        "channel_id": channel_id,
        "payer": channel.payer,
        "signer": channel.signer,
        "gateway": channel.gateway,
        "salt": channel.salt.to_bytes(8, "big"),
        "charged": 0,
        "last_seq": 0,
        "voucher_amount": 0,
        "voucher_signature": b"",
    }


def _receipt_row(charge: Charge) -> tuple[Any, ...]:
    return (
        *_receipt_values(charge.receipt),
        charge.digest,
        charge.worker_signature,
        charge.gateway_signature,
        charge.worker_payee,
        charge.owner_payee,
        charge.timeline,
        charge.trace,
    )


def _response_row(charge: Charge) -> tuple[Any, ...]:
    return charge.receipt.request_id, charge.receipt.channel_id, charge.outputs, charge.outputs_expire_at


def _stored(row: Any) -> StoredReceipt:
    return StoredReceipt(
        receipt=Receipt(**{name: getattr(row, name) for name in _RECEIPT_FIELDS}),
        digest=row.digest,
        worker_signature=row.worker_signature,
        gateway_signature=row.gateway_signature,
        worker_payee=row.worker_payee,
        owner_payee=row.owner_payee,
        epoch=row.epoch,
        leaf_index=row.leaf_index,
        position=row.position,
        timeline=row.timeline,
        trace=row.trace,
    )
