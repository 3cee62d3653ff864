"""What is said where this machine's disk, folders or databases fail a program: full, read-only, forbidden, damaged.

Every command is run within `named`, so that such a fault is one message with a remedy. Faults of the network and of the
program itself are left as they are.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.protocol.errors import CodedError, Retry

_FULL = "Make room on the disk, or name another folder."
_CLOSED = "Name a folder that this user may write to, or allow it."
_OTHER = "Name another file or folder."
_FAULTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _CLOSED),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), _OTHER),
    errno.EIO: "The disk fails: look at the system's log.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (`ulimit -n`)."),
}
_DATABASE_FAULTS = {
    sqlite3.SQLITE_FULL: _FULL,
    **dict.fromkeys((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM), _CLOSED),
    sqlite3.SQLITE_IOERR: "The disk is full or fails: look at the system's log.",
    **dict.fromkeys(
        (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT), "It is damaged: bring back a copy, or move it out of the way."
    ),
    sqlite3.SQLITE_BUSY: "Another program holds it; try again when that has ended.",
}
_PRIMARY = 0xFF  # the rest of SQLite's code says which kind of the same


class LocalFiles(CodedError):
    """A file, folder or database of this machine cannot be used."""

    code = "local-files"
    retry = Retry.LATER


@contextmanager
def named() -> Iterator[None]:
    """Say of a fault of local files what it is.

    A database's file is named by the first note on its error, where whoever opened it has left one.

    Raises:
        LocalFiles: instead of the system's or SQLite's error.
    """
    try:
        yield
    except OSError as error:
        remedy = _FAULTS.get(error.errno or 0)
        if remedy is None:
            raise
        where = "" if error.filename is None else f"{error.filename2 or error.filename}: "
        raise LocalFiles(f"{where}{error.strerror}.", remedy=remedy) from error
    except sqlite3.DatabaseError as error:
        remedy = _DATABASE_FAULTS.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY)
        if remedy is None:
            raise
        where = next(iter(getattr(error, "__notes__", [])), "a database")
        raise LocalFiles(f"{where}: {error}.", remedy=remedy) from error
