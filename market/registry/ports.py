"""What the registry needs from outside: a chain to read, a store for what was read, and the view others use.

The store applies a block range atomically and can rewind; the view answers from memory without I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from market.registry.model import (
    ChallengeRecord,
    ChannelRecord,
    Listing,
    PayeeCredit,
    ReserveRecord,
    SettlementRecord,
    WorkerRecord,
)


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One decoded log; `(tx_hash, block_hash, log_index)` names it. Addresses and bytes32 in `args` are bytes."""

    contract: str
    name: str
    args: Mapping[str, Any]
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block's number, hash and time (unix seconds); `parent_hash` is empty where it is not kept.

    `is_empty` says that it holds no transaction, and so no event; False where that is not known.
    """

    number: int
    hash: bytes
    timestamp: int
    parent_hash: bytes = b""
    is_empty: bool = field(default=False, compare=False)


class ChainReader(Protocol):
    """Reads the chain; every call may be slow, fail or lie behind."""

    def newest(self) -> Block:
        """Return the newest block.

        Raises:
            ChainUnreachable: the node does not answer.
        """
        ...

    def block(self, number: int) -> Block | None:
        """Return a block, or None if the node does not have it."""
        ...

    def events_in(self, block: Block) -> Sequence[ChainEvent]:
        """Return the contracts' events of exactly this block, in order.

        Raises:
            ChainUnreachable: the node does not know this block; it lies behind, or follows another branch by now.
        """
        ...

    def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """Return the contracts' events of the blocks `first` to `last` in chain order, for ranges far below the head.

        A node that lies behind may leave out the newest blocks without a word.
        """
        ...


class RegistryStore(Protocol):
    """Durable fold of the chain's events."""

    def cursor(self) -> Block | None:
        """Return the last block applied, or None before the first."""
        ...

    def known_blocks(self) -> Sequence[Block]:
        """Return the kept blocks, the newest first."""
        ...

    def apply(self, after: Block | None, blocks: Sequence[Block], events: Sequence[ChainEvent]) -> bool:
        """Store and fold a range atomically; False, and nothing done, if the cursor is no longer `after`."""
        ...

    def rewind(self, to_block: int) -> None:
        """Forget everything after `to_block` and fold what remains again."""
        ...


class RegistryView(Protocol):
    """The confirmed state, from memory."""

    def cursor(self) -> int | None:
        """Return the number of the last block folded."""
        ...

    def listing(self, model_id: bytes) -> Listing | None:
        """Return the listing of a model id."""
        ...

    def listing_by_name(self, name: str) -> Listing | None:
        """Return the listing that a name stands for now."""
        ...

    def predecessor(self, model_id: bytes) -> Listing | None:
        """Return the version that a listing took its name from, if there is one."""
        ...

    def listings(self) -> Sequence[Listing]:
        """Return all listings, by name."""
        ...

    def worker(self, worker: bytes) -> WorkerRecord | None:
        """Return a registered worker."""
        ...

    def workers(self) -> Sequence[WorkerRecord]:
        """Return all registered workers."""
        ...

    def channel(self, channel_id: bytes) -> ChannelRecord | None:
        """Return a funded channel."""
        ...

    def channels(self) -> Sequence[ChannelRecord]:
        """Return all funded channels."""
        ...

    def credits(self, gateway: bytes, payee: bytes) -> PayeeCredit:
        """Return a payee's totals at a gateway, zeros if it never was credited."""
        ...

    def reserve(self, gateway: bytes) -> ReserveRecord:
        """Return a gateway's reserve, zeros if it has none."""
        ...

    def settlements(self, gateway: bytes) -> Sequence[SettlementRecord]:
        """Return a gateway's settlements, the oldest first."""
        ...

    def challenges(self, gateway: bytes) -> Sequence[ChallengeRecord]:
        """Return the open challenges of a gateway's receipts, the first to be answered first."""
        ...
