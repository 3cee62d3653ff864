"""secp256k1 signatures over 32-byte digests: 65 bytes r ‖ s ‖ v with v 27 or 28 and low s, as the contracts accept.

coincurve (libsecp256k1) directly: about 35 µs to recover and 21 µs to sign, a tenth of eth_account's cost.
"""

from __future__ import annotations

import secrets
from typing import Self

import coincurve

from contracts.protocol.errors import SignatureError
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum

SIGNATURE_BYTES = 65
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = _ORDER // 2


class PrivateKey:
    """One secp256k1 key; never printed, never pickled."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < _ORDER:
            raise SignatureError("a private key is 32 bytes below the curve order.", field="private_key")
        self._key = coincurve.PrivateKey(secret)
        self.address = _address_of(self._key.public_key)

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """Load a 32-byte secret."""
        return cls(secret)

    @classmethod
    def generate(cls) -> Self:
        """Draw a fresh key from the operating system's randomness."""
        return cls((secrets.randbelow(_ORDER - 1) + 1).to_bytes(32, "big"))

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes, for a keystore file only."""
        return bytes(self._key.secret)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; returns 65 bytes r ‖ s ‖ v (RFC 6979, low s)."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return bytes(signature[:64]) + bytes((27 + signature[64],))

    def __repr__(self) -> str:
        return f"PrivateKey({checksum(self.address)})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a private key is not pickled")


def _address_of(public_key: coincurve.PublicKey) -> bytes:
    return keccak256(public_key.format(compressed=False)[1:])[-20:]


def recover(digest: bytes, signature: bytes) -> bytes:
    """Recover the 20-byte signer address.

    Raises:
        SignatureError: wrong length, v not 27 or 28, high s (malleable), or no such point.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}.", field="signature")
    v = signature[64]
    if v not in (27, 28):
        raise SignatureError(f"v is {v}, not 27 or 28.", field="signature")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise SignatureError("s is in the upper half of the order.", field="signature")
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except Exception as error:  # coincurve raises bare Exception and ValueError
        raise SignatureError("the signature recovers to no key.", field="signature") from error
    return _address_of(key)


def is_signed_by(digest: bytes, signature: bytes, signer: bytes) -> bool:
    """Tell whether `signature` over `digest` is `signer`'s; malformed ones are simply not."""
    try:
        return recover(digest, signature) == signer
    except SignatureError:
        return False


def to_compact(signature: bytes) -> tuple[bytes, bytes]:
    """Turn 65 bytes into EIP-2098's (r, yParityAndS), 32 bytes each."""
    s = int.from_bytes(signature[32:64], "big") | ((signature[64] - 27) << 255)
    return signature[:32], s.to_bytes(32, "big")
