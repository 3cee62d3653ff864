"""What payments needs from outside: reservations, which may be lost, and the ledger, which may not.

The ledger is the truth of money. Reservations only keep concurrent requests from spending the same money twice; when
they are lost, they are built again from the ledger, and the ledger's own condition still bounds every charge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from market.payments.keys import ApiKey, KeyCount
from market.payments.model import (
    Account,
    ChannelFacts,
    Charge,
    Claim,
    Earning,
    Evidence,
    ParsedVoucher,
    Recorded,
    Reservation,
    StoredAnswer,
    StoredReceipt,
)


class DuplicateCharge(Exception):
    """The channel already has a receipt with this request id; caught by the use case, which answers from the ledger."""


class AlreadyCharged(Exception):
    """The request id was charged a moment ago; caught by the use case, which answers from the ledger."""


class OverLimit(Exception):
    """The voucher covers the price, deposit or exposure does not; `authorize` says which to the client."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account


class Ledger(Protocol):
    """The durable record of charges; every method returns only once the database has answered."""

    async def record(self, charge: Charge) -> Recorded:
        """Charge the channel, credit the payees and keep receipt and voucher, all or nothing and durably.

        Raises:
            DuplicateCharge: the channel already has a receipt with this request id.
            InsufficientVoucher: the total would exceed the best voucher.
            KeyLimit: the key's total would exceed its limit.
            DatabaseUnreachable: nothing is known to be durable.
        """
        ...

    async def account(self, channel_id: bytes) -> Account | None:
        """Return the durable part of a channel's account, or None if it was never charged."""
        ...

    async def key_spent(self, key_hash: bytes) -> int:
        """Return what was charged by an API key in all; 0 for one that is not known."""
        ...

    async def answer(self, channel_id: bytes, request_id: bytes) -> StoredAnswer | None:
        """Return what was answered to this request id, or None if it was never charged."""
        ...

    async def receipt(self, request_id: bytes, channel_id: bytes | None = None) -> StoredReceipt | None:
        """Return the receipt of a request; without a channel only if no two channels used the id."""
        ...

    async def receipts(self, channel_id: bytes, *, after: int = 0, limit: int = 100) -> Sequence[StoredReceipt]:
        """Return a channel's receipts in order of position, those beyond `after`."""
        ...

    async def batch(self, epoch: int, *, after: int = -1, limit: int = 100) -> Sequence[StoredReceipt]:
        """Return the receipts that a settlement took, in the order of its leaves, those beyond leaf `after`."""
        ...

    async def earned(self, payee: bytes) -> int:
        """Return what this gateway owes a payee in all since the beginning."""
        ...

    async def earnings(self, payee: bytes) -> Sequence[Earning]:
        """Return a payee's earnings by role and model."""
        ...

    async def keep_evidence(self, evidence: Evidence) -> None:
        """Keep a worker's contradicting statement."""
        ...

    async def sweep(self, now: float) -> int:
        """Drop answers whose time has passed (unix seconds); return how many."""
        ...


class Reservations(Protocol):
    """Money set aside per channel, atomically among all processes of the gateway."""

    async def reserve(self, claim: Claim) -> Reservation:
        """Set money aside if `charged + reserved + price` stays within voucher and limit.

        Raises:
            RequestInProgress: the request id holds a reservation of this channel.
            AlreadyCharged: the request id was charged a moment ago; the ledger has its answer.
            StaleVoucher, InsufficientVoucher: the best voucher does not cover it.
            OverLimit: the voucher would cover it, `limit` does not.
            KeyLimit: the key's spent and reserved money leaves too little of its limit.
            RedisUnreachable: the store does not answer.
        """
        ...

    async def commit(self, reservation: Reservation, charged: int, key_spent: int = 0) -> bool:
        """Turn a reservation into a charge; the totals are the ledger's. False if it had expired."""
        ...

    async def release(self, reservation: Reservation) -> bool:
        """Give the money back. False if the reservation had expired."""
        ...

    async def account(self, channel_id: bytes) -> Account:
        """Return the channel's running state."""
        ...


class InstantLedger(Protocol):
    """The ledger's way for many charges at once, without a task for each."""

    def answer_all(
        self, wanted: list[tuple[bytes, bytes]], done: Callable[[Sequence[StoredAnswer | BaseException | None]], None]
    ) -> None:
        """Look channel ids with request ids up as `Ledger.answer` does; `done` is told later, in this event loop."""
        ...

    def record_all(self, charges: list[Charge], done: Callable[[Sequence[Recorded | BaseException]], None]) -> None:
        """Record charges as `Ledger.record` does; `done` is told later, in this event loop, what became of each."""
        ...


class ClosesReservations(Protocol):
    """Where reservations end without waiting; one that does not ends at its time."""

    def commit_now(self, reservation: Reservation, charged: int, key_spent: int = 0) -> object:
        """See `Reservations.commit`."""
        ...

    def release_now(self, reservation: Reservation) -> object:
        """See `Reservations.release`."""
        ...


class InstantReservations(ClosesReservations, Protocol):
    """Reservations held in this process, so that nobody needs to wait for them."""

    def reserve_now(self, claim: Claim) -> Reservation | None:
        """Reserve as `Reservations.reserve` does; None where that must wait for the ledger, and nothing was done.

        Raises:
            as `Reservations.reserve`.
        """
        ...


class SharedReservations(ClosesReservations, Protocol):
    """Reservations that several processes share, told by call-back."""

    def reserve_soon(self, claim: Claim, told: Callable[[Reservation | Exception | None], None]) -> None:
        """Reserve as `Reservations.reserve` does; `told` is called once, in a later turn of the loop.

        It hears the reservation, what `reserve` would raise, or None where that must ask the ledger and nothing was
        done.
        """
        ...


class Channels(Protocol):
    """The confirmed facts of channels, from the registry's view of the chain."""

    def facts(self, channel_id: bytes) -> ChannelFacts | None:
        """Return the channel's facts, or None if the chain does not confirm it."""
        ...


class KeyBook(Protocol):
    """The durable record of API keys; rows are never deleted, so a hash names one key for ever."""

    async def add(self, key: ApiKey) -> ApiKey:
        """Write a new key down, its voucher for all open keys of the channel; returns the key that has its hash now."""
        ...

    async def find(self, key_hash: bytes) -> ApiKey | None:
        """Return the key with this hash."""
        ...

    async def of_channel(self, channel_id: bytes) -> Sequence[ApiKey]:
        """Return a channel's keys, the oldest first."""
        ...

    async def count(self, channel_id: bytes, now: int) -> KeyCount:
        """Return how many keys a channel has had, and what those that are open may still spend."""
        ...

    async def revoke(self, key_hash: bytes, now: int) -> ApiKey | None:
        """End a key for good, once; returns it as it is then."""
        ...

    async def fund(self, voucher: ParsedVoucher, now: int) -> None:
        """Keep a voucher for all keys of its channel that are open, where it is the best."""
        ...
