"""The worker's own journal: with it, it is paid without the gateway.

Holds every receipt it signed with the gateway's countersignature once that came, the best voucher of each channel, and
the newest credit note of each gateway. SQLite in WAL mode: what is written survives the death of the process at any
moment, and a power cut may cost the last instants, which are the worker's own loss only.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from contracts.protocol.messages import Papers
from contracts.protocol.receipts import LONGEST_SIGNATURE, is_receipt_signed_by
from contracts.protocol.request_ids import REQUEST_ID_BYTES, time_prefix
from contracts.protocol.signing import is_signed_by
from contracts.protocol.typed_data import Channel, CreditNote, Domain, Receipt
from contracts.protocol.values import value_class
from contracts.wal import enter_wal
from workers.errors import JournalUnusable

# Where a receipt's bytes have its number.
_SEQ = "substr(receipt, 105, 8)"
# And its running total; sixteen bytes big endian compare as the numbers do.
_CUMULATIVE = "substr(w.receipt, 277, 16)"
# Rows are only ever appended. The indexes find what was answered to a request, or under a channel's number, however
# long ago: the contracts punish two answers to one, though they be signed years apart and the request in two channels.
# What grows with time, as ids and a channel's numbers do, costs an index little.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS work (
    number INTEGER PRIMARY KEY, request_id BLOB NOT NULL, channel_id BLOB NOT NULL, receipt BLOB NOT NULL,
    worker_signature BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS work_by_request ON work (request_id);
DROP INDEX IF EXISTS work_by_place;
CREATE INDEX IF NOT EXISTS work_by_channel ON work (channel_id, {_SEQ});
CREATE TABLE IF NOT EXISTS countersignatures (
    number INTEGER PRIMARY KEY, work INTEGER NOT NULL REFERENCES work (number), signature BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS channels (
    channel_id BLOB PRIMARY KEY, channel BLOB NOT NULL, voucher_amount BLOB NOT NULL, voucher_signature BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    gateway BLOB PRIMARY KEY, note BLOB NOT NULL, signature BLOB NOT NULL
) WITHOUT ROWID;
"""
# Stands in the file; in the first journals nothing does, which SQLite reads as 0.
_VERSION = 1
_REMEDIES = {
    **dict.fromkeys(
        (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT),
        "Bring back a copy; moved away, a new one is begun, and `worker rescue` lacks what this one alone proves.",
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
        "Let this user write it and the folder it lies in.",
    ),
    sqlite3.SQLITE_FULL: "Make room on the disk.",
    sqlite3.SQLITE_IOERR: "The disk is full or fails: look at the system's log.",
    sqlite3.SQLITE_BUSY: "Another program holds it; try again when that has ended.",
}
_PRIMARY = 0xFF  # the rest of SQLite's code says which kind of the same
# Countersignatures come within seconds; a gateway keeps at most 10,000 back for a worker that is away.
_RECENT = 20_000
# Of a receipt; a gateway that sends more of them than it may have lost would fill the disk.
_COUNTERSIGNATURES = 4
_CHANNELS = 10_000  # whose highest numbers are remembered, two megabytes
_SOON_SECONDS = 60
_BEYOND_ALL = b"\xff" * (REQUEST_ID_BYTES + 1)
_CLAIMS = (
    "SELECT c.channel_id, w.receipt, w.worker_signature, s.signature, c.channel, c.voucher_amount,"
    " c.voucher_signature{} FROM countersignatures s JOIN work w ON w.number = s.work"
    " JOIN channels c USING (channel_id) {}"
)
_AT_ONCE = 1_000
_IN_GROUP = 300  # SQLite bounds the parameters of a statement: three for each
# A channel's id and a receipt's number in it.
_Place = tuple[bytes, int]


@value_class(frozen=True, slots=True)
class _Recent:
    """Where a receipt stands that awaits its countersignature, and what it says was answered."""

    number: int
    channel_id: bytes
    cumulative: int
    asked: tuple[bytes, bytes]
    output_hash: bytes
    fingerprint: int

    def contradicts(self, receipt: Receipt) -> bool:
        """Tell whether the contracts would take both receipts for two answers to one request."""
        return self.asked == (receipt.model_id, receipt.input_hash) and self.output_hash != receipt.output_hash


