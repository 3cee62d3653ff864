"""Countersigns receipts: everything that is ready in one turn of the event loop with one signature.

Never signs a receipt whose answer was not checked; that is the caller's promise. Called by the use case.
"""

from __future__ import annotations

import asyncio

from contracts.protocol.receipts import sign_receipts
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain


class Countersigner:
    """Signs with the gateway's key."""

    def __init__(self, key: PrivateKey, domain: Domain) -> None:
        self._key = key
        self._domain = domain
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []

    async def sign(self, digest: bytes) -> bytes:
        """Return the gateway's signature of a receipt's digest, alone or in a batch with its neighbours."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((digest, future))
        return await future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        signatures = sign_receipts(self._key, [digest for digest, _ in waiting], self._domain)
        for (_, future), signature in zip(waiting, signatures, strict=True):
            if not future.done():
                future.set_result(signature)
