"""A queue in which clients take turns: who puts a thousand requests in does not make another's one wait for them.

Knows no jobs and no workers. Called by `market.adapters.packing`, one queue for each model at a worker.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class TurnQueue(Generic[_T]):
    """First in, first out for each client; clients in turn, one item at a time."""

    def __init__(self) -> None:
        # In the order of their turns; nobody is in it without an item.
        self._clients: dict[bytes, deque[_T]] = {}

    def __bool__(self) -> bool:
        return bool(self._clients)

    def append(self, client: bytes, item: _T) -> None:
        """Put an item behind the client's others; a client that has none gets the last turn."""
        items = self._clients.get(client)
        if items is None:
            self._clients[client] = deque((item,))
        else:
            items.append(item)

    def popleft(self) -> _T:
        """Take the oldest item of the client whose turn it is.

        Raises:
            StopIteration: the queue is empty.
        """
        client = next(iter(self._clients))
        items = self._clients[client]
        item = items.popleft()
        if len(self._clients) > 1 or not items:
            del self._clients[client]
            if items:
                self._clients[client] = items
        return item
