"""Which served request is audited: a keyed hash of its id, that nobody without the secret can foretell.

Pure. The gateway publishes the hash of a secret before it uses it, and the secret once it is used no more: until then
no worker knows what is audited, and after that anybody can check a choice. Decided when the worker's signed receipt is
in hand, never before. Called by `market.inference.audits`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from contracts.protocol.hashing import sha256

SECRET_BYTES = 32
_RANGE_BITS = 64
# Of HMAC over SHA-256, RFC 2104: the block's size, and each byte with the inner and the outer pad's bits turned.
_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
# Longer than any hash, and greater than each.
_ALL = b"\xff" * 33


@dataclass(frozen=True, slots=True)
class AuditShares:
    """How much of a worker's served requests is audited: `new` of its first `new_requests`, `usual` after them."""

    usual: float
    new: float
    new_requests: int

    def share(self, answered: int) -> float:
        """Return the share for a worker that answered so many before."""
        return self.new if answered < self.new_requests else self.usual


def commitment(secret: bytes) -> bytes:
    """Return what is published of a secret while it is used: its SHA-256."""
    return sha256(secret)


def threshold(share: float) -> bytes:
    """Return the bound that a choice is compared with: `share` of all hashes are below it."""
    if share >= 1.0:
        return _ALL
    return int(max(0.0, share) * 2**_RANGE_BITS).to_bytes(_RANGE_BITS // 8, "big")


class Choice:
    """A secret to choose with: HMAC-SHA256, begun once, since each request served asks it."""

    def __init__(self, secret: bytes) -> None:
        block = secret.ljust(_BLOCK_BYTES, b"\0")
        if len(block) != _BLOCK_BYTES:
            raise ValueError(f"a secret has at most {_BLOCK_BYTES} bytes")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def falls_on(self, request_id: bytes, below: bytes) -> bool:
        """Tell whether a request is audited; `below` is the `threshold` of the share."""
        inner = self._inner.copy()
        inner.update(request_id)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest() < below


def is_chosen(secret: bytes, request_id: bytes, below: bytes) -> bool:
    """Tell whether a request is audited, for who asks once."""
    return Choice(secret).falls_on(request_id, below)
