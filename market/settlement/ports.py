"""What settlement needs from outside: the book of unsettled receipts and decided batches, and a sender."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DueReceipt:
    """A charged receipt that no batch holds yet; `position` orders the ledger."""

    position: int
    digest: bytes
    channel_id: bytes
    price: int
    worker_payee: bytes
    worker_amount: int
    owner_payee: bytes
    owner_amount: int


@dataclass(frozen=True, slots=True)
class DueChannel:
    """A channel with its best voucher, and `claimed`, the total of earlier batches, atomic units."""

    channel_id: bytes
    payer: bytes
    signer: bytes
    salt: int
    voucher_amount: int
    voucher_signature: bytes
    claimed: int


@dataclass(frozen=True, slots=True)
class Due:
    """What is not settled, read at one moment; `promised` are the payees' totals of earlier batches.

    `unpaid` names channels and payees that the chain was not yet seen to pay what earlier batches claimed or promised;
    they are among `channels` and `promised` too.
    """

    receipts: Sequence[DueReceipt]
    channels: Mapping[bytes, DueChannel]
    promised: Mapping[bytes, int]
    unpaid: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits: receipts, their price in all, and the ledger position of the oldest, 0 if none waits."""

    receipts: int
    value: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided settlement; `tx_hash` is None until it is confirmed on chain."""

    gateway: bytes
    epoch: int
    root: bytes
    receipt_count: int
    debited: int
    credited: int
    call_data: bytes
    tx_hash: bytes | None = None
    gas_used: int | None = None
    block_number: int | None = None


class SettlementBook(Protocol):
    """The durable side of settlement."""

    def backlog(self, gateway: bytes) -> Backlog:
        """Return how much is not settled."""
        ...

    def unsettled_channels(self, gateway: bytes) -> Sequence[bytes]:
        """Return the channels that unsettled receipts belong to."""
        ...

    def due(self, gateway: bytes, limit: int) -> Due:
        """Return the oldest `limit` unsettled receipts, what concerns them, and everything unpaid."""
        ...

    def decide(self, batch: Batch, receipts: Sequence[DueReceipt], totals: Mapping[bytes, int]) -> bool:
        """Store a batch, its receipts in leaf order and the accounts' new totals, all or nothing.

        False, and nothing done, if the epoch is decided or a receipt is already in a batch.
        """
        ...

    def open_batch(self, gateway: bytes) -> Batch | None:
        """Return the oldest batch that is decided and not confirmed; there is one, or more after a reorganisation."""
        ...

    def newest_confirmed(self, gateway: bytes) -> Batch | None:
        """Return the newest confirmed batch."""
        ...

    def batch(self, gateway: bytes, epoch: int) -> Batch | None:
        """Return a batch."""
        ...

    def confirm(self, gateway: bytes, epoch: int, sent: Sent) -> None:
        """Record that a batch is on chain."""
        ...

    def reopen(self, gateway: bytes, epoch: int) -> None:
        """Record that a batch is on chain no longer."""
        ...

    def withdraw(self, gateway: bytes, epoch: int) -> None:
        """Undo the decision of an unconfirmed batch: its receipts wait again."""
        ...

    def mark_paid(self, gateway: bytes, totals: Mapping[bytes, int]) -> None:
        """Record that the chain has reached what was claimed of channels or promised to payees.

        An account whose total has grown since, by another process's batch, stays unpaid.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A settlement in a confirmed block; `gas_used` is None where only the block is known."""

    tx_hash: bytes
    gas_used: int | None
    block_number: int


@dataclass(frozen=True, slots=True)
class OnChain:
    """A batch as the confirmed events show it."""

    root: bytes
    tx_hash: bytes
    block_number: int


class Standing(Protocol):
    """What the confirmed chain says of this gateway's channels, payees, reserve and batches; from memory."""

    def channel(self, channel_id: bytes) -> tuple[int, int]:
        """Return (deposited, settled) of a channel, zeros if it is unknown."""
        ...

    def credited(self, payee: bytes) -> int:
        """Return what this gateway has credited a payee in all."""
        ...

    def free_reserve(self) -> int:
        """Return the part of the reserve that no presented credit note claims."""
        ...

    def batch(self, epoch: int) -> OnChain | None:
        """Return a batch of this gateway."""
        ...

    def exiting(self) -> Iterable[bytes]:
        """Return this gateway's channels that their payers are leaving."""
        ...


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a receipt was settled and how that is proved against the batch's root."""

    epoch: int
    path: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """A claim that no batch holds a receipt, to be answered by `answer_by`, unix seconds."""

    digest: bytes
    answer_by: int


class Challenges(Protocol):
    """The challenges of this gateway's receipts as the confirmed chain shows them."""

    def challenges(self) -> Sequence[OpenChallenge]:
        """Return the open ones, the first to be answered first."""
        ...


class Proofs(Protocol):
    """Finds receipts in settled batches."""

    def of_digests(self, digests: Sequence[bytes]) -> Mapping[bytes, Inclusion | None]:
        """Return the proofs of receipts, None for one that waits to be settled; unknown ones are left out.

        Raises:
            DatabaseUnreachable: they cannot be read.
        """
        ...


class DisputeChain(Protocol):
    """The dispute manager as answers use it."""

    def answer(self, digest: bytes, proof: Inclusion) -> bool:
        """Submit an answer once and look; True when it is confirmed.

        Raises:
            ChainUnreachable: the node does not answer; what was signed goes out again later.
            AnswerRefused: the contract refuses it.
        """
        ...


class SettlementChain(Protocol):
    """The escrow as settlement uses it."""

    def last_epoch(self) -> int:
        """Return the gateway's newest epoch on chain.

        Raises:
            ChainUnreachable: the node does not answer.
        """
        ...

    def encode(
        self,
        epoch: int,
        root: bytes,
        count: int,
        debits: Sequence[tuple[DueChannel, int]],
        credit_rows: Sequence[tuple[bytes, int]],
    ) -> bytes:
        """Return the call data; a debit is a channel and its claim total, a credit a payee and its total."""
        ...

    def send(self, epoch: int, call_data: bytes) -> Sent | None:
        """Submit once per epoch and look; None while it is not confirmed.

        Raises:
            ChainUnreachable: the node does not answer; what was signed goes out again later.
            SettlementRefused: the contract refuses it; the next call tries again.
        """
        ...

    def is_lost(self, batch: Batch) -> bool:
        """Tell whether a confirmed batch has left the chain, by a node that is beyond its block."""
        ...

    def is_ahead(self, epoch: int) -> bool:
        """Tell whether an epoch cannot be the next, and nothing was signed for it.

        Raises:
            ChainUnreachable: the node does not answer.
        """
        ...

    def recall(self, epoch: int) -> None:
        """Have the transaction of a lost batch sent again."""
        ...
