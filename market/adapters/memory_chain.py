"""A registry and a chain in memory, for tests: the store that rewinds, and a node that can fork, lag and repeat itself.

`MemoryRegistryStore` passes the same suite as the database's store. Nothing here is durable.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from contracts.protocol.hashing import sha256
from market.errors import ChainUnreachable
from market.registry.fold import Fold, key_of
from market.registry.indexer import KEPT_BLOCKS
from market.registry.model import Record
from market.registry.ports import Block, ChainEvent
from market.registry.view import SnapshotView

_R = TypeVar("_R", bound=Record)


@dataclass
class _Folded:
    """The fold's records, in memory."""

    records: dict[tuple[type[Any], Hashable], Record] = field(default_factory=dict)

    def get(self, kind: type[_R], key: Hashable) -> _R | None:
        return self.records.get((kind, key))  # type: ignore[return-value]  # the kind is part of the key

    def put(self, record: Record) -> None:
        self.records[type(record), key_of(record)] = record


class MemoryRegistryStore:
    """Implements `RegistryStore`; `view` always shows what was applied."""

    def __init__(self, *, min_stake: int) -> None:
        self.view = SnapshotView()
        self._fold = Fold(min_stake)
        self._blocks: list[Block] = []
        self._events: dict[tuple[bytes, bytes, int], ChainEvent] = {}

    def cursor(self) -> Block | None:
        """See `RegistryStore.cursor`."""
        return self._blocks[-1] if self._blocks else None

    def known_blocks(self) -> Sequence[Block]:
        """See `RegistryStore.known_blocks`."""
        return self._blocks[::-1]

    def apply(self, after: Block | None, blocks: Sequence[Block], events: Sequence[ChainEvent]) -> bool:
        """See `RegistryStore.apply`."""
        if self.cursor() != after:
            return False
        for event in events:
            self._events[event.tx_hash, event.block_hash, event.log_index] = event
        kept = [Block(block.number, block.hash, block.timestamp) for block in blocks]
        self._blocks = [*self._blocks, *kept][-KEPT_BLOCKS - 1 :]
        self._refold()
        return True

    def rewind(self, to_block: int) -> None:
        """See `RegistryStore.rewind`."""
        self._blocks = [block for block in self._blocks if block.number <= to_block]
        self._events = {key: event for key, event in self._events.items() if event.block_number <= to_block}
        self._refold()

    def _refold(self) -> None:
        folded = _Folded()
        for event in sorted(self._events.values(), key=lambda event: (event.block_number, event.log_index)):
            self._fold.apply(folded, event)
        last = self.cursor()
        self.view.show(None if last is None else last.number, folded.records.values(), whole=True)


class MemoryChain:
    """A chain of blocks with chosen events. Implements `ChainReader`; `lag`, `repeats` and `fails` make it a bad node.

    `lag` hides the newest blocks, `blind` answers range queries without the newest so many blocks, `repeats` gives each
    event twice, and each of `fails` makes one call fail.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[Block, list[ChainEvent]]] = []
        self._branch = 0
        self.lag = 0
        self.blind = 0
        self.repeats = False
        self.fails = 0
        self.mine()

    def mine(self, *events: tuple[str, str, Mapping[str, Any]]) -> Block:
        """Add a block with events given as (contract, name, arguments)."""
        number = len(self._blocks)
        parent = self._blocks[-1][0].hash if self._blocks else bytes(32)
        block_hash = sha256(parent + number.to_bytes(8, "big") + self._branch.to_bytes(8, "big"))
        block = Block(number, block_hash, 1_700_000_000 + number, parent)
        made = [
            ChainEvent(contract, name, args, number, block_hash, sha256(block_hash + bytes((index,))), index)
            for index, (contract, name, args) in enumerate(events)
        ]
        self._blocks.append((block, made))
        return block

    def drop(self, depth: int) -> None:
        """Take the newest blocks away; what is mined next is another branch."""
        del self._blocks[-depth:]
        self._branch += 1

    def newest(self) -> Block:
        """See `ChainReader.newest`."""
        self._maybe_fail()
        return self._blocks[-1 - self.lag][0]

    def block(self, number: int) -> Block | None:
        """See `ChainReader.block`."""
        self._maybe_fail()
        return self._blocks[number][0] if number < len(self._blocks) - self.lag else None

    def events_in(self, block: Block) -> Sequence[ChainEvent]:
        """See `ChainReader.events_in`."""
        self._maybe_fail()
        for known, events in self._blocks:
            if known.hash == block.hash:
                return [*events, *events] if self.repeats else events
        raise ChainUnreachable("unknown block")

    def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """See `ChainReader.events`."""
        self._maybe_fail()
        seen = self._blocks[: len(self._blocks) - self.blind]
        found = [event for block, events in seen for event in events if first <= block.number <= last]
        return [*found, *found] if self.repeats else found

    def _maybe_fail(self) -> None:
        if self.fails > 0:
            self.fails -= 1
            raise ChainUnreachable("the node timed out")
