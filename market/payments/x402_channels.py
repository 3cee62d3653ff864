"""A payer's channel of the x402 `batch-settlement` scheme as this gateway keeps it: id, vouchers, running total.

Decides whether a voucher is genuine and continues where the channel stands. Pure: no chain, no clock, no storage. It
must never take a voucher whose signer is not a plain key named in the channel id: a contract's signature can be revoked
after the work is done. Called by the x402 door and its adapters; golden-tested against the SDK's own digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import address_from_hex, checksum, from_hex, hex0x
from contracts.protocol.signing import SIGNATURE_BYTES, is_signed_by
from market.payments.x402_model import PaymentRefused

CONTRACT = bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
MIN_WITHDRAW_SECONDS = 900
MAX_WITHDRAW_SECONDS = 2_592_000
ZERO = bytes(20)

CUMULATIVE_MISMATCH = "invalid_batch_settlement_evm_cumulative_amount_mismatch"
_INVALID = "invalid_batch_settlement_evm_"
_DOMAIN_TYPE = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_CONFIG_TYPE = keccak256(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,"
    b"address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER_TYPE = keccak256(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Preimage of a channel id."""

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay: int
    salt: bytes

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> ChannelConfig:
        """Read the SDKs' JSON form.

        Raises:
            PaymentRefused: a member is missing or malformed.
        """
        try:
            return cls(
                payer=address_from_hex(data["payer"], field="payer"),
                payer_authorizer=address_from_hex(data["payerAuthorizer"], field="payerAuthorizer"),
                receiver=address_from_hex(data["receiver"], field="receiver"),
                receiver_authorizer=address_from_hex(data["receiverAuthorizer"], field="receiverAuthorizer"),
                token=address_from_hex(data["token"], field="token"),
                withdraw_delay=_uint(data["withdrawDelay"], 40),
                salt=from_hex(data["salt"], 32, field="salt"),
            )
        except (InvalidHex, KeyError, TypeError, ValueError) as error:
            raise PaymentRefused(_INVALID + "voucher_payload", f"channelConfig: {error}") from error

    def to_wire(self) -> dict[str, Any]:
        """Return the SDKs' JSON form."""
        return {
            "payer": checksum(self.payer),
            "payerAuthorizer": checksum(self.payer_authorizer),
            "receiver": checksum(self.receiver),
            "receiverAuthorizer": checksum(self.receiver_authorizer),
            "token": checksum(self.token),
            "withdrawDelay": self.withdraw_delay,
            "salt": hex0x(self.salt),
        }

    def channel_id(self, chain_id: int) -> bytes:
        """Return the digest that names the channel."""
        words = b"".join(
            address.rjust(32, b"\0")
            for address in (self.payer, self.payer_authorizer, self.receiver, self.receiver_authorizer, self.token)
        )
        return _digest(chain_id, keccak256(_CONFIG_TYPE + words + self.withdraw_delay.to_bytes(32, "big") + self.salt))


@dataclass(frozen=True, slots=True)
class PayerVoucher:
    """What a payer signed: all that may ever be claimed from the channel."""

    channel_id: bytes
    max_claimable: int
    signature: bytes

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> PayerVoucher:
        """Read the SDKs' JSON form.

        Raises:
            PaymentRefused: a member is missing or malformed.
        """
        try:
            return cls(
                channel_id=from_hex(data["channelId"], 32, field="channelId"),
                max_claimable=_uint(data["maxClaimableAmount"], 63),
                signature=from_hex(data["signature"], SIGNATURE_BYTES, field="signature"),
            )
        except (InvalidHex, KeyError, TypeError, ValueError) as error:
            raise PaymentRefused(_INVALID + "voucher_payload", f"voucher: {error}") from error

    def to_wire(self) -> dict[str, Any]:
        """Return the SDKs' JSON form."""
        return {
            "channelId": hex0x(self.channel_id),
            "maxClaimableAmount": str(self.max_claimable),
            "signature": hex0x(self.signature),
        }

    def is_signed_by(self, signer: bytes, chain_id: int) -> bool:
        """Tell whether a plain key signed this voucher."""
        struct = _VOUCHER_TYPE + self.channel_id + self.max_claimable.to_bytes(32, "big")
        return is_signed_by(_digest(chain_id, keccak256(struct)), self.signature, signer)


@dataclass(frozen=True, slots=True)
class PayerChannel:
    """A channel's running state. Amounts are atomic units; `balance` and what follows are as last seen on chain.

    `busy_with` names the one request that may be in flight, until `busy_until`; `last_request` the newest one taken, if
    it is no refund. Times are unix seconds.
    """

    channel_id: bytes
    config: ChannelConfig
    charged: int = 0
    signed_max: int = 0
    signature: bytes = b""
    balance: int = 0
    total_claimed: int = 0
    withdraw_requested_at: int = 0
    refund_nonce: int = 0
    synced_at: float = 0.0
    busy_with: bytes | None = None
    busy_until: float = 0.0
    last_request: bytes | None = None
    last_request_at: float = 0.0

    def seen_on_chain(
        self, *, balance: int, total_claimed: int, withdraw_requested_at: int, refund_nonce: int, at: float
    ) -> PayerChannel:
        """Return the state with what the chain says now."""
        return replace(
            self,
            balance=balance,
            total_claimed=total_claimed,
            withdraw_requested_at=withdraw_requested_at,
            refund_nonce=refund_nonce,
            synced_at=at,
        )

    @property
    def claimable(self) -> int:
        """Up to where the chain lets it be claimed: one row above that would undo all rows beside it."""
        return min(self.charged, self.signed_max, self.balance)

    @property
    def owed(self) -> int:
        """What a claim would bring."""
        return max(0, self.claimable - self.total_claimed)

    @property
    def missing(self) -> int:
        """What was charged and signed for, and the channel does not hold any more."""
        return max(0, min(self.charged, self.signed_max) - max(self.balance, self.total_claimed))

    def state_to_wire(self) -> dict[str, Any]:
        """Return `channelState` of answers."""
        return {
            "channelId": hex0x(self.channel_id),
            "balance": str(self.balance),
            "totalClaimed": str(self.total_claimed),
            "withdrawRequestedAt": self.withdraw_requested_at,
            "refundNonce": str(self.refund_nonce),
            "chargedCumulativeAmount": str(self.charged),
        }

    def voucher_to_wire(self) -> dict[str, Any]:
        """Return `voucherState` of answers."""
        return {"signedMaxClaimable": str(self.signed_max), "signature": hex0x(self.signature)}


