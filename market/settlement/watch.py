"""Who is leaving: channels of this gateway whose payer has started an exit. Read by the settler at each look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol


class _Channel(Protocol):
    @property
    def channel_id(self) -> bytes: ...
    @property
    def gateway(self) -> bytes: ...
    @property
    def exit_at(self) -> int: ...


def exiting_channels(gateway: bytes, channels: Callable[[], Iterable[_Channel]]) -> Callable[[], frozenset[bytes]]:
    """Return a function that names the channels being left, from the confirmed view of the chain."""

    def look() -> frozenset[bytes]:
        return frozenset(c.channel_id for c in channels() if c.gateway == gateway and c.exit_at != 0)

    return look
