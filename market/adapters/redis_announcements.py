"""Reads the workers' signs of life from Redis; checks nothing but that they can be decoded.

Implements `market.registry.offers.Announcements`.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from contracts.protocol.errors import MessageError
from contracts.protocol.messages import ANNOUNCE_KEY_PREFIX, ANNOUNCED_SET, Announcement, decode_announcement
from market.adapters.redis_client import open_redis, reachable
from market.adapters.redis_line import RedisLine

log = structlog.get_logger(__name__)


class RedisAnnouncements:
    """Reads `announce:<address>` of every address in the set `announced`."""

    def __init__(self, redis_url: str) -> None:
        self._line = RedisLine(open_redis(redis_url, max_connections=1))
        # What cannot be read and why, so that each is said once and not at every look.
        self._unreadable: dict[str, str] = {}

    async def close(self) -> None:
        """Drop the connection."""
        await self._line.close()

    async def read(self) -> Sequence[Announcement]:
        """See `Announcements.read`."""
        with reachable():
            names = [_name(member) for member in await self._line.call("SMEMBERS", ANNOUNCED_SET)]
            if not names:
                return []
            values = await self._line.call("MGET", *[ANNOUNCE_KEY_PREFIX + name for name in names])
            gone = [name for name, value in zip(names, values, strict=True) if value is None]
            if gone:
                # Workers that come back add themselves again.
                await self._line.call("SREM", ANNOUNCED_SET, *gone)
        found, unreadable = [], {}
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, bytes):
                continue
            try:
                announcement = decode_announcement(value)
            except MessageError as error:
                unreadable[name] = error.detail
                if self._unreadable.get(name) != error.detail:
                    log.warning("unreadable-announcement", worker=name, detail=error.detail)
                continue
            if announcement.worker.hex() == name:
                found.append(announcement)
        self._unreadable = unreadable
        return found


def _name(member: bytes | str) -> str:
    return member.decode("ascii", "replace") if isinstance(member, bytes) else member
