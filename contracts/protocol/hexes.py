"""Hex at the edges: bytes inside the program, `0x…` text outside, EIP-55 for addresses."""

from __future__ import annotations

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hashing import keccak256

ADDRESS_BYTES = 20


def hex0x(data: bytes) -> str:
    """Write bytes as lower-case `0x…`."""
    return "0x" + data.hex()


def from_hex(text: str, length: int, *, field: str) -> bytes:
    """Read `0x…` of exactly `length` bytes.

    Raises:
        InvalidHex: wrong prefix, length or digits.
    """
    if len(text) == 2 + 2 * length and text[:2] in ("0x", "0X"):
        try:
            # bytes.fromhex skips white space, so the length is checked again.
            data = bytes.fromhex(text[2:])
        except ValueError:
            data = b""
        if len(data) == length:
            return data
    raise InvalidHex(f"expected 0x and {2 * length} hex digits.", field=field, remedy=f"Give {length} bytes as 0x-hex.")


def signature_from_hex(text: str, *, field: str) -> bytes:
    """Read a receipt's signature: `0x…` of whole bytes, alone 65, with a proof more.

    Raises:
        InvalidHex: wrong prefix, an odd number of digits, or other characters.
    """
    return from_hex(text, max(0, len(text) - 2) // 2, field=field)


def checksum(address: bytes) -> str:
    """Write a 20-byte address with the EIP-55 checksum."""
    digits = address.hex()
    shade = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(s, 16) >= 8 else d for d, s in zip(digits, shade, strict=False))


def address_from_hex(text: str, *, field: str) -> bytes:
    """Read an address; mixed case must carry a right EIP-55 checksum.

    Raises:
        InvalidHex: not 20 bytes, or the checksum shows a typing error.
    """
    address = from_hex(text, ADDRESS_BYTES, field=field)
    digits = text[2:]
    if digits != digits.lower() and digits != digits.upper() and text[2:] != checksum(address)[2:]:
        raise InvalidHex(f"{text} fails its EIP-55 checksum.", field=field, remedy="Copy the address again.")
    return address
