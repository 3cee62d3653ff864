"""The payloads of the schemes, reduced to what the gateway reads itself.

Decides what of a client's JSON goes on to the facilitator: only members that were read and checked here, so that what
is reserved is what is settled. Called by the door and by refunds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from market.payments.x402_channels import ChannelConfig, PayerVoucher
from market.payments.x402_model import PaymentRefused


def only_authorization(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the EIP-3009 part of an `exact` payload and nothing else.

    What is reserved must be what is settled: the SDK prefers a Permit2 authorization where a payload has both.
    """
    members = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    inner = payload.get("authorization")
    if not isinstance(inner, Mapping) or any(name not in inner for name in members):
        raise PaymentRefused("invalid_payload", f"payload.authorization needs {', '.join(members)}.")
    return {
        "signature": str(payload.get("signature", "")),
        "authorization": {name: str(inner[name]) for name in members},
    }


def payment_of(offer: Mapping[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payment of version 2 that takes our own offer."""
    return {"x402Version": 2, "accepted": offer, "payload": payload}


def only_channel(payload: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """Return of a `batch-settlement` payload what its kind has, and nothing else.

    Raises:
        PaymentRefused: it is of another kind, or misses something.
    """
    kind = payload.get("type")
    if kind not in kinds:
        raise PaymentRefused("invalid_batch_settlement_evm_payload_type", f"type is none of {', '.join(kinds)}.")
    config, voucher = read_channel(payload)
    found: dict[str, Any] = {"type": kind, "channelConfig": config.to_wire(), "voucher": voucher.to_wire()}
    if kind == "refund" and payload.get("amount") is not None:
        found["amount"] = str(payload["amount"])
    if kind == "deposit":
        try:
            deposit = payload["deposit"]
            authorization = deposit["authorization"]["erc3009Authorization"]
            members = ("validAfter", "validBefore", "salt", "signature")
            found["deposit"] = {
                "amount": str(deposit["amount"]),
                "authorization": {"erc3009Authorization": {name: str(authorization[name]) for name in members}},
            }
        except (KeyError, TypeError) as error:
            raise PaymentRefused("invalid_batch_settlement_evm_deposit_payload", f"deposit: {error}") from error
    return found


def check_worthwhile(payload: Mapping[str, Any], least: int) -> None:
    """Return if a deposit is worth its transaction.

    Raises:
        PaymentRefused: it is less than `least`, or no number.
    """
    text = payload["deposit"]["amount"]
    if not (text.isascii() and text.isdigit() and len(text) <= 39):
        raise PaymentRefused("invalid_batch_settlement_evm_deposit_payload", "deposit: amount is no whole number.")
    if int(text) < least:
        raise PaymentRefused(
            "invalid_batch_settlement_evm_deposit_below_min_deposit",
            f"{text} is not worth its transaction: deposit {least} or more.",
        )


def read_channel(payload: Mapping[str, Any]) -> tuple[ChannelConfig, PayerVoucher]:
    """Read what every payload of `batch-settlement` has.

    Raises:
        PaymentRefused: it is missing or malformed.
    """
    config, voucher = payload.get("channelConfig"), payload.get("voucher")
    if not isinstance(config, dict) or not isinstance(voucher, dict):
        raise PaymentRefused("invalid_batch_settlement_evm_payload_type", "channelConfig and voucher are needed.")
    return ChannelConfig.from_wire(config), PayerVoucher.from_wire(voucher)
