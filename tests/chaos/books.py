"""What the gateway's books and the workers' journals say once all is over, as plain rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from market.adapters.database import tables_ledger as t
from market.adapters.database.engine import open_engine, reading
from market.adapters.database.tables_audits import audited_workers, audits
from market.adapters.database.tables_keys import api_keys
from market.adapters.database.tables_x402 import x402_channels, x402_credits, x402_payments
from market.payments.x402_model import Payment


@dataclass(frozen=True)
class ReceiptRow:
    channel_id: bytes
    request_id: bytes
    seq: int
    digest: bytes
    price: int
    worker_amount: int
    owner_amount: int
    cumulative: int
    gateway: bytes
    worker: bytes
    worker_payee: bytes
    owner_payee: bytes
    settled: bool
    model_id: bytes = b""
    input_hash: bytes = b""

    @property
    def asked(self) -> tuple[bytes, bytes]:
        """The model that was asked, and what."""
        return self.model_id, self.input_hash

    @property
    def name(self) -> str:
        return self.request_id.hex()[:8]


@dataclass(frozen=True)
class Account:
    charged: int
    voucher_amount: int


@dataclass(frozen=True)
class Key:
    channel_id: bytes
    spent: int
    limit: int


@dataclass(frozen=True)
class X402Payment:
    """What one request paid by x402 cost its payer, None if it was not charged; `channel_id` None: from credit."""

    payer: bytes
    channel_id: bytes | None
    charged: int | None
    is_held: bool = False


@dataclass(frozen=True)
class X402Channel:
    payer: bytes
    charged: int
    signed: int


@dataclass(frozen=True)
class X402Credit:
    balance: int
    held: int
    bought: int
    refunded: int


@dataclass(frozen=True)
class X402Books:
    """Payments by request id, channels by their id, credit by payer."""

    payments: dict[bytes, X402Payment] = field(default_factory=dict)
    channels: dict[bytes, X402Channel] = field(default_factory=dict)
    credits: dict[bytes, X402Credit] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditBooks:
    """How many audits each worker passed, who is convicted, and a sentence for each audit that found a difference."""

    passed: dict[bytes, int] = field(default_factory=dict)
    convicted: frozenset[bytes] = frozenset()
    differed: Sequence[str] = ()


@dataclass(frozen=True)
class Books:
    """Receipts in the order of their commitment; accounts by channel, totals by (gateway, payee), keys by their hash.

    A journal holds (channel id, request id) of each receipt that a worker has signed.
    """

    receipts: Sequence[ReceiptRow] = ()
    accounts: dict[bytes, Account] = field(default_factory=dict)
    totals: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    keys: dict[bytes, Key] = field(default_factory=dict)
    journals: dict[bytes, set[tuple[bytes, bytes]]] = field(default_factory=dict)
    x402: X402Books = X402Books()
    audits: AuditBooks = AuditBooks()


class OnChain(Protocol):
    """What the escrow, the token and x402's contract say."""

    def channel_settled(self, channel_id: bytes) -> int: ...

    def credited(self, gateway: bytes, payee: bytes) -> int: ...

    def balance(self, account: bytes) -> int: ...

    def deposited(self, channel_id: bytes) -> int:
        """Return what was ever put into a channel of the escrow."""
        ...

    def unswept(self, receiver: bytes) -> int:
        """Return what x402's contract holds of a receiver's claims."""
        ...

    def x402_channel(self, channel_id: bytes) -> tuple[int, int]:
        """Return what was put into a channel, and what of it was claimed."""
        ...


def read(database_url: str, journals: dict[bytes, Path] | None = None) -> Books:
    """Read the books; `journals` maps each worker's address to the folder with its papers."""
    engine = open_engine(database_url)
    try:
        with reading(engine) as connection:
            settled = set(connection.execute(sa.select(t.settled_receipts.c.position)).scalars())
            receipts = connection.execute(sa.select(t.receipts).order_by(t.receipts.c.position)).all()
            accounts = connection.execute(sa.select(t.channel_accounts)).all()
            totals = connection.execute(sa.select(t.payee_totals)).all()
            keys = connection.execute(sa.select(api_keys)).all()
            x402 = _x402(connection)
            audited = _audits(connection)
    finally:
        engine.dispose()
    return Books(
        [
            ReceiptRow(
                *(bytes(row.channel_id), bytes(row.request_id), int(row.seq), bytes(row.digest), int(row.price)),
                *(int(row.worker_amount), int(row.owner_amount), int(row.cumulative), bytes(row.gateway)),
                *(bytes(row.worker), bytes(row.worker_payee), bytes(row.owner_payee), row.position in settled),
                *(bytes(row.model_id), bytes(row.input_hash)),
            )
            for row in receipts
        ],
        {bytes(row.channel_id): Account(int(row.charged), int(row.voucher_amount)) for row in accounts},
        {(bytes(row.gateway), bytes(row.payee)): int(row.earned) for row in totals},
        {bytes(row.key_hash): Key(bytes(row.channel_id), int(row.spent), int(row.spending_limit)) for row in keys},
        {worker: _journal(folder) for worker, folder in (journals or {}).items()},
        x402,
        audited,
    )


def _audits(connection: sa.Connection) -> AuditBooks:
    workers, differed = (connection.execute(sa.select(table)).all() for table in (audited_workers, audits))
    return AuditBooks(
        {bytes(row.worker): int(row.agreed) for row in workers},
        frozenset(bytes(row.worker) for row in workers if row.convicted_at is not None),
        [f"{row.outcome}: {row.detail} ({row.error})" for row in differed],
    )


def _x402(connection: sa.Connection) -> X402Books:
    payments, channels, credit = (
        connection.execute(sa.select(table)).all() for table in (x402_payments, x402_channels, x402_credits)
    )
    return X402Books(
        {
            bytes(row.request_id): X402Payment(
                bytes(row.payer),
                row.channel_id and bytes(row.channel_id),
                int(row.charged or 0) if row.state == Payment.CHARGED else None,
                row.state == Payment.HELD,
            )
            for row in payments
        },
        {
            bytes(row.channel_id): X402Channel(bytes(row.payer), int(row.charged), int(row.signed_max))
            for row in channels
        },
        {
            bytes(row.payer): X402Credit(int(row.balance), int(row.held), int(row.bought), int(row.refunded))
            for row in credit
        },
    )


def is_settled(books: Books, chain: OnChain) -> bool:
    return (
        all(row.settled for row in books.receipts)
        and all(chain.channel_settled(channel) == account.charged for channel, account in books.accounts.items())
        and all(chain.credited(*key) == earned for key, earned in books.totals.items())
        and all(chain.x402_channel(i)[1] == one.charged for i, one in books.x402.channels.items())
        and not any(one.is_held for one in books.x402.payments.values())
    )


def _journal(folder: Path) -> set[tuple[bytes, bytes]]:
    found: set[tuple[bytes, bytes]] = set()
    for path in folder.glob("papers-*.db"):
        with closing(sqlite3.connect(path, timeout=10)) as db:
            found.update(db.execute("SELECT channel_id, request_id FROM work").fetchall())
    return found
