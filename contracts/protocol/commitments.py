"""Merkle commitment to a batch of receipts, as OpenZeppelin's `StandardMerkleTree` of `[digest]` rows builds it.

A leaf is `keccak256(keccak256(digest))`, inner nodes hash their sorted children; so 64-byte inner nodes can never be
passed off as leaves, and OpenZeppelin's `MerkleProof` verifies every proof.
"""

from __future__ import annotations

from collections.abc import Sequence

from sha3 import keccak_256

from contracts.protocol.hashing import keccak256

# Root of a batch that only makes good what was unpaid: not zero, which means no batch, and nothing proves under it.
NO_RECEIPTS_ROOT = keccak256(b"no receipts")


def leaf(digest: bytes) -> bytes:
    """Return the standard leaf of one bytes32 value."""
    return keccak256(keccak256(digest))


class MerkleTree:
    """A complete binary tree over receipt digests, in the order given; positions are stable."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        if not digests:
            raise ValueError("a tree needs at least one receipt")
        # The hash itself, without a function around it: a worker and a gateway make a tree of every few requests.
        leaves = [keccak_256(keccak_256(digest).digest()).digest() for digest in digests]
        # StandardMerkleTree sorts leaves by hash and lays them out from the end of the array.
        order = sorted(range(len(leaves)), key=leaves.__getitem__)
        size = 2 * len(leaves) - 1
        nodes = [b""] * size
        self._slot = [0] * len(leaves)
        for rank, index in enumerate(order):
            slot = size - 1 - rank
            nodes[slot] = leaves[index]
            self._slot[index] = slot
        for i in range(size - 1 - len(leaves), -1, -1):
            a, b = nodes[2 * i + 1], nodes[2 * i + 2]
            nodes[i] = keccak_256(a + b if a < b else b + a).digest()
        self._nodes = nodes

    @property
    def size(self) -> int:
        """How many receipts there are."""
        return len(self._slot)

    @property
    def root(self) -> bytes:
        """The 32 bytes recorded on chain."""
        return self._nodes[0]

    def proof(self, index: int) -> list[bytes]:
        """Return the sibling hashes from the leaf of `digests[index]` up to the root."""
        slot = self._slot[index]
        path, nodes = [], self._nodes
        while slot > 0:
            # A node's left child has an odd number, its sibling the next.
            path.append(nodes[slot + 1 if slot & 1 else slot - 1])
            slot = (slot - 1) >> 1
        return path

    def proofs(self) -> list[bytes]:
        """Return each digest's proof, its hashes in one piece, in the order of the digests."""
        nodes = self._nodes
        paths = [b""] * len(nodes)
        for slot in range(1, len(nodes)):
            paths[slot] = nodes[slot + 1 if slot & 1 else slot - 1] + paths[(slot - 1) >> 1]
        return [paths[slot] for slot in self._slot]


def climb(digest: bytes, proof: Sequence[bytes]) -> bytes:
    """Return the root that a proof leads to from the leaf of `digest`."""
    node = leaf(digest)
    for sibling in proof:
        node = keccak256(node + sibling if node < sibling else sibling + node)
    return node


def verify(root: bytes, digest: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `digest` is in the batch with this root."""
    return climb(digest, proof) == root
