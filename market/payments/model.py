"""Values of payments: a voucher as it arrived, the facts of a channel, a reservation, a charge.

Plain data without behaviour or I/O, shared by the use case, the ports and their adapters. Amounts are atomic units.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.protocol.typed_data import Channel, Receipt
from contracts.protocol.values import value_class


@value_class(frozen=True, slots=True)
class ParsedVoucher:
    """A voucher as a client sent it: well formed, signatures not yet checked; `access` that of `ChannelAccess`."""

    channel_id: bytes
    cumulative_amount: int
    signature: bytes
    access: bytes | None = None


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """What the chain confirms of a channel.

    `exiting` is the part of the deposit on its way out, by an exit or by a refund that this gateway signed;
    `refund_nonce` is the number of the next refund.
    """

    channel_id: bytes
    channel: Channel
    deposited: int
    settled: int
    exiting: int
    refund_nonce: int = 0

    @property
    def spendable(self) -> int:
        """The highest total this channel can be charged."""
        return max(0, self.deposited - self.exiting)


@value_class(frozen=True, slots=True)
class Account:
    """A channel's running state; `ceiling` is the best verified voucher, `voucher_signature` its signature."""

    charged: int = 0
    reserved: int = 0
    ceiling: int = 0
    voucher_signature: bytes = b""
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class KeySpending:
    """The API key that a request is paid with, by its hash, and what it may spend in all."""

    key_hash: bytes
    limit: int


@value_class(frozen=True, slots=True)
class Claim:
    """A wish to reserve `price`; `limit` is the highest total that deposit and exposure allow.

    `token` is fresh and random: it fences a late holder of an expired reservation. `remember` keeps the request id for
    the reservation's whole life even after the commit, so that a repetition is noticed. `key` is an API key whose own
    limit bounds the price, too.
    """

    channel_id: bytes
    request_id: bytes
    token: bytes
    price: int
    limit: int
    voucher_amount: int
    voucher_signature: bytes
    ttl_seconds: float
    remember: bool = False
    key: KeySpending | None = None


@value_class(frozen=True, slots=True)
class Reservation:
    """Money set aside for one request.

    `cumulative` is the channel's total if of all that is under way only this is charged, so that a receipt never states
    more than was charged; `expires_at` (monotonic seconds of this process) is when the money may be somebody else's.
    """

    channel_id: bytes
    request_id: bytes
    token: bytes
    price: int
    seq: int
    cumulative: int
    voucher_amount: int
    voucher_signature: bytes
    expires_at: float
    key: KeySpending | None = None


@value_class(frozen=True, slots=True)
class Charge:
    """One served request, ready to be made durable; `outputs` is kept for repeats when not None.

    `timeline` and `trace` tell when its steps happened and to which trace they belong; neither is part of the receipt.
    """

    receipt: Receipt
    digest: bytes
    channel: Channel
    voucher_amount: int
    voucher_signature: bytes
    worker_signature: bytes
    gateway_signature: bytes
    worker_payee: bytes
    owner_payee: bytes
    outputs: bytes | None = None
    outputs_expire_at: float = 0.0
    key: KeySpending | None = None
    timeline: bytes | None = None
    trace: bytes | None = None


@value_class(frozen=True, slots=True)
class Recorded:
    """A durable charge: the totals after it of the channel, of what its worker's payee is owed, and of its API key."""

    charged: int
    worker_earned: int
    key_spent: int = 0


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A charged request as the ledger holds it; `epoch` and `leaf_index` are None until a batch has taken it."""

    receipt: Receipt
    digest: bytes
    worker_signature: bytes
    gateway_signature: bytes
    worker_payee: bytes
    owner_payee: bytes
    epoch: int | None = None
    leaf_index: int | None = None
    position: int = 0
    timeline: bytes | None = None
    trace: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A charged request that may be answered again; `outputs` is None once it is no longer kept."""

    stored: StoredReceipt
    outputs: bytes | None


@dataclass(frozen=True, slots=True)
class Earning:
    """What one payee earned in one role with one model."""

    payee: bytes
    role: str
    model_id: bytes
    requests: int
    earned: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A worker's signed statement that contradicts what it delivered."""

    kind: str
    worker: bytes
    receipt: Receipt
    signature: bytes
    detail: str
    recorded_at: float
