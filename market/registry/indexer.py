"""Follows the chain: find a range of confirmed blocks, read their events, apply them, move the cursor.

Decides how far it may read and when to rewind. The cursor moves only if nobody moved it meanwhile, so several indexers
over one database do no harm. Called by `market.jobs` every second and by tests.
"""

from __future__ import annotations

import structlog

from market.registry.ports import Block, ChainReader, RegistryStore

MAX_BLOCKS_A_STEP = 500
# Hashes of this many blocks below the cursor are kept, the deepest rewind there can be.
KEPT_BLOCKS = 128

log = structlog.get_logger(__name__)


class ReorgTooDeep(Exception):
    """The chain changed below every block whose hash is kept: the fold must be made anew from the start."""


class Indexer:
    """One chain's indexer."""

    def __init__(self, chain: ChainReader, store: RegistryStore, *, confirmations: int, first_block: int = 0) -> None:
        self._chain = chain
        self._store = store
        self._confirmations = confirmations
        self._first_block = first_block

    def step(self) -> int:
        """Apply at most one range of blocks; returns how many, 0 when there is nothing new.

        Raises:
            ChainUnreachable: the node does not answer; nothing was changed.
            ReorgTooDeep: see there.
        """
        cursor = self._rewound()
        last = self._chain.head() - self._confirmations
        first = self._first_block if cursor is None else cursor.number + 1
        last = min(last, first + MAX_BLOCKS_A_STEP - 1)
        if last < first:
            return 0
        blocks = self._chain_of(first, last)
        if not blocks:
            return 0
        events = [event for event in self._chain.events(first, last) if event.block_number <= blocks[-1].number]
        by_number = {block.number: block.hash for block in blocks}
        # A node that reorganised between the two reads would mix two chains: look again next time.
        if any(by_number.get(event.block_number, event.block_hash) != event.block_hash for event in events):
            return 0
        # A node may repeat a log; its name says so.
        unique = {(event.tx_hash, event.block_hash, event.log_index): event for event in events}
        if not self._store.apply(cursor, blocks, list(unique.values())):
            return 0
        return last - first + 1

    def catch_up(self) -> int:
        """Step until there is nothing new; returns how many blocks were applied."""
        total = 0
        while (applied := self.step()) > 0:
            total += applied
        return total

    def _rewound(self) -> Block | None:
        """Return the cursor after going back to the last block that the chain still has."""
        cursor = self._store.cursor()
        if cursor is None or self._still_there(cursor):
            return cursor
        for block in self._store.known_blocks():
            if self._still_there(block):
                log.warning("chain-reorganised", from_block=cursor.number, to_block=block.number)
                self._store.rewind(block.number)
                return self._store.cursor()
        if self._chain.head() < cursor.number:
            return cursor  # the node lies behind; that is no reorganisation
        raise ReorgTooDeep(f"no kept block below {cursor.number} is on the chain")

    def _still_there(self, block: Block) -> bool:
        found = self._chain.block(block.number)
        # A node that lies behind does not have the block at all; that says nothing against it.
        if found is None:
            return self._chain.head() < block.number
        return found.hash == block.hash

    def _chain_of(self, first: int, last: int) -> list[Block]:
        """Return the blocks whose hashes are worth keeping: the newest of the range."""
        blocks = []
        for number in range(max(first, last - KEPT_BLOCKS + 1), last + 1):
            block = self._chain.block(number)
            if block is None:
                break
            blocks.append(block)
        return blocks if blocks and blocks[-1].number == last else []
