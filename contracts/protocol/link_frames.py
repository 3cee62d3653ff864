"""The frames of the link lane: numbered, tagged, acknowledged, sent again after a cut.

Pure state on both sides of a link: what was sent and not acknowledged, what has come. Does no input or output.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, TypeVar

import msgpack

from contracts.protocol.errors import MessageError
from contracts.protocol.messages import MAX_PACK_BYTES

MAX_FRAME_BYTES = 1 << 20
CHUNK_BYTES = 512 << 10
MAX_MESSAGE_BYTES = MAX_PACK_BYTES
# Twice as many as the longest message is cut into: parts cost memory, however small they are.
MAX_PARTS = 2 * MAX_MESSAGE_BYTES // CHUNK_BYTES
TAG_BYTES = 16
_FIRST, _LAST = 1, 2

_T = TypeVar("_T")


class LinkRefused(MessageError):
    """The other side of a link is not who it should be, or breaks the link's rules."""

    code = "link-refused"


class Kind(IntEnum):
    """What a frame is; the first four are numbered, kept until acknowledged and sent again after a cut."""

    PACK = 1
    PAPERS = 2
    STOP = 3
    RESULTS = 4
    ANNOUNCE = 5
    ACK = 6
    RENEW = 7
    BYE = 8


# --- encoding --------------------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {"bytes": (bytes,), "int": (int,), "bool": (bool,), "str": (str,)}


def row_of(item: Any) -> list[Any]:
    """Return a dataclass's fields in order."""
    return [getattr(item, f.name) for f in fields(item)]


def make(kind: type[_T], row: Any) -> _T:
    """Build a dataclass of plain fields from its row.

    Raises:
        LinkRefused: another number of fields, or other types.
    """
    known = fields(kind)  # type: ignore[arg-type]
    if not isinstance(row, list) or len(row) != len(known):
        raise LinkRefused(f"a {kind.__name__} has {len(known)} fields.", field=kind.__name__)
    for f, value in zip(known, row, strict=True):
        if type(value) not in _TYPES[str(f.type)]:
            raise LinkRefused(f"expected {f.type}.", field=f.name)
    return kind(*row)


def check_lengths(item: Any, **wanted: int) -> None:
    """Check the lengths of named byte fields.

    Raises:
        LinkRefused: another length.
    """
    for name, length in wanted.items():
        if len(getattr(item, name)) != length:
            raise LinkRefused(f"expected {length} bytes.", field=name)


def dump(value: Any) -> bytes:
    """Encode plain data."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def load(data: bytes, *, limit: int = MAX_FRAME_BYTES) -> Any:
    """Decode plain data.

    Raises:
        LinkRefused: too long, or not msgpack.
    """
    if len(data) > limit:
        raise LinkRefused(f"{len(data)} bytes, {limit} allowed.")
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:
        raise LinkRefused("not msgpack.") from error


# --- frames ----------------------------------------------------------------------------------------------------------


class Seal:
    """One direction of one connection: tags frames, or checks the tags of those that come."""

    __slots__ = ("_count", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def close(self, body: bytes) -> bytes:
        """Return the body as the next frame."""
        return self._tag(body) + body

    def open(self, frame: bytes) -> bytes:
        """Return the body of the next frame.

        Raises:
            LinkRefused: altered, repeated, left out or from somebody else.
        """
        body = frame[TAG_BYTES:]
        if not hmac.compare_digest(frame[:TAG_BYTES], self._tag(body)):
            raise LinkRefused("a frame's tag is wrong.", field="tag")
        return body

    def _tag(self, body: bytes) -> bytes:
        made = hashlib.blake2b(self._count.to_bytes(8, "big"), key=self._key, digest_size=TAG_BYTES)
        made.update(body)
        self._count += 1
        return made.digest()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `seq` is 0 where it needs no acknowledgement, `ack` the last number that arrived so far."""

    kind: int
    seq: int
    ack: int
    flags: int
    payload: bytes


def encode_frame(frame: Frame) -> bytes:
    """Encode a frame's body."""
    return dump([frame.kind, frame.seq, frame.ack, frame.flags, frame.payload])


def decode_frame(body: bytes) -> Frame:
    """Decode a frame's body.

    Raises:
        LinkRefused: malformed.
    """
    frame = make(Frame, load(body))
    if frame.seq < 0 or frame.ack < 0:
        raise LinkRefused("a negative number.", field="seq")
    return frame


@dataclass(slots=True)
class _Kept:
    seq: int
    kind: int
    flags: int
    payload: bytes
    expires_at: float


@dataclass(slots=True)
class Outbox:
    """What one side sent and the other has not acknowledged; outlives connections.

    `size` is the bytes kept. What has expired is left out when everything is sent again.
    """

    last: int = 0
    acknowledged: int = 0
    size: int = 0
    _kept: list[_Kept] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, kind: Kind, payload: bytes, expires_at: float) -> list[Frame]:
        """Number a message, cut into parts where it is long; returns its frames."""
        made = []
        cuts = range(0, len(payload), CHUNK_BYTES) or range(1)
        for start in cuts:
            self.last += 1
            flags = (_FIRST if start == 0 else 0) | (_LAST if start + CHUNK_BYTES >= len(payload) else 0)
            part = payload if flags == _FIRST | _LAST else payload[start : start + CHUNK_BYTES]
            self._kept.append(_Kept(self.last, kind, flags, part, expires_at))
            self.size += len(part)
            made.append(Frame(kind, self.last, 0, flags, part))
        return made

    def ack(self, upto: int) -> None:
        """Forget what has arrived.

        Raises:
            LinkRefused: a number that was never sent.
        """
        if upto > self.last:
            raise LinkRefused(f"{upto} is acknowledged, {self.last} was sent.", field="ack")
        if upto <= self.acknowledged:
            return
        self.acknowledged = upto
        done = 0
        for kept in self._kept:
            if kept.seq > upto:
                break
            self.size -= len(kept.payload)
            done += 1
        del self._kept[:done]

    def unacknowledged(self, now: float) -> list[Frame]:
        """Return what must be sent again, without what nobody waits for any more."""
        gone = [kept for kept in self._kept if kept.expires_at <= now]
        if gone:
            self.size -= sum(len(kept.payload) for kept in gone)
            self._kept = [kept for kept in self._kept if kept.expires_at > now]
        return [Frame(kept.kind, kept.seq, 0, kept.flags, kept.payload) for kept in self._kept]


@dataclass(slots=True)
class Inbox:
    """What one side has received of the numbered messages; outlives connections."""

    received: int = 0
    repeated: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def take(self, frame: Frame) -> bytes | None:
        """Return a message that is complete with this frame; None for a part, or for what came before.

        Raises:
            LinkRefused: parts out of order, or too many.
        """
        if frame.seq <= self.received:
            self.repeated += 1
            return None
        self.received = frame.seq
        if frame.flags == _FIRST | _LAST:
            self._parts, self._size = [], 0
            return frame.payload
        if frame.flags & _FIRST:
            self._parts, self._size = [], 0
        elif not self._parts:
            raise LinkRefused("a part without its beginning.", field="flags")
        self._parts.append(frame.payload)
        self._size += len(frame.payload)
        if self._size > MAX_MESSAGE_BYTES:
            raise LinkRefused(f"a message above {MAX_MESSAGE_BYTES} bytes.", field="payload")
        if len(self._parts) > MAX_PARTS:
            raise LinkRefused(f"a message in more than {MAX_PARTS} parts.", field="payload")
        if not frame.flags & _LAST:
            return None
        whole = b"".join(self._parts)
        self._parts, self._size = [], 0
        return whole
