"""The `Market-…` request and response headers: payment, idempotency, limits, receipt.

Decides only form; whether a voucher is good is `market.payments`' matter. Called by the inference route.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from contracts.protocol.capability import PREFIX
from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import address_from_hex, from_hex, hex0x
from contracts.protocol.money import MAX_UINT128
from contracts.protocol.receipts import pack_receipt
from market.errors import InvalidRequest
from market.gateway.x402.wire import X402Headers, x402_headers
from market.inference.model import Answer
from market.payments.model import ParsedVoucher
from market.payments.vouchers import parse_voucher

VOUCHER = "Market-Voucher"
REQUEST_ID = "Market-Request-Id"
MAX_PRICE = "Market-Max-Price"
WORKER = "Market-Worker"
REGION = "Market-Region"
MIN_STAKE = "Market-Min-Stake"
HEDGE = "Market-Hedge"
RECEIPT = "Market-Receipt"
CHARGED = "Market-Charged"
CUMULATIVE = "Market-Cumulative"
REPEATED = "Market-Repeated"
AUTHORIZATION = "authorization"
TRACEPARENT = "traceparent"
_BEARER = "bearer "
ANSWER_HEADERS = (RECEIPT, CHARGED, CUMULATIVE, REQUEST_ID, REPEATED)
REQUEST_HEADERS = (VOUCHER, REQUEST_ID, MAX_PRICE, WORKER, REGION, MIN_STAKE, HEDGE)
_VOUCHER, _REQUEST_ID, _MAX_PRICE, _WORKER, _REGION, _MIN_STAKE, _HEDGE = (name.lower() for name in REQUEST_HEADERS)
_MAX_REGION = 64

_MAX_DIGITS = len(str(MAX_UINT128))


@dataclass(frozen=True, slots=True)
class PaymentHeaders:
    """What a request's headers say; None where a header is not there.

    `bearer` is an API key of this market; it is never shown. Other bearers are for whoever stands before this gateway,
    or what a client sends that must send something: `other_bearer` says that there is one and nothing that pays.
    """

    voucher: ParsedVoucher | None
    request_id: bytes | None
    max_price: int | None
    worker: bytes | None
    region: str | None = None
    min_stake: int = 0
    hedge: bool = False
    x402: X402Headers | None = None
    bearer: str | None = field(default=None, repr=False)
    other_bearer: bool = False
    trace: str | None = None


def plain_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return a connection's headers by lower-case name, in one pass over them; the first of a name counts."""
    found: dict[str, str] = {}
    for name, value in raw:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


def read_headers(headers: Mapping[str, str]) -> PaymentHeaders:
    """Read the market's headers, by lower-case name.

    Raises:
        InvalidVoucher: the voucher header is malformed.
        InvalidRequest: another header is malformed; `field` names it.
    """
    voucher, request_id = headers.get(_VOUCHER), headers.get(_REQUEST_ID)
    max_price, worker = headers.get(_MAX_PRICE), headers.get(_WORKER)
    region, min_stake = headers.get(_REGION), headers.get(_MIN_STAKE)
    hedge = headers.get(_HEDGE)
    bearer = bearer_of(headers) if voucher is None else None
    try:
        return PaymentHeaders(
            voucher=None if voucher is None else parse_voucher(voucher),
            request_id=None if request_id is None else from_hex(request_id, 32, field=REQUEST_ID),
            max_price=None if max_price is None else _amount(max_price, MAX_PRICE),
            worker=None if worker is None else address_from_hex(worker, field=WORKER),
            region=None if region is None else _region(region),
            min_stake=0 if min_stake is None else _amount(min_stake, MIN_STAKE),
            hedge=False if hedge is None else _yes(hedge, HEDGE),
            x402=x402_headers(headers) if voucher is None else None,
            bearer=bearer,
            other_bearer=voucher is None and bearer is None and AUTHORIZATION in headers,
            trace=headers.get(TRACEPARENT),
        )
    except InvalidHex as error:
        raise InvalidRequest(error.detail, field=error.field, remedy=error.remedy) from error


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """Return the API key in the Authorization header, by its prefix; None if there is none."""
    text = headers.get(AUTHORIZATION)
    if text is None or text[: len(_BEARER)].lower() != _BEARER:
        return None
    key = text[len(_BEARER) :].strip()
    return key if key.startswith(PREFIX) else None


def answer_headers(answer: Answer) -> dict[str, str]:
    """Return the headers of a paid answer: receipt with both signatures, what was charged."""
    paper = pack_receipt(answer.receipt, answer.worker_signature, answer.gateway_signature)
    headers = {
        RECEIPT: base64.urlsafe_b64encode(paper).rstrip(b"=").decode("ascii"),
        CHARGED: str(answer.charged),
        CUMULATIVE: str(answer.cumulative),
        REQUEST_ID: hex0x(answer.request_id),
    }
    if answer.repeated:
        headers[REPEATED] = "true"
    return headers


def _region(text: str) -> str:
    if not (text.isascii() and text.isprintable() and 0 < len(text) <= _MAX_REGION):
        raise InvalidRequest(f"expected 1 to {_MAX_REGION} printable ASCII characters.", field=REGION)
    return text


def _yes(text: str, field: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidRequest("expected true or false.", field=field)
    return text.lower() == "true"


def _amount(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise InvalidRequest("expected a whole number of atomic units.", field=field)
    value = int(text)
    if value > MAX_UINT128:
        raise InvalidRequest("expected less than 2**128.", field=field)
    return value
