"""Values and rules of payments by x402: what an authorization is, what it names, how large a credit pack is.

Plain data and pure rules, shared by the door, the ports and their adapters. Amounts are atomic units. The identity of
a payment is the request id of the job it pays for, so that one payment can never become two jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import address_from_hex, from_hex

EXACT = "exact"
BATCH = "batch-settlement"
SIGN_IN = "sign-in-with-x"
MIN_DEPOSIT_REQUESTS = 1_000
# A channel is emptied in some dozens of refunds at most, whoever asks for them.
_PARTS_OF_A_REST = 10


class PaymentRefused(Exception):
    """The payer's x402 payment is not good; the door answers 402 with `reason`, a code of the SDKs."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail or reason


class CreditShort(Exception):
    """The payer's credit does not cover the price; the door answers with what to pay."""


class Payment(IntEnum):
    """How far a payment has come."""

    HELD = 0
    CHARGED = 1
    RELEASED = 2


@dataclass(frozen=True, slots=True)
class Authorization:
    """An EIP-3009 authorization that buys a credit pack."""

    chain_id: int
    token: bytes
    payer: bytes
    nonce: bytes
    value: int
    signature: bytes

    @property
    def request_id(self) -> bytes:
        """The id of the one job that this authorization pays for by itself."""
        return identity(EXACT, self.chain_id.to_bytes(32, "big"), self.token, self.payer, self.nonce)

    @classmethod
    def from_wire(cls, payload: Mapping[str, Any], chain_id: int, token: bytes) -> Authorization:
        """Read the payload of the `exact` scheme.

        Raises:
            PaymentRefused: a member is missing or malformed, or it is not EIP-3009.
        """
        try:
            inner, signature = payload["authorization"], payload["signature"]
            value = str(inner["value"])
            if not (value.isascii() and value.isdigit() and len(value) <= 18):
                raise ValueError("value is not a whole number below 10**18")
            return cls(
                chain_id,
                token,
                address_from_hex(inner["from"], field="from"),
                from_hex(inner["nonce"], 32, field="nonce"),
                int(value),
                bytes.fromhex(signature.removeprefix("0x")),
            )
        except (InvalidHex, KeyError, TypeError, ValueError, AttributeError) as error:
            raise PaymentRefused("invalid_payload", f"payload: {error}") from error


@dataclass(frozen=True, slots=True)
class Bought:
    """What is known of an authorization that bought its credit; `inputs` names the request that it was sent with.

    Once settled, the authorization stands on chain for everybody to read: who sends it again with other inputs need not
    be its payer.
    """

    transaction: str
    signature: bytes
    inputs: bytes | None


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment on chain, as the facilitator reports it; `extra` is the scheme's own."""

    transaction: str
    payer: str
    amount: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Credit:
    """What a payer has bought and not used; `held` is in use by requests in flight, `refunded` went back."""

    balance: int = 0
    held: int = 0
    bought: int = 0
    refunded: int = 0

    @property
    def available(self) -> int:
        """What the next request may use."""
        return self.balance - self.held


def identity(scheme: str, *parts: bytes) -> bytes:
    """Return the request id of a payment: the same payment, the same job."""
    name = b"x402:" + scheme.encode()
    return keccak256(b"".join(len(part).to_bytes(4, "big") + part for part in (name, *parts)))


def pack_price(pack: int, price: int) -> int:
    """Return what a credit pack costs: the usual amount, and never less than the request at hand."""
    return max(pack, price)


def min_deposit(price: int, pack: int) -> int:
    """Return the deposit to ask of a channel: a transaction on chain should serve for a thousand requests.

    And be no less than a credit pack, below which none is made.
    """
    return max(price * MIN_DEPOSIT_REQUESTS, pack)


def least_refund(rest: int, pack: int) -> int:
    """Return the least that is sent back of a channel's `rest`, at the gateway's gas: all of it, or a sum worth that.

    Vouchers are public once they are claimed, so a stranger may ask, too.
    """
    return min(rest, max(pack, -(-rest // _PARTS_OF_A_REST)))
