"""Which processes serve for a key on this machine: each holds a lock on a file in the state folder while it lives.

A file whose lock is free was left by a process that died; whoever looks removes it. Called by `worker run` and
`worker drain`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def registered(state_dir: Path, address: bytes) -> Iterator[None]:
    """Be found by `find` during the body."""
    folder = state_dir.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"run-{address.hex()}-{os.getpid()}.pid"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def find(state_dir: Path, address: bytes) -> list[int]:
    """Return the ids of the processes that serve for a key."""
    found = []
    for path in sorted(state_dir.expanduser().glob(f"run-{address.hex()}-*.pid")):
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                if text.isdecimal():
                    found.append(int(text))
            else:
                path.unlink(missing_ok=True)
    return found
