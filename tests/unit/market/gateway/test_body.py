"""Compressed bodies: within their size, whole, and never unpacked at length by the event loop."""

import gzip
import random
import threading
import zlib

import pytest

from market.errors import InvalidRequest, PayloadTooLarge
from market.gateway import body as under_test
from market.gateway.body import read_body

MOST = 1 << 20


async def read(data: bytes, encoding: str = "gzip") -> bytes:
    async def receive():
        return {"type": "http.request", "body": data}

    return await read_body({"content-encoding": encoding}, receive, max_bytes=MOST, timeout_seconds=1.0)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000, MOST])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_what_was_packed_is_unpacked(size, pack):
    for plain in (bytes(size), random.Random(size).randbytes(size)):
        if len(packed := pack(plain)) <= MOST:
            assert await read(packed) == plain


@pytest.mark.parametrize("size", [MOST + 1, 2 * MOST, 50 * MOST])
async def test_what_becomes_too_large_is_refused(size):
    with pytest.raises(PayloadTooLarge):
        await read(gzip.compress(bytes(size)))


@pytest.mark.parametrize("size", [10, 65_536, 500_000])
async def test_what_is_not_one_whole_stream_is_refused(size):
    packed = gzip.compress(random.Random(size).randbytes(size))
    for broken in (packed[:-1], packed + b"x", packed + packed, packed[:20] + b"\xff" * 9 + packed[29:], b""):
        with pytest.raises(InvalidRequest):
            await read(broken)
    with pytest.raises(InvalidRequest, match="'br' bodies"):
        await read(packed, "br")


async def test_the_loop_unpacks_no_megabytes(monkeypatch):
    """A thousandth of them is sent, by somebody who has paid nothing."""
    took = []

    class Counting:
        def __init__(self, *arguments):
            self._real = zlib.decompressobj(*arguments)

        def decompress(self, data, most):
            found = self._real.decompress(data, most)
            took.append((threading.current_thread() is threading.main_thread(), len(found)))
            return found

        def __getattr__(self, name):
            return getattr(self._real, name)

    class Zlib:
        error = zlib.error
        decompressobj = Counting

    monkeypatch.setattr(under_test, "zlib", Zlib)
    assert await read(gzip.compress(bytes(MOST))) == bytes(MOST)
    assert max(size for in_loop, size in took if in_loop) <= 65_536
    assert sum(size for _, size in took) == MOST
