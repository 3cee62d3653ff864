"""Random bytes for names of requests and reservations, drawn from the operating system in lots.

A system call for every few bytes is a noticeable part of a small request. What is drawn ahead stays in this process; a
forked one draws its own. Keys and secrets are not drawn here.
"""

from __future__ import annotations

import os

_LOT = 128


class Draws:
    """Draws of `size` bytes each; any thread may take one, and no two get the same."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ready: list[bytes] = []
        os.register_at_fork(after_in_child=self._ready.clear)

    def take(self) -> bytes:
        """Return `size` bytes that cannot be foreseen."""
        try:
            return self._ready.pop()
        except IndexError:
            size = self._size
            lot = os.urandom(size * _LOT)
            self._ready += [lot[at : at + size] for at in range(size, size * _LOT, size)]
            return lot[:size]
