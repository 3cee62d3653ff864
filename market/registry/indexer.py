"""Follows the chain: find a range of confirmed blocks, read their events, apply them, move the cursor.

Decides how far it may read and when to rewind. Near the head it reads the events of each block by its hash, so that a
node which lies behind or changes its branch gives an error and never an empty answer. Blocks that were the newest one
after the other are remembered as long as each is the child of the one before, and are not asked for again. The cursor
moves only if nobody moved it meanwhile, so several indexers over one database do no harm. Called by `market.jobs` and
by tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from contracts.protocol.errors import Retry
from market.errors import OperationError
from market.registry.ports import Block, ChainEvent, ChainReader, RegistryStore

MAX_BLOCKS_A_STEP = 500
# Blocks this near to the newest confirmed one are read one by one.
NEAR_BLOCKS = 32
# Hashes of this many blocks below the cursor are kept, the deepest rewind there can be.
KEPT_BLOCKS = 128

log = structlog.get_logger(__name__)


class ReorgTooDeep(OperationError):
    """The chain no longer has any block that was read before."""

    code = "reorg-too-deep"
    retry = Retry.LATER
    default_remedy = "Name a node of the chain that was read before, or start this network with a new database."


class Indexer:
    """One chain's indexer."""

    def __init__(self, chain: ChainReader, store: RegistryStore, *, confirmations: int, first_block: int = 0) -> None:
        self._chain = chain
        self._store = store
        self._confirmations = confirmations
        self._first_block = first_block
        # The newest block and the cursor at which there was nothing to do: while both stay, nothing can have changed.
        self._at_rest: tuple[bytes, Block | None] | None = None
        # The newest block and those before it that were seen as the newest, an unbroken chain of parents.
        self._heads: list[Block] = []

    def step(self) -> int:
        """Apply at most one range of blocks; returns how many, 0 when there is nothing new.

        Raises:
            ChainUnreachable: the node does not answer, or not with what it said before; nothing was changed.
            ReorgTooDeep: see there.
        """
        newest, cursor = self._chain.newest(), self._store.cursor()
        if (newest.hash, cursor) == self._at_rest:
            return 0
        self._remember(newest)
        cursor = self._rewound(cursor)
        last = newest.number - self._confirmations
        first = self._first_block if cursor is None else cursor.number + 1
        if last < first:
            self._at_rest = newest.hash, cursor
            return 0
        near = last - first < NEAR_BLOCKS
        if not near:
            last = min(last - NEAR_BLOCKS // 2, first + MAX_BLOCKS_A_STEP - 1)
        blocks = self._linked(cursor, first, last)
        if not blocks:
            return 0
        events = self._events_of(blocks) if near else self._events_between(first, blocks)
        if events is None or not self._store.apply(cursor, blocks, events):
            return 0
        return last - first + 1

    def lag(self) -> tuple[int, int]:
        """Return how many confirmed blocks are not read yet, and the newest block's time, unix seconds.

        Raises:
            ChainUnreachable: the node does not answer.
        """
        newest, cursor = self._chain.newest(), self._store.cursor()
        read = self._first_block - 1 if cursor is None else cursor.number
        return max(0, newest.number - self._confirmations - read), newest.timestamp

    def catch_up(self) -> int:
        """Step until there is nothing new; returns how many blocks were applied."""
        total = 0
        while (applied := self.step()) > 0:
            total += applied
        return total

    def _remember(self, newest: Block) -> None:
        heads = self._heads
        if not heads or newest.hash != heads[-1].hash:
            follows = bool(heads) and (newest.number, newest.parent_hash) == (heads[-1].number + 1, heads[-1].hash)
            self._heads = [*heads[-self._confirmations - NEAR_BLOCKS :], newest] if follows else [newest]

    def _block(self, number: int) -> Block | None:
        """Return a block of the newest one's branch, or None if the node does not have it."""
        place = number - self._heads[0].number if self._heads else -1
        return self._heads[place] if 0 <= place < len(self._heads) else self._chain.block(number)

    def _rewound(self, cursor: Block | None) -> Block | None:
        """Return the cursor after going back to the last block that the chain still has."""
        if cursor is None or self._still_there(cursor):
            return cursor
        for block in self._store.known_blocks():
            if self._still_there(block):
                log.warning("chain-reorganised", from_block=cursor.number, to_block=block.number)
                self._store.rewind(block.number)
                return self._store.cursor()
        raise ReorgTooDeep(f"no block that was read up to {cursor.number} is on the chain.")

    def _still_there(self, block: Block, *, anew: bool = False) -> bool:
        """Tell whether a block is on the newest one's branch; `anew` asks the node, which may follow another by now."""
        found = self._chain.block(block.number) if anew else self._block(block.number)
        # A node that lies behind does not have the block at all; that says nothing against it.
        if found is None:
            return self._chain.newest().number < block.number
        return found.hash == block.hash

    def _linked(self, cursor: Block | None, first: int, last: int) -> list[Block]:
        """Return the newest blocks of the range, each the child of the one before; none if the node wavers."""
        blocks: list[Block] = []
        before = cursor
        for number in range(max(first, last - KEPT_BLOCKS), last + 1):
            block = self._block(number)
            if block is None:
                return []
            if before is not None and before.number == number - 1 and block.parent_hash != before.hash:
                return []
            blocks.append(block)
            before = block
        return blocks

    def _events_of(self, blocks: Sequence[Block]) -> list[ChainEvent]:
        return _unique([event for block in blocks for event in self._chain.events_in(block)])

    def _events_between(self, first: int, blocks: Sequence[Block]) -> list[ChainEvent] | None:
        """Return the events from `first` to the last of `blocks`; None if they are not of these blocks."""
        last = blocks[-1]
        events = _unique(self._chain.events(first, last.number))
        hashes = {block.number: block.hash for block in blocks}
        if any(hashes.get(event.block_number, event.block_hash) != event.block_hash for event in events):
            return None
        return events if self._still_there(last, anew=True) else None


def _unique(events: Sequence[ChainEvent]) -> list[ChainEvent]:
    """Drop what a node repeats, and put the rest in chain order."""
    found = {(event.tx_hash, event.block_hash, event.log_index): event for event in events}
    return sorted(found.values(), key=lambda event: (event.block_number, event.log_index))
