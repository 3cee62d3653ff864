"""The two hashes of the protocol: keccak-256 for what the chain checks, SHA-256 for content (files, tensors)."""

from __future__ import annotations

import hashlib

import sha3

HASH_BYTES = 32


def keccak256(data: bytes) -> bytes:
    """Hash with Ethereum's keccak-256; 32 bytes."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def sha256(data: bytes | memoryview) -> bytes:
    """Hash content with SHA-256; 32 bytes."""
    return hashlib.sha256(data).digest()