@dataclass(frozen=True, slots=True)
class Merchant:
    """Who is paid, in what, where: what every channel to this gateway must name."""

    chain_id: int
    token: bytes
    receiver: bytes
    withdraw_delay: int

    @property
    def network(self) -> str:
        """The CAIP-2 name of the chain."""
        return f"eip155:{self.chain_id}"


def check_voucher(config: ChannelConfig, voucher: PayerVoucher, merchant: Merchant) -> None:
    """Return if the voucher is of this channel, signed by its plain key, and the channel pays this merchant.

    Raises:
        PaymentRefused: why not, by the SDKs' reason codes.
    """
    if config.payer_authorizer == ZERO:
        raise PaymentRefused(
            _INVALID + "voucher_signature",
            "payerAuthorizer is zero: only vouchers of a plain key are taken, which nobody can revoke.",
        )
    checks = (
        (config.channel_id(merchant.chain_id) == voucher.channel_id, "channel_id_mismatch"),
        (config.receiver == merchant.receiver, "receiver_mismatch"),
        (config.receiver_authorizer == merchant.receiver, "receiver_authorizer_mismatch"),
        (config.token == merchant.token, "token_mismatch"),
        (config.withdraw_delay == merchant.withdraw_delay, "withdraw_delay_mismatch"),
        (voucher.is_signed_by(config.payer_authorizer, merchant.chain_id), "voucher_signature"),
    )
    for good, reason in checks:
        if not good:
            raise PaymentRefused(_INVALID + reason)


def check_covered(voucher: PayerVoucher, *, balance: int, total_claimed: int) -> None:
    """Return if the channel's money covers the voucher.

    Raises:
        PaymentRefused: it does not, or all of it is claimed already.
    """
    if balance == 0:
        raise PaymentRefused(_INVALID + "channel_not_found")
    if voucher.max_claimable > balance:
        raise PaymentRefused(_INVALID + "cumulative_exceeds_balance")
    if voucher.max_claimable <= total_claimed:
        raise PaymentRefused(_INVALID + "cumulative_below_claimed")


def continues(channel: PayerChannel | None, voucher: PayerVoucher, amount: int) -> int:
    """Return the channel's total before this voucher, which must be for exactly `amount` more.

    A channel this gateway has never seen stands where the payer says; it is the payer who signed for that.

    Raises:
        ChannelOutOfStep: the voucher does not continue where the channel stands.
    """
    base = channel.charged if channel is not None else max(0, voucher.max_claimable - amount)
    if voucher.max_claimable != base + amount:
        raise ChannelOutOfStep(channel)
    return base


def check_unclaimed(channel: PayerChannel) -> None:
    """Return if the chain does not count further than we do: what is claimed already cannot be claimed again.

    Raises:
        ChannelOutOfStep: it does; says where the channel stands by the chain.
    """
    if channel.total_claimed > channel.charged:
        raise ChannelOutOfStep(replace(channel, charged=channel.total_claimed, signed_max=channel.total_claimed))


def check_stays(channel: PayerChannel, until: float) -> None:
    """Return if the payer cannot take its money out before `until`, unix seconds.

    Raises:
        PaymentRefused: it has begun to leave, and might be gone by then with what is served now.
    """
    if channel.withdraw_requested_at and channel.withdraw_requested_at + channel.config.withdraw_delay <= until:
        raise PaymentRefused(
            _INVALID + "cumulative_exceeds_balance",
            "A withdrawal from the channel may be paid out before this request is claimed; pay from another channel.",
        )


class ChannelOutOfStep(PaymentRefused):
    """The client's count of the channel differs from ours; `channel` tells it where we stand."""

    def __init__(self, channel: PayerChannel | None) -> None:
        super().__init__(CUMULATIVE_MISMATCH, "The voucher does not continue where the channel stands.")
        self.channel = channel


def _digest(chain_id: int, struct_hash: bytes) -> bytes:
    separator = keccak256(
        _DOMAIN_TYPE
        + keccak256(b"x402 Batch Settlement")
        + keccak256(b"1")
        + chain_id.to_bytes(32, "big")
        + CONTRACT.rjust(32, b"\0")
    )
    return keccak256(b"\x19\x01" + separator + struct_hash)


def _uint(value: Any, bits: int) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(f"{value!r} is not a whole number")
    number = int(text)
    if number >= 1 << bits:
        raise ValueError(f"{number} does not fit {bits} bits")
    return number
