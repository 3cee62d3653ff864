"""Which served request is audited: a keyed hash of its id, that nobody without the secret can foretell.

Pure. The gateway publishes the hash of a secret before it uses it, and the secret once it is used no more: until then
no worker knows what is audited, and after that anybody can check a choice. Decided when the worker's signed receipt is
in hand, never before. Called by `market.inference.audits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import digest

from contracts.protocol.hashing import sha256

SECRET_BYTES = 32
_RANGE_BITS = 64
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


def is_chosen(secret: bytes, request_id: bytes, below: bytes) -> bool:
    """Tell whether a request is audited; `below` is the `threshold` of the share."""
    return digest(secret, request_id, "sha256") < below
