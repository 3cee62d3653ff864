"""An outbox in one file, for command lines: what was signed outlives a crash and a node that went away.

The file belongs to one chain and one data folder. It is replaced as a whole, under a lock, so that two commands at once
and a crash in between leave it readable. It holds signed transactions, no keys.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from contracts.bindings.errors import ChainError
from contracts.bindings.outbox import Outgoing, last_at

Rows = dict[str, Outgoing]


class OutboxUnreadable(ChainError):
    """The file of transactions that were sent and not seen in a block cannot be read or written."""

    code = "outbox-unreadable"


class FileOutbox:
    """Implements `Outbox`; every method reads the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, account: bytes, purpose: str) -> Outgoing | None:
        """See `Outbox.get`."""
        return self._read().get(_name(account, purpose))

    def pending(self, account: bytes) -> Sequence[Outgoing]:
        """See `Outbox.pending`."""
        return _pending(self._read(), account)

    def at(self, account: bytes, nonce: int) -> Outgoing | None:
        """See `Outbox.at`."""
        return last_at(self._read().values(), account, nonce)

    def add(self, outgoing: Outgoing) -> bool:
        """See `Outbox.add`."""

        def insert(rows: Rows) -> bool:
            name = _name(outgoing.account, outgoing.purpose)
            if name in rows or any(row.nonce == outgoing.nonce for row in _pending(rows, outgoing.account)):
                return False
            rows[name] = outgoing
            return True

        return self._change(insert)

    def put(self, outgoing: Outgoing) -> None:
        """See `Outbox.put`."""

        def replace(rows: Rows) -> bool:
            rows[_name(outgoing.account, outgoing.purpose)] = outgoing
            return True

        self._change(replace)

    def drop(self, account: bytes, purpose: str) -> None:
        """See `Outbox.drop`."""
        self._change(lambda rows: rows.pop(_name(account, purpose), None) is not None)

    def remove(self) -> None:
        """Take the file away: all that it held has had its effect."""
        for path in (self.path, self.path.with_suffix(".lock")):
            path.unlink(missing_ok=True)

    def _read(self) -> Rows:
        try:
            stored = json.loads(self.path.read_text())
            return {name: _outgoing(row) for name, row in stored.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._unusable(error) from error

    def _change(self, act: Callable[[Rows], bool]) -> bool:
        try:
            with self._alone():
                rows = self._read()
                changed = act(rows)
                if changed:
                    self._write(rows)
                return changed
        except OSError as error:
            raise self._unusable(error) from error

    def _write(self, rows: Rows) -> None:
        fresh = self.path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({name: _row(row) for name, row in rows.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _unusable(self, error: Exception) -> OutboxUnreadable:
        remedy = "Name a data folder that can be written to."
        with suppress(OSError):
            if self.path.exists():
                remedy = (
                    "It names transactions that may have been sent: look at the account's history before you remove it."
                )
        return OutboxUnreadable(f"{self.path} cannot be used: {error}.", field="outbox", remedy=remedy)


def _name(account: bytes, purpose: str) -> str:
    return f"{account.hex()}/{purpose}"


def _pending(rows: Rows, account: bytes) -> list[Outgoing]:
    return sorted((row for row in rows.values() if row.account == account and not row.done), key=lambda row: row.nonce)


def _row(outgoing: Outgoing) -> dict[str, Any]:
    row = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(outgoing).items()}
    return row | {"tx_hashes": [tx_hash.hex() for tx_hash in outgoing.tx_hashes]}


def _outgoing(row: dict[str, Any]) -> Outgoing:
    known = {field.name: row[field.name] for field in fields(Outgoing)}
    parts = {name: bytes.fromhex(known[name]) for name in ("account", "data", "raw")}
    hashes = tuple(bytes.fromhex(tx_hash) for tx_hash in known["tx_hashes"])
    to = None if known["to"] is None else bytes.fromhex(known["to"])
    return Outgoing(**{**known, **parts, "tx_hashes": hashes, "to": to})
