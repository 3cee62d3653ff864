"""What the worker and a model's process say to each other: msgpack lists with bytes beside, each after its lengths.

The process runs a stranger's model, so that whatever it sends is bounded before it is held in memory: nothing is
unpickled, and what is said and the bytes beside it each have a limit.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgpack

# A few bytes of msgpack become many of Python's, so that what is said is kept far smaller than the tensors beside it.
MOST_SAID_BYTES = 4 << 20
MOST_DATA_BYTES = 256 << 20
# Smaller messages are joined, so that they take one write.
_JOINED_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 16
_HEAD = struct.Struct("<IQ")

Message: TypeAlias = tuple[Any, memoryview]


class Garbled(Exception):
    """What came is no message, or larger than allowed."""


class Wire:
    """Whole messages over a stream socket; one thread sends, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._missing = 0

    def send(self, said: Any, data: Sequence[bytes | memoryview] = ()) -> None:
        """Send one message.

        Raises:
            OSError: the other side is gone, or did not read in the socket's time.
        """
        text = msgpack.packb(said, use_bin_type=True)
        size = sum(map(len, data))
        head = _HEAD.pack(len(text), size) + text
        if size <= _JOINED_BYTES:
            self.sock.sendall(b"".join((head, *data)))
            return
        self.sock.sendall(head)
        for piece in data:
            self.sock.sendall(piece)

    def take(self) -> list[Message]:
        """Wait for bytes and return the messages that are whole, maybe none.

        Raises:
            EOFError: the other side is gone.
            Garbled: it sent what it must not.
        """
        received = self.sock.recv(max(_CHUNK_BYTES, min(self._missing, 1 << 20)))
        if not received:
            raise EOFError
        self._buffer += received
        messages: list[Message] = []
        while len(self._buffer) >= _HEAD.size:
            said, data = _HEAD.unpack_from(self._buffer)
            if said > MOST_SAID_BYTES or data > MOST_DATA_BYTES:
                raise Garbled(f"a message of {said + data} bytes.")
            end = _HEAD.size + said + data
            self._missing = end - len(self._buffer)
            if self._missing > 0:
                break
            whole = memoryview(bytes(memoryview(self._buffer)[_HEAD.size : end]))
            del self._buffer[:end]
            messages.append((_unpacked(whole[:said]), whole[said:]))
        return messages


def printable(text: str, most: int = 300) -> str:
    """Return a stranger's text for logs and clients: of bounded length, on one line."""
    return "".join(char if char.isprintable() else " " for char in text[:most])


def _unpacked(said: memoryview) -> Any:
    try:
        return msgpack.unpackb(said, raw=False)
    except Exception as error:  # msgpack raises ValueError, its own classes and worse
        raise Garbled("no msgpack.") from error
