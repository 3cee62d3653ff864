"""Finds a receipt's place in its settled batch and proves it against the root on chain.

A receipt counts as settled only once the chain's confirmed events show its batch. Called by the gateway's receipt
routes through `market.bootstrap`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import Engine

from contracts.protocol.commitments import MerkleTree
from contracts.protocol.hexes import hex0x
from market.adapters.database.engine import reading
from market.adapters.database.tables_ledger import receipts
from market.payments.model import StoredReceipt
from market.registry.ports import RegistryView

KEPT_TREES = 16

log = structlog.get_logger(__name__)


class DatabaseProofs:
    """Builds each batch's tree once and keeps the newest used ones."""

    def __init__(self, engine: Engine, registry: RegistryView) -> None:
        self._engine = engine
        self._registry = registry
        self._lock = threading.Lock()
        self._trees: OrderedDict[tuple[bytes, int], MerkleTree] = OrderedDict()

    def of(self, stored: StoredReceipt) -> dict[str, Any] | None:
        """Return epoch, root, index, proof and transaction of a receipt settled on chain, None until then.

        Raises:
            DatabaseUnreachable: the batch cannot be read.
        """
        gateway = stored.receipt.gateway
        if stored.epoch is None or stored.leaf_index is None:
            return None
        record = next((s for s in self._registry.settlements(gateway) if s.epoch == stored.epoch), None)
        if record is None:
            return None
        tree = self._tree(gateway, stored.epoch)
        if tree is None or tree.root != record.root:
            log.error("settled-root-differs", epoch=stored.epoch)
            return None
        return {
            "epoch": str(stored.epoch),
            "root": hex0x(record.root),
            "index": stored.leaf_index,
            "proof": [hex0x(node) for node in tree.proof(stored.leaf_index)],
            "transactionHash": hex0x(record.tx_hash),
        }

    def _tree(self, gateway: bytes, epoch: int) -> MerkleTree | None:
        key = (gateway, epoch)
        with self._lock:
            known = self._trees.get(key)
            if known is not None:
                self._trees.move_to_end(key)
                return known
        with reading(self._engine) as connection:
            digests = connection.execute(
                sa.select(receipts.c.digest)
                .where(receipts.c.gateway == gateway, receipts.c.epoch == epoch)
                .order_by(receipts.c.leaf_index)
            ).scalars()
            leaves = [bytes(digest) for digest in digests]
        if not leaves:
            return None
        tree = MerkleTree(leaves)
        with self._lock:
            self._trees[key] = tree
            while len(self._trees) > KEPT_TREES:
                self._trees.popitem(last=False)
        return tree
