"""Merkle proofs of settled receipts, from the digests in the book; recent trees are kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from contracts.protocol.commitments import MerkleTree
from market.settlement.ports import SettlementBook

TREES_KEPT = 32  # a tree of 4096 receipts takes about a megabyte


class Proofs:
    """Proofs for one gateway's batches."""

    def __init__(self, book: SettlementBook, gateway: bytes) -> None:
        self._book = book
        self._gateway = gateway
        self._trees: OrderedDict[int, MerkleTree] = OrderedDict()

    def proof(self, epoch: int, leaf_index: int) -> tuple[bytes, Sequence[bytes]]:
        """Return the batch's root and the sibling hashes of one receipt; blocking, call it off the event loop."""
        tree = self._trees.get(epoch)
        if tree is None:
            tree = self._trees[epoch] = MerkleTree(self._book.digests(self._gateway, epoch))
            while len(self._trees) > TREES_KEPT:
                self._trees.popitem(last=False)
        return tree.root, tree.proof(leaf_index)
