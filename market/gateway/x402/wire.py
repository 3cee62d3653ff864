"""x402 on HTTP: header names, base64 JSON, and payments as clients of version 2 and version 1 send them.

Decides only form. A header that cannot be read is the payer's refusal, never a fault of ours. Called by the door.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from market.payments.x402_model import EXACT, PaymentRefused

PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"
SIGN_IN_WITH_X = "SIGN-IN-WITH-X"
V1_PAYMENT = "X-PAYMENT"
V1_RESPONSE = "X-PAYMENT-RESPONSE"
CREDIT = "Market-Credit"

_MAX_HEADER_BYTES = 16_384
# Version 1 names networks where version 2 numbers them.
V1_NETWORKS = {8453: "base", 84532: "base-sepolia", 1: "ethereum", 137: "polygon", 43114: "avalanche"}


@dataclass(frozen=True, slots=True)
class X402Headers:
    """What a request's x402 headers say, unread; `v1` tells by which name the payment came."""

    payment: str | None
    v1: bool
    sign_in: str | None

    @property
    def given(self) -> bool:
        """Whether the client pays, or asks, by x402."""
        return self.payment is not None or self.sign_in is not None


def x402_headers(headers: Mapping[str, str]) -> X402Headers:
    """Pick the x402 headers out of a request's, by lower-case name."""
    payment = headers.get("payment-signature")
    if payment is not None:
        return X402Headers(payment, False, headers.get("sign-in-with-x"))
    v1 = headers.get("x-payment")
    return X402Headers(v1, v1 is not None, headers.get("sign-in-with-x"))


def encode(values: Mapping[str, Any]) -> str:
    """Write a header value."""
    return base64.b64encode(orjson.dumps(values)).decode("ascii")


def decode(text: str) -> dict[str, Any]:
    """Read a header value.

    Raises:
        PaymentRefused: it is too long, not base64, not JSON or not an object.
    """
    if len(text) > _MAX_HEADER_BYTES:
        raise PaymentRefused("invalid_payload", f"The header is longer than {_MAX_HEADER_BYTES} bytes.")
    try:
        found = orjson.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise PaymentRefused("invalid_payload", "The header is not base64 of JSON.") from error
    if not isinstance(found, dict):
        raise PaymentRefused("invalid_payload", "The header is not a JSON object.")
    return found


@dataclass(frozen=True, slots=True)
class ReadPayment:
    """A payment as it came: which offer it takes, and the scheme's payload."""

    scheme: str
    accepted: Mapping[str, Any]
    payload: Mapping[str, Any]


def read_payment(text: str) -> ReadPayment:
    """Read a payment of version 2, or the `exact` payment of version 1.

    Raises:
        PaymentRefused: it is neither.
    """
    found = decode(text)
    payload = found.get("payload")
    if not isinstance(payload, dict):
        raise PaymentRefused("invalid_payload", "`payload` is missing.")
    match found.get("x402Version"):
        case 2:
            accepted = found.get("accepted")
            if not isinstance(accepted, dict) or not isinstance(accepted.get("scheme"), str):
                raise PaymentRefused("invalid_payload", "`accepted` is missing.")
            return ReadPayment(accepted["scheme"], accepted, payload)
        case 1:
            if found.get("scheme") != EXACT:
                raise PaymentRefused("unsupported_scheme", "Version 1 pays by `exact` only.")
            return ReadPayment(EXACT, {"scheme": EXACT, "network": found.get("network")}, payload)
        case version:
            raise PaymentRefused("invalid_x402_version", f"x402Version is {version!r}, not 2 or 1.")
