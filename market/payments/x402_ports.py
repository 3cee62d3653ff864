"""What payments by x402 need from outside: a facilitator that checks and settles on chain, and a durable book.

The book is the truth of what x402 payers are owed and have been charged. Methods of both block; the door calls them
from threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from market.payments.model import ParsedVoucher
from market.payments.x402_channels import Merchant, PayerChannel
from market.payments.x402_model import Authorization, Bought, Credit, Payment, Settled


class SettlementPending(Exception):
    """A transaction is out and not confirmed; the same payment sent again finds out. `transaction` names it."""

    def __init__(self, transaction: str) -> None:
        super().__init__(transaction)
        self.transaction = transaction


class Facilitator(Protocol):
    """Checks payments against the chain and settles them, from the gateway's own account."""

    def verify(self, payload: Mapping[str, Any], requirements: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the scheme's facts if the payment is good; moves nothing.

        Raises:
            PaymentRefused: it is not.
            ChainUnreachable: nobody can tell now.
        """
        ...

    def settle(self, payload: Mapping[str, Any], requirements: Mapping[str, Any]) -> Settled:
        """Settle on chain and wait for the confirmations; the same payload again is the same transaction.

        Raises:
            PaymentRefused: the chain refuses.
            SettlementPending: it is out and not confirmed.
            ChainUnreachable: the node is away.
        """
        ...

    def look(self, channel: PayerChannel) -> PayerChannel:
        """Return a channel as the chain has it now; raises as `verify` does."""
        ...

    def claim(self, channels: Sequence[PayerChannel], least: int = 1) -> Sequence[PayerChannel]:
        """Claim what channels were charged and sweep it, and what was claimed before, to the house; returns those.

        Channels that owe less than `least` are left out, and less than that is not swept. Raises as `settle` does.
        """
        ...

    def refund(self, channel: PayerChannel, amount: int) -> Settled:
        """Send a payer `amount` of its channel back, claiming first what it was charged; raises as `settle` does."""
        ...

    def pay(self, purpose: str, to: bytes, amount: int) -> str:
        """Send tokens once for this purpose and wait; returns the transaction hash."""
        ...


class House(Protocol):
    """The gateway's own channel in the escrow, from which it pays onward what x402 clients pay it."""

    @property
    def channel_id(self) -> bytes:
        """The channel's id."""
        ...

    def voucher(self) -> ParsedVoucher:
        """Return a voucher over all that the channel holds.

        Raises:
            HouseShort: the channel is not funded.
        """
        ...


@dataclass(frozen=True)
class X402Desk:
    """What the door of one gateway works with; `pack` is the usual credit pack, `origin` the public scheme://host[:port].

    `least_claim` is what a transaction of the house account must be worth.
    `unfinished` names requests that ended here while the book could not be written: housekeeping closes them.
    """

    merchant: Merchant
    facilitator: Facilitator
    book: Book
    house: House
    token_name: str
    token_version: str
    pack: int
    origin: str
    least_claim: int = 1
    unfinished: set[bytes] = field(default_factory=set)


class Book(Protocol):
    """Durable state; every method is one transaction. Times are unix seconds."""

    def authorization(self, authorization: Authorization) -> Bought | None:
        """Return what is known of an authorization that bought its credit, None if it has not."""
        ...

    def begin(self, authorization: Authorization, payload: str, inputs: bytes, *, now: float, until: float) -> bool:
        """Reserve (chain, token, from, nonce) before anything is sent; False if somebody else has it now.

        `payload` is the payment's JSON, for settling it again after a crash; `inputs` the hash of the request that it
        was sent with, which the next who takes it over must have too.
        """
        ...

    def undecided(self, now: float) -> Sequence[tuple[Authorization, str]]:
        """Return the reservations whose time has passed without a decision, with their payloads."""
        ...

    def abandon(self, authorization: Authorization) -> None:
        """Drop a reservation whose settlement the chain refused."""
        ...

    def let_go(self, authorization: Authorization) -> None:
        """End the holding of a reservation that is undecided: the next who asks, or housekeeping, finds out."""
        ...

    def bought(self, authorization: Authorization, transaction: str) -> None:
        """Give the credit of a settled authorization, once."""
        ...

    def credit(self, payer: bytes) -> Credit:
        """Return a payer's credit, zeros if it never bought any."""
        ...

    def hold_credit(
        self, request_id: bytes, payer: bytes, scheme: str, amount: int, *, now: float, until: float
    ) -> Payment:
        """Set credit aside for a request; CHARGED means that it was answered already.

        Raises:
            CreditShort: there is not enough.
            RequestInProgress: the same payment is being served.
        """
        ...

    def channel(self, channel_id: bytes) -> PayerChannel | None:
        """Return a channel, None if it was never seen."""
        ...

    def channels(self) -> Sequence[PayerChannel]:
        """Return every channel with money in it."""
        ...

    def channels_of(self, payer: bytes) -> tuple[int, int, int]:
        """Return of all channels of a payer: refunds made, what was charged in all, and how many are taken now."""
        ...

    def hold_channel(
        self, request_id: bytes, channel: PayerChannel, amount: int, *, now: float, until: float, serves: bool = True
    ) -> Payment:
        """Take a channel for one request: `channel` is its new state, its `charged` unchanged.

        Without `serves` it is one that has no answer, such as a refund: the newest that has one stays.

        Raises:
            ChannelOutOfStep: another request was charged meanwhile.
            RequestInProgress: a request of this channel is in flight.
        """
        ...

    def see_channel(self, channel: PayerChannel) -> None:
        """Write down what the chain says of a channel; leaves its charges and its request in flight alone."""
        ...

    def charge(self, request_id: bytes, charged: int, *, now: float) -> PayerChannel | None:
        """Charge a held payment for good and free what it held; returns its channel, if it has one."""
        ...

    def release(self, request_id: bytes, *, lost_by: float | None = None) -> None:
        """Give back what a payment held; with `lost_by` only if its holding ran out before, and was not renewed."""
        ...

    def charged(self, request_id: bytes) -> int | None:
        """Return what a payment was charged, None if it was not."""
        ...

    def begin_refund(self, request_id: bytes, payer: bytes, *, now: float) -> tuple[int, str] | None:
        """Take all unused credit out for a refund: (amount, transaction or ""); the same id again is the same refund.

        None if there is nothing to refund.
        """
        ...

    def unsent_refunds(self) -> Sequence[tuple[bytes, bytes, int]]:
        """Return the refunds decided and not known to be sent: (request id, payer, amount)."""
        ...

    def refunded(self, request_id: bytes, transaction: str) -> None:
        """Write down that a refund was sent."""
        ...

    def lost(self, now: float) -> Sequence[bytes]:
        """Name the requests whose holding ran out, since the process that served them is gone."""
        ...

    def inherit(self) -> None:
        """End every holding: for the one process of a gateway, before it serves."""
        ...