@value_class(frozen=True, slots=True)
class SignedWork:
    """One served job as it goes into the journal."""

    receipt: Receipt
    worker_signature: bytes
    channel: Channel
    voucher_amount: int
    voucher_signature: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A receipt of the journal; `gateway_signature` is None while it did not come."""

    receipt: Receipt
    worker_signature: bytes
    gateway_signature: bytes | None


class Journal:
    """One worker's papers in one file; `operator` is who the credit notes must name."""

    def __init__(self, path: Path, *, domain: Domain, operator: bytes) -> None:
        """Open the file, or begin it.

        Raises:
            JournalUnusable: it cannot be opened or written, is damaged, of a newer version, or something else.
            OSError: the folder cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._domain = domain
        self._operator = operator
        self._lock = threading.Lock()
        # By request id, which may have been used in several channels; of an id that is here, everything is.
        self._recent: OrderedDict[bytes, list[_Recent]] = OrderedDict()
        # A number of each channel above which the journal has none.
        self._highest: dict[bytes, int] = {}
        # How many countersignatures were kept of each receipt that is in memory, by its number.
        self._filed: dict[int, int] = {}
        with _naming(path):
            self._db = _open(path)
            (newest,) = self._db.execute("SELECT max(number) FROM work").fetchone()
            self._next = max(1, (newest or 0) + 1 - _RECENT)
            # Between these two ids the file has none that is not in `_recent`.
            self._gap = self._find_gap()
            self._catch_up()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep(self, work: Sequence[SignedWork], papers: Papers | None = None) -> list[SignedWork]:
        """Write what was just served, and the papers of earlier work that came with it, in one transaction.

        Returns the work that must not be handed out, as it contradicts an earlier answer to the same request or under
        the same number of a channel: a client asks again by its id what a gateway did not live to charge, or in another
        channel, and another answer to it would be punished.

        Of a message's countersignatures each channel's highest is checked at once, since with it everything below can
        be claimed; the others when `claims` needs one. Checking all would cost as much as signing the receipts did.
        What is not genuine is dropped.

        Raises:
            sqlite3.Error: the file cannot be written; nothing of it is kept.
        """
        with self._lock:
            before = self._next
            refused: list[SignedWork] = []
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._catch_up()
                    if work:
                        refused = self._append(work)
                    if papers is not None:
                        self._file(papers)
            except sqlite3.Error:
                self._forget_from(before)
                raise
        return refused

    def _forget_from(self, number: int) -> None:
        """Undo in memory what a failed transaction noted; what others wrote meanwhile is read again."""
        self._next = number
        self._filed.clear()
        for request_id, noted in list(self._recent.items()):
            left = [one for one in noted if one.number < number]
            if not left:
                del self._recent[request_id]
            elif len(left) < len(noted):
                self._recent[request_id] = left

    def _find_gap(self) -> tuple[bytes, bytes]:
        """Return two ids, about the time that it is, between which none is of a row before the next to be read."""
        soon = _soon()
        query = "SELECT request_id FROM work WHERE request_id {} ? AND number < ? ORDER BY request_id {} LIMIT 1"
        below = self._db.execute(query.format("<", "DESC"), (soon, self._next)).fetchone()
        above = self._db.execute(query.format(">=", "ASC"), (soon, self._next)).fetchone()
        return (below or (b"",))[0], (above or (_BEYOND_ALL,))[0]

    def _catch_up(self) -> None:
        """Take note of what other processes of this worker have served: a message brings papers for all of them."""
        query = "SELECT number, request_id, receipt FROM work WHERE number >= ? ORDER BY number"
        rows = self._db.execute(query, (self._next,)).fetchall()
        self._recall([request_id for _, request_id, _ in rows])
        for number, request_id, data in rows:
            receipt = Receipt.from_bytes(data)
            self._recent[request_id].append(_recent(number, receipt, data))
            self._note_number(receipt)
            self._next = number + 1

    def _recall(self, request_ids: Sequence[bytes], places: Sequence[_Place] = ()) -> dict[_Place, list[_Recent]]:
        """Note all that was ever answered to these requests; returns what was answered in each of these places."""
        fresh = [request_id for request_id in dict.fromkeys(request_ids) if request_id not in self._recent]
        self._recent.update((request_id, []) for request_id in fresh)
        below, above = self._gap
        wanted = {request_id for request_id in fresh if not below < request_id < above}
        found: dict[_Place, list[_Recent]] = {place: [] for place in places}
        taken = [(channel_id, seq) for channel_id, seq in found if seq <= self._highest_of(channel_id)]
        for number, data in self._find(list(wanted), taken):
            receipt = Receipt.from_bytes(data)
            one = _recent(number, receipt, data)
            if receipt.request_id in wanted and number < self._next:
                self._recent[receipt.request_id].append(one)
            if (receipt.channel_id, receipt.seq) in found:
                found[receipt.channel_id, receipt.seq].append(one)
        return found

    def _highest_of(self, channel_id: bytes) -> int:
        """Return a number above which nothing was answered in a channel, -1 if nothing was at all."""
        known = self._highest.get(channel_id)
        if known is None:
            query = f"SELECT max({_SEQ}) FROM work WHERE channel_id = ?"  # noqa: S608  # our own words
            (data,) = self._db.execute(query, (channel_id,)).fetchone()
            known = self._highest[channel_id] = -1 if data is None else int.from_bytes(data, "big")
            if len(self._highest) > _CHANNELS:
                del self._highest[next(iter(self._highest))]
        return known

    def _note_number(self, receipt: Receipt) -> None:
        known = self._highest.get(receipt.channel_id)
        if known is not None and receipt.seq > known:
            self._highest[receipt.channel_id] = receipt.seq

    def _forget_oldest(self) -> None:
        """Keep the newest answers in memory; where the others stand, the gap ends."""
        below, above = self._gap
        soon = _soon()
        while len(self._recent) > _RECENT:
            request_id, forgotten = self._recent.popitem(last=False)
            for one in forgotten:
                self._filed.pop(one.number, None)
            if not below < request_id < above:
                continue
            # A client may draw its ids as it likes: one that is ahead of its time must not close the gap for all.
            if request_id < soon:
                below = request_id
            else:
                above = request_id
        self._gap = below, above

    def _find(self, request_ids: Sequence[bytes], places: Sequence[_Place]) -> Iterator[tuple[int, bytes]]:
        for start in range(0, max(len(request_ids), len(places)), _IN_GROUP):
            ids, here = request_ids[start : start + _IN_GROUP], places[start : start + _IN_GROUP]
            # One that compares with nothing would have all rows read.
            either = [f"request_id IN ({', '.join('?' * len(ids))})"] if ids else []
            either += [f"({_SEQ} = ? AND channel_id = ?)"] * len(here)
            values = [value for channel_id, seq in here for value in (seq.to_bytes(8, "big"), channel_id)]
            query = "SELECT number, receipt FROM work WHERE " + " OR ".join(either)  # noqa: S608  # our own words
            yield from self._db.execute(query, (*ids, *values))

    def _append(self, work: Sequence[SignedWork]) -> list[SignedWork]:
        refused: list[SignedWork] = []
        rows: list[tuple[int, bytes, bytes, bytes, bytes]] = []
        best: dict[bytes, SignedWork] = {}
        receipts = [one.receipt for one in work]
        placed = self._recall([r.request_id for r in receipts], [(r.channel_id, r.seq) for r in receipts])
        for one in work:
            receipt = one.receipt
            known = best.get(receipt.channel_id)
            if known is None or one.voucher_amount > known.voucher_amount:
                best[receipt.channel_id] = one
            same = self._recent[receipt.request_id]
            beside = placed[receipt.channel_id, receipt.seq]
            if any(earlier.contradicts(receipt) for earlier in (*same, *beside)):
                refused.append(one)
                continue
            data = receipt.to_bytes()
            fresh = _recent(self._next, receipt, data)
            if any(earlier.fingerprint == fresh.fingerprint for earlier in same):
                continue  # this very receipt again
            same.append(fresh)
            beside.append(fresh)
            rows.append((self._next, receipt.request_id, receipt.channel_id, data, one.worker_signature))
            self._note_number(receipt)
            self._next += 1
        self._forget_oldest()
        self._db.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?)", rows)
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
        return refused

    def _file(self, papers: Papers) -> None:
        by_channel: dict[bytes, list[tuple[_Recent, bytes]]] = {}
        for request_id, signature in papers.countersigned:
            if len(signature) > LONGEST_SIGNATURE:
                continue
            for found in self._recent.get(request_id, ()):
                if self._filed.get(found.number, 0) >= _COUNTERSIGNATURES:
                    continue
                by_channel.setdefault(found.channel_id, []).append((found, signature))
        for waiting in by_channel.values():
            if not self._is_genuine(*max(waiting, key=lambda one: one[0].cumulative)):
                waiting[:] = [one for one in waiting if self._is_genuine(*one)]
        rows: list[tuple[int, bytes]] = []
        for found, signature in chain.from_iterable(by_channel.values()):
            filed = self._filed.get(found.number, 0)
            if filed < _COUNTERSIGNATURES:
                self._filed[found.number] = filed + 1
                rows.append((found.number, signature))
        self._db.executemany("INSERT INTO countersignatures (work, signature) VALUES (?, ?)", rows)
        note = papers.credit_note
        if note is not None and note.payee == self._operator and self._is_better(note):
            genuine = is_signed_by(note.digest(self._domain), papers.credit_note_signature, note.gateway)
            if genuine:
                self._db.execute(
                    "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)",
                    (note.gateway, note.to_bytes(), papers.credit_note_signature),
                )

    def _is_genuine(self, found: _Recent, signature: bytes) -> bool:
        (data,) = self._db.execute("SELECT receipt FROM work WHERE number = ?", (found.number,)).fetchone()
        return self._is_countersigned(Receipt.from_bytes(data), signature)

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
        # One row of each channel, of what may be millions: SQLite gives the other columns of the row that has the max.
        with self._lock:
            highest = self._db.execute(_CLAIMS.format(f", max({_CUMULATIVE})", "GROUP BY c.channel_id")).fetchall()
            found = [self._claim(row[:-1]) or self._lower_claim(row[0]) for row in highest]
        return [claim for claim in found if claim is not None]

    def _claim(self, row: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]) -> tuple[SignedWork, bytes] | None:
        """Return what a row of `_CLAIMS` says; None if the countersignature is not genuine."""
        _, receipt_data, worker_sig, gateway_sig, channel, amount, voucher_sig = row
        receipt = Receipt.from_bytes(receipt_data)
        if not self._is_countersigned(receipt, gateway_sig):
            return None
        voucher_amount = int.from_bytes(amount, "big")
        return SignedWork(receipt, worker_sig, Channel.from_bytes(channel), voucher_amount, voucher_sig), gateway_sig

    def _lower_claim(self, channel_id: bytes) -> tuple[SignedWork, bytes] | None:
        rows = self._db.execute(
            _CLAIMS.format("", f"WHERE c.channel_id = ? ORDER BY {_CUMULATIVE} DESC"), (channel_id,)
        )
        return next(filter(None, map(self._claim, rows)), None)

    def signed(self) -> Iterator[Signed]:
        """Yield every receipt, with its countersignature if a genuine one came."""
        query = (
            "SELECT w.receipt, w.worker_signature, s.signature FROM work w LEFT JOIN (SELECT work, max(number)"
            " AS number FROM countersignatures GROUP BY work) n ON n.work = w.number LEFT JOIN countersignatures s"
            " ON s.number = n.number ORDER BY w.number"
        )
        with self._lock:
            rows = self._db.execute(query)
        # There may be millions, which would not all fit into memory.
        while True:
            with self._lock:
                some = rows.fetchmany(_AT_ONCE)
            if not some:
                return
            for data, worker_signature, gateway_signature in some:
                receipt = Receipt.from_bytes(data)
                genuine = gateway_signature is not None and self._is_countersigned(receipt, gateway_signature)
                yield Signed(receipt, worker_signature, gateway_signature if genuine else None)

    def counts(self) -> tuple[int, int]:
        """Return how many receipts are kept, and how many of them are countersigned."""
        with self._lock:
            (total,) = self._db.execute("SELECT count(*) FROM work").fetchone()
            (countersigned,) = self._db.execute("SELECT count(DISTINCT work) FROM countersignatures").fetchone()
        return int(total), int(countersigned)


def _soon() -> bytes:
    """Return what an id begins with that is ahead of its time."""
    return time_prefix(time.time() + _SOON_SECONDS)


def _recent(number: int, receipt: Receipt, data: bytes) -> _Recent:
    asked = (receipt.model_id, receipt.input_hash)
    return _Recent(number, receipt.channel_id, receipt.cumulative, asked, receipt.output_hash, hash(data))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of SQLite's errors which file they are about and what can be done."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY)
        raise JournalUnusable(f"the worker's journal {path}: {error}.", remedy=remedy) from error


def _open(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise JournalUnusable(f"the worker's journal {path} is a folder.", remedy="Move that folder away.")
    opened = sqlite3.connect(path, check_same_thread=False)
    (version,) = opened.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        detail = f"the worker's journal {path} is of a newer version ({version}, this program knows {_VERSION})."
        raise JournalUnusable(detail, remedy="Run the version that used it last, or a newer one.")
    tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "work" not in tables:
        detail = f"{path} is a database, but no worker's journal."
        raise JournalUnusable(detail, remedy="Name a worker's papers-….db, or move this file away.")
    enter_wal(opened)
    opened.executescript("PRAGMA synchronous = NORMAL;" + _SCHEMA)
    if version < _VERSION:
        opened.execute(f"PRAGMA user_version = {_VERSION}")
    return opened
