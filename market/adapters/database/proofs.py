"""Finds a receipt's place in its settled batch and proves it against the root on chain.

A receipt counts as settled only once the chain's confirmed events show its batch. Called by the gateway's receipt
routes and by the answers to challenges, through `market.bootstrap`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import Engine

from contracts.protocol.commitments import MerkleTree
from contracts.protocol.hexes import hex0x
from market.adapters.database.engine import reading
from market.adapters.database.tables_ledger import receipts, settled_receipts
from market.payments.model import StoredReceipt
from market.registry.model import SettlementRecord
from market.registry.ports import RegistryView
from market.settlement.ports import Inclusion

# Of all trees that are kept: 64 batches of the usual size, some 50 MB.
KEPT_LEAVES = 262_144

_SETTLED = settled_receipts.c.position == receipts.c.position

log = structlog.get_logger(__name__)


class DatabaseProofs:
    """Builds each batch's tree once and keeps the newest used ones."""

    def __init__(self, engine: Engine, registry: RegistryView) -> None:
        self._engine = engine
        self._registry = registry
        self._lock = threading.Lock()
        self._trees: OrderedDict[tuple[bytes, int], MerkleTree] = OrderedDict()
        self._leaves = 0

    def of(self, stored: StoredReceipt) -> dict[str, Any] | None:
        """Return epoch, root, index, proof and transaction of a receipt settled on chain, None until then.

        Raises:
            DatabaseUnreachable: the batch cannot be read.
        """
        gateway = stored.receipt.gateway
        if stored.epoch is None or stored.leaf_index is None:
            return None
        place = self._place(gateway, stored.epoch, stored.leaf_index)
        if place is None:
            return None
        record, path = place
        return {
            "epoch": str(stored.epoch),
            "root": hex0x(record.root),
            "index": stored.leaf_index,
            "proof": [hex0x(node) for node in path],
            "transactionHash": hex0x(record.tx_hash),
        }

    def of_digests(self, digests: Sequence[bytes]) -> Mapping[bytes, Inclusion | None]:
        """See `market.settlement.ports.Proofs`. Reads the whole ledger: receipts are not indexed by digest."""
        found: dict[bytes, Inclusion | None] = {}
        c, place_of = receipts.c, settled_receipts.c
        query = (
            sa.select(c.digest, c.gateway, place_of.epoch, place_of.leaf_index)
            .join_from(receipts, settled_receipts, _SETTLED, isouter=True)
            .where(c.digest.in_(digests))
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        for row in rows:
            settled = row.epoch is not None and row.leaf_index is not None
            place = self._place(bytes(row.gateway), row.epoch, row.leaf_index) if settled else None
            found[bytes(row.digest)] = None if place is None else Inclusion(row.epoch, place[1])
        return found

    def _place(self, gateway: bytes, epoch: int, leaf_index: int) -> tuple[SettlementRecord, list[bytes]] | None:
        """The batch on chain and the path of a leaf; None until the chain's confirmed events show the batch."""
        settled = self._registry.settlements(gateway)
        found = bisect_left(settled, epoch, key=lambda one: one.epoch)
        if found == len(settled) or settled[found].epoch != epoch:
            return None
        record = settled[found]
        tree = self._tree(gateway, epoch)
        if tree is None or tree.root != record.root:
            log.error("settled-root-differs", epoch=epoch)
            return None
        return record, tree.proof(leaf_index)

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
                .join_from(settled_receipts, receipts, _SETTLED)
                .where(receipts.c.gateway == gateway, settled_receipts.c.epoch == epoch)
                .order_by(settled_receipts.c.leaf_index)
            ).scalars()
            leaves = [bytes(digest) for digest in digests]
        if not leaves:
            return None
        tree = MerkleTree(leaves)
        with self._lock:
            if key not in self._trees:
                self._leaves += tree.size
            self._trees[key] = tree
            while self._leaves > KEPT_LEAVES and len(self._trees) > 1:
                self._leaves -= self._trees.popitem(last=False)[1].size
        return tree
