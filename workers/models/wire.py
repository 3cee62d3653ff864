"""What the worker and its generating process say to each other: msgpack lists, each after its length.

To the process: `["start", id, {…}]`, `["stop", id]`. From it, once: `["ready", {…}]` or `["unusable", detail]`; then
lists of `["delta", id, text, tokens]`, `["done", id, reason, prompt_tokens, completion_tokens, logprobs | nil]` and of
`["refused" | "crowded" | "failed", id, detail, field | nil]`.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

MAX_MESSAGE_BYTES = 128 << 20
_HEAD = struct.Struct("<I")


class Wire:
    """Whole messages over a stream socket; one thread sends, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def send(self, message: Any) -> None:
        """Send one message.

        Raises:
            OSError: the other side is gone.
        """
        data = msgpack.packb(message, use_bin_type=True)
        self.sock.sendall(_HEAD.pack(len(data)) + data)

    def take(self) -> list[Any]:
        """Wait for bytes and return the messages that are whole, maybe none.

        Raises:
            EOFError: the other side is gone.
        """
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError
        self._buffer += data
        messages = []
        while len(self._buffer) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._buffer)
            if size > MAX_MESSAGE_BYTES:
                raise EOFError
            end = _HEAD.size + size
            if len(self._buffer) < end:
                break
            messages.append(msgpack.unpackb(bytes(self._buffer[_HEAD.size : end]), raw=False))
            del self._buffer[:end]
        return messages
