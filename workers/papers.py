"""The worker's own journal: with it, it is paid without the gateway.

Holds every receipt it signed with the gateway's countersignature once that came, the best voucher of each channel, and
the newest credit note of each gateway. SQLite in WAL mode: what is written survives the death of the process at any
moment, and a power cut may cost the last instants, which are the worker's own loss only.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from contracts.protocol.messages import Papers
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.signing import is_signed_by
from contracts.protocol.typed_data import Channel, CreditNote, Domain, Receipt

_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipts (
    request_id BLOB NOT NULL, channel_id BLOB NOT NULL, receipt BLOB NOT NULL, worker_signature BLOB NOT NULL,
    gateway_signature BLOB, PRIMARY KEY (request_id, channel_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ix_receipts_channel ON receipts (channel_id);
CREATE TABLE IF NOT EXISTS channels (
    channel_id BLOB PRIMARY KEY, channel BLOB NOT NULL, voucher_amount BLOB NOT NULL, voucher_signature BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    gateway BLOB PRIMARY KEY, note BLOB NOT NULL, signature BLOB NOT NULL
) WITHOUT ROWID;
"""


_QUERY_IDS = 500


def batched(ids: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the ids in lists short enough for one query."""
    left = iter(ids)
    while group := list(islice(left, _QUERY_IDS)):
        yield group


@dataclass(frozen=True, slots=True)
class SignedWork:
    """One served job as it goes into the journal."""

    receipt: Receipt
    worker_signature: bytes
    channel: Channel
    voucher_amount: int
    voucher_signature: bytes


class Journal:
    """One worker's papers in one file; `operator` is who the credit notes must name."""

    def __init__(self, path: Path, *, domain: Domain, operator: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._domain = domain
        self._operator = operator
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep_work(self, work: Iterable[SignedWork]) -> None:
        """Write what was just served."""
        rows = list(work)
        best = {one.receipt.channel_id: one for one in sorted(rows, key=lambda one: one.voucher_amount)}
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, NULL)",
                [(w.receipt.request_id, w.receipt.channel_id, w.receipt.to_bytes(), w.worker_signature) for w in rows],
            )
            # Sixteen bytes big endian compare as the numbers do.
            self._db.executemany(
                "INSERT INTO channels VALUES (?, ?, ?, ?) ON CONFLICT (channel_id) DO UPDATE SET voucher_amount ="
                " excluded.voucher_amount, voucher_signature = excluded.voucher_signature"
                " WHERE excluded.voucher_amount > voucher_amount",
                [
                    (i, w.channel.to_bytes(), w.voucher_amount.to_bytes(16, "big"), w.voucher_signature)
                    for i, w in best.items()
                ],
            )

    def file(self, papers: Papers) -> None:
        """Keep countersignatures and a credit note that arrived; what is not genuine is dropped.

        Of a message's countersignatures each channel's highest is checked at once, since with it everything below can
        be claimed; the others when `claims` needs one. Checking all would cost as much as signing the receipts did.
        """
        signatures = dict(papers.countersigned)
        with self._lock, self._db:
            by_channel: dict[bytes, list[Receipt]] = {}
            for request_ids in batched(signatures):
                marks = ",".join("?" * len(request_ids))
                query = f"SELECT receipt FROM receipts WHERE request_id IN ({marks})"  # noqa: S608 - marks only
                for (data,) in self._db.execute(query, request_ids):
                    receipt = Receipt.from_bytes(data)
                    by_channel.setdefault(receipt.channel_id, []).append(receipt)
            for receipts in by_channel.values():
                highest = max(receipts, key=lambda receipt: receipt.cumulative)
                if not self._is_countersigned(highest, signatures[highest.request_id]):
                    receipts[:] = [one for one in receipts if self._is_countersigned(one, signatures[one.request_id])]
            self._db.executemany(
                "UPDATE receipts SET gateway_signature = ?"
                " WHERE request_id = ? AND channel_id = ? AND gateway_signature IS NULL",
                [
                    (signatures[receipt.request_id], receipt.request_id, receipt.channel_id)
                    for receipts in by_channel.values()
                    for receipt in receipts
                ],
            )
            note = papers.credit_note
            if note is not None and note.payee == self._operator and self._is_better(note):
                genuine = is_signed_by(note.digest(self._domain), papers.credit_note_signature, note.gateway)
                if genuine:
                    self._db.execute(
                        "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)",
                        (note.gateway, note.to_bytes(), papers.credit_note_signature),
                    )

    def _is_countersigned(self, receipt: Receipt, signature: bytes) -> bool:
        return is_receipt_signed_by(receipt.digest(self._domain), signature, receipt.gateway, self._domain)

    def _is_better(self, note: CreditNote) -> bool:
        known = self._db.execute("SELECT note FROM notes WHERE gateway = ?", (note.gateway,)).fetchone()
        return known is None or CreditNote.from_bytes(known[0]).cumulative_amount < note.cumulative_amount

    def notes(self) -> Sequence[tuple[CreditNote, bytes]]:
        """Return the newest credit note of each gateway with its signature."""
        with self._lock:
            rows = self._db.execute("SELECT note, signature FROM notes").fetchall()
        return [(CreditNote.from_bytes(note), signature) for note, signature in rows]

    def claims(self) -> Sequence[tuple[SignedWork, bytes]]:
        """Return, for each channel, its countersigned receipt with the highest cumulative, and the countersignature."""
        with self._lock:
            rows = self._db.execute(
                "SELECT r.receipt, r.worker_signature, r.gateway_signature, c.channel, c.voucher_amount,"
                " c.voucher_signature FROM receipts r JOIN channels c USING (channel_id)"
                " WHERE r.gateway_signature IS NOT NULL"
            ).fetchall()
        found: dict[bytes, list[tuple[SignedWork, bytes]]] = {}
        for receipt_data, worker_sig, gateway_sig, channel, amount, voucher_sig in rows:
            receipt = Receipt.from_bytes(receipt_data)
            work = SignedWork(
                receipt, worker_sig, Channel.from_bytes(channel), int.from_bytes(amount, "big"), voucher_sig
            )
            found.setdefault(receipt.channel_id, []).append((work, gateway_sig))
        best: list[tuple[SignedWork, bytes]] = []
        for claims in found.values():
            claims.sort(key=lambda claim: -claim[0].receipt.cumulative)
            genuine = (claim for claim in claims if self._is_countersigned(claim[0].receipt, claim[1]))
            best.extend(islice(genuine, 1))
        return best

    def counts(self) -> tuple[int, int]:
        """Return how many receipts are kept, and how many of them are countersigned."""
        with self._lock:
            total, countersigned = self._db.execute(
                "SELECT count(*), count(gateway_signature) FROM receipts"
            ).fetchone()
        return int(total), int(countersigned)
