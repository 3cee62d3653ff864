"""A client's papers: channels with what was signed on them, receipts with both signatures and their proofs.

A SQLite file that outlives the program, written before a voucher leaves and after every answer, so that a client never
signs less than it must nor forgets what it paid. It holds no key. Called by `market.sdk.client` and the commands.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import from_hex, hex0x, signature_from_hex
from contracts.protocol.receipts import unpack_receipt
from contracts.protocol.typed_data import Channel, Domain, Receipt
from contracts.wal import enter_wal
from market.sdk.errors import GatewayMisbehaved, ReceiptInvalid
from market.sdk.turns import take_turn

_SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (
    channel_id BLOB PRIMARY KEY, chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL,
    signer BLOB NOT NULL, gateway BLOB NOT NULL, salt TEXT NOT NULL, signed TEXT NOT NULL, charged TEXT NOT NULL,
    opened_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, request_id BLOB NOT NULL, channel_id BLOB NOT NULL,
    receipt BLOB NOT NULL, worker_signature BLOB NOT NULL, gateway_signature BLOB NOT NULL, model TEXT NOT NULL,
    settlement TEXT, kept_at REAL NOT NULL, UNIQUE (channel_id, request_id));
CREATE TABLE IF NOT EXISTS opening (
    chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL, gateway BLOB NOT NULL, signer BLOB NOT NULL,
    salt TEXT NOT NULL, PRIMARY KEY (chain_id, escrow, payer, gateway));
"""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where a receipt was settled: the gateway's epoch, the batch's root and the proof up to it."""

    epoch: int
    root: bytes
    proof: tuple[bytes, ...]
    transaction: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settlement:
        """Read the gateway's form.

        Raises:
            GatewayMisbehaved: a field is missing or malformed.
        """
        try:
            return cls(
                int(data["epoch"]),
                from_hex(data["root"], 32, field="root"),
                tuple(from_hex(node, 32, field="proof") for node in data["proof"]),
                data.get("transactionHash"),
            )
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            raise GatewayMisbehaved("the settlement of a receipt is malformed.", field="settlement") from error

    def to_json(self) -> dict[str, Any]:
        """Return the same form again."""
        return {
            "epoch": str(self.epoch),
            "root": hex0x(self.root),
            "proof": [hex0x(node) for node in self.proof],
            "transactionHash": self.transaction,
        }


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the worker's and the gateway's signature, and its settlement once there is one."""

    receipt: Receipt
    worker_signature: bytes
    gateway_signature: bytes
    model: str = ""
    settlement: Settlement | None = None

    @classmethod
    def from_header(cls, text: str, *, model: str) -> SignedReceipt:
        """Read the `Market-Receipt` header.

        Raises:
            GatewayMisbehaved: malformed.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise GatewayMisbehaved("the receipt is not base64url.", field="Market-Receipt") from error
        try:
            return cls(*unpack_receipt(raw), model)
        except ProtocolError as error:
            raise GatewayMisbehaved(error.detail, field="Market-Receipt") from error

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SignedReceipt:
        """Read what `to_json` or the gateway's receipts route wrote.

        Raises:
            ReceiptInvalid: a field is missing or malformed.
        """
        try:
            settlement = data.get("settlement")
            return cls(
                Receipt.from_json(data["receipt"]),
                signature_from_hex(data["workerSignature"], field="workerSignature"),
                signature_from_hex(data["gatewaySignature"], field="gatewaySignature"),
                str(data.get("model", "")),
                None if settlement is None else Settlement.from_json(settlement),
            )
        except (KeyError, TypeError, AttributeError, ProtocolError) as error:
            raise ReceiptInvalid(f"this is not a receipt: {error}", field="receipt") from error

    def to_json(self) -> dict[str, Any]:
        """Return the receipt with its proof as one JSON document that can be verified anywhere."""
        return {
            "receipt": self.receipt.to_json(),
            "workerSignature": hex0x(self.worker_signature),
            "gatewaySignature": hex0x(self.gateway_signature),
            "model": self.model,
            "settlement": None if self.settlement is None else self.settlement.to_json(),
        }


@dataclass(frozen=True, slots=True)
class KeptChannel:
    """A channel as its client remembers it; `signed` and `charged` are cumulative atomic units."""

    channel: Channel
    domain: Domain
    signed: int
    charged: int

    @property
    def channel_id(self) -> bytes:
        """The digest that names the channel."""
        return self.channel.digest(self.domain)


class PaperStore:
    """The SQLite file; safe to use from several threads and processes."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10)
        enter_wal(self._db)
        self._db.executescript("PRAGMA synchronous = FULL;" + _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def opening(self, channel: Channel, domain: Domain) -> Channel:
        """Remember a channel before its first deposit is sent, and return it.

        Its salt is random: were it forgotten, the deposit could be found by the chain's events alone. So one that an
        earlier try drew and never came to keep is returned instead, and drawn on.
        """
        where = (domain.chain_id, domain.escrow, channel.payer, channel.gateway)
        self._run("INSERT OR IGNORE INTO opening VALUES (?,?,?,?,?,?)", (*where, channel.signer, str(channel.salt)))
        ((signer, salt),) = self._run(
            "SELECT signer, salt FROM opening WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ?", where
        )
        return Channel(channel.payer, signer, channel.gateway, int(salt))

    def keep_channel(self, channel: Channel, domain: Domain, *, opened_at: float | None = None) -> None:
        """Remember a channel; keeps what is known if it is remembered already."""
        row = (
            *(channel.digest(domain), domain.chain_id, domain.escrow, channel.payer, channel.signer, channel.gateway),
            *(str(channel.salt), "0", "0", time.time() if opened_at is None else opened_at),
        )
        with self._lock, closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("INSERT OR IGNORE INTO channels VALUES (?,?,?,?,?,?,?,?,?,?)", row)
            cursor.execute(
                "DELETE FROM opening WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ? AND salt = ?",
                (domain.chain_id, domain.escrow, channel.payer, channel.gateway, str(channel.salt)),
            )
            cursor.execute("COMMIT")

    def channels(
        self, *, payer: bytes | None = None, gateway: bytes | None = None, domain: Domain | None = None
    ) -> list[KeptChannel]:
        """Return remembered channels, the newest first."""
        rows = self._run(
            "SELECT payer, signer, gateway, salt, chain_id, escrow, signed, charged FROM channels"
            " WHERE (?1 IS NULL OR payer = ?1) AND (?2 IS NULL OR gateway = ?2) ORDER BY opened_at DESC",
            (payer, gateway),
        )
        kept = [
            KeptChannel(Channel(row[0], row[1], row[2], int(row[3])), Domain(row[4], row[5]), int(row[6]), int(row[7]))
            for row in rows
        ]
        return [one for one in kept if domain is None or one.domain == domain]

    def signed(self, channel_id: bytes, cumulative: int) -> None:
        """Note the highest voucher, before it is sent."""
        self._raise("signed", channel_id, cumulative)

    def charged(self, channel_id: bytes, cumulative: int) -> None:
        """Note the channel's charge."""
        self._raise("charged", channel_id, cumulative)

    def keep(self, paper: SignedReceipt) -> None:
        """Keep a receipt, or what has become known of its settlement."""
        receipt = paper.receipt
        self._run(
            "INSERT INTO receipts (request_id, channel_id, receipt, worker_signature, gateway_signature, model,"
            " settlement, kept_at) VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (channel_id, request_id) DO UPDATE SET"
            " settlement = COALESCE(excluded.settlement, settlement)",
            (
                *(receipt.request_id, receipt.channel_id, receipt.to_bytes(), paper.worker_signature),
                *(paper.gateway_signature, paper.model),
                None if paper.settlement is None else json.dumps(paper.settlement.to_json()),
                time.time(),
            ),
        )

    def take_turn(self, channel_id: bytes) -> Callable[[], None] | None:
        """Take a channel's turn among all that use this file; returns what ends it, None while another has it."""
        return take_turn(self._path, channel_id)

    def paid_since(self, channel_id: bytes, number: int) -> tuple[int, int]:
        """Return what a channel's receipts beyond a number add up to, atomic units, and the highest number of them."""
        rows = self._run(
            "SELECT number, receipt FROM receipts WHERE channel_id = ? AND number > ?", (channel_id, number)
        )
        paid = sum(Receipt.from_bytes(receipt).price for _, receipt in rows)
        return paid, max((row[0] for row in rows), default=number)

    def newest_number(self) -> int:
        """Return the number of the receipt that was kept last, 0 if there is none."""
        return int(self._run("SELECT COALESCE(MAX(number), 0) FROM receipts", ())[0][0])

    def receipts(self, *, request_id: bytes | None = None) -> Iterator[SignedReceipt]:
        """Yield kept receipts in the order in which they came."""
        rows = self._run(
            "SELECT receipt, worker_signature, gateway_signature, model, settlement FROM receipts"
            " WHERE ?1 IS NULL OR request_id = ?1 ORDER BY number",
            (request_id,),
        )
        for receipt, worker_signature, gateway_signature, model, settlement in rows:
            yield SignedReceipt(
                Receipt.from_bytes(receipt),
                worker_signature,
                gateway_signature,
                model,
                None if settlement is None else Settlement.from_json(json.loads(settlement)),
            )

    def _raise(self, column: str, channel_id: bytes, cumulative: int) -> None:
        # Amounts are texts, since SQLite's integers end at 2**63; so the comparison is made here, under the write lock.
        with self._lock, closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            row = cursor.execute(f"SELECT {column} FROM channels WHERE channel_id = ?", (channel_id,)).fetchone()  # noqa: S608
            if row is not None and int(row[0]) < cumulative:
                statement = f"UPDATE channels SET {column} = ? WHERE channel_id = ?"  # noqa: S608 - our own names
                cursor.execute(statement, (str(cumulative), channel_id))
            cursor.execute("COMMIT")

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()
