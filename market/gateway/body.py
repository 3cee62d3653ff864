"""Reading a request body within a size and a time, so that a slow or huge client costs little; packing an answer.

Decides what is too large, too slow or compressed in a way nobody here reads, and which answers leave compressed.
Called by the inference path.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Receive

from market.aside import reading
from market.errors import InvalidRequest, PayloadTooLarge

# gzip and zlib ("deflate" on the wire) both; zlib tells them apart by their first bytes
_COMPRESSED = frozenset({"gzip", "deflate"})
_WINDOW_BITS = 32 + zlib.MAX_WBITS
ACCEPTS = "accept-encoding"
# Level 1: an answer is packed once and read once, so that time counts more than the last tenth of its size.
_LEVEL = 1
_PACKED_BITS: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEAST_PACKED_BYTES = 1_024
# Packing or unpacking so much takes about a millisecond, for which the loop need not wait.
_IN_THREAD_BYTES = 65_536


def wanted_encoding(headers: Mapping[str, str]) -> str | None:
    """Return `gzip` or `deflate` where a client asks for that alone.

    A list, as browsers and most libraries send with every request, asks for nothing: packing costs more than a small
    model, and a client that wants it says so.
    """
    accepted = headers.get(ACCEPTS)
    return accepted if accepted in _PACKED_BITS else None


async def pack_content(content: bytes, encoding: str) -> bytes | None:
    """Return an answer compressed; None where it is too small to become smaller."""
    if len(content) < _LEAST_PACKED_BYTES:
        return None
    if len(content) < _IN_THREAD_BYTES:
        return _pack(content, encoding)
    return await reading(_pack, content, encoding)


def _pack(content: bytes, encoding: str) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=_PACKED_BITS[encoding])
    return packer.compress(content) + packer.flush()


async def read_body(headers: Mapping[str, str], receive: Receive, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Read the whole body, unpacked if it came compressed.

    Raises:
        PayloadTooLarge: more than `max_bytes`, by its announced, its real or its unpacked length.
        InvalidRequest: an unknown or broken compression, not there in time, or cut off.
    """
    announced = headers.get("content-length", "")
    # int() of a very long text is slow or refused; more than 18 digits is too large anyway
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            body = await _collect(receive, max_bytes)
    except TimeoutError as error:
        raise InvalidRequest(
            f"the body was not complete after {timeout_seconds:g} s.", field="body", remedy="Send it at once."
        ) from error
    encoding = headers.get("content-encoding")
    return body if encoding is None else await _unpack(body, encoding.lower(), max_bytes)


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequest("the connection closed inside the body.", field="body")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in _COMPRESSED:
        raise InvalidRequest(
            f"{encoding[:40]!r} bodies are not taken.",
            field="Content-Encoding",
            remedy="Send plain, gzip or deflate.",
        )
    unpacker = zlib.decompressobj(_WINDOW_BITS)
    try:
        unpacked = unpacker.decompress(body, min(max_bytes + 1, _IN_THREAD_BYTES))
        if unpacker.unconsumed_tail and len(unpacked) <= max_bytes:
            # A thousandth of what becomes of it may have been sent: the loop must not unpack megabytes.
            left = max_bytes + 1 - len(unpacked)
            unpacked += await reading(unpacker.decompress, unpacker.unconsumed_tail, left)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding}.", field="body") from error
    if len(unpacked) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest(f"the body is not one whole {encoding} stream.", field="body")
    return unpacked


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes.", field="body")
