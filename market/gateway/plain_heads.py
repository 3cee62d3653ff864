"""The heads of plain infer requests: what each says, read once for all that are alike.

A client sends the same head again and again, byte for byte if it signed ahead; else it differs in the voucher's amount
and signature and in the request id, and in nothing else. Decides only whether a request is plain by its head and its
size. Called by `plain_http`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from contracts.protocol.capability import is_key, key_hash
from contracts.protocol.errors import CodedError
from market.gateway.body import wanted_encoding
from market.gateway.connection import read_whole
from market.gateway.doorman import FORWARDED_FOR
from market.gateway.headers import read_headers
from market.gateway.tensors_json import HEADER_LENGTH
from market.inference.model import InferenceRequest
from market.payments.model import ParsedVoucher
from market.payments.vouchers import MAX_CUMULATIVE

PREFIX = "/v2/models/"
SUFFIX = "/infer"
_HEADER_LENGTH = HEADER_LENGTH.lower()
_KEPT = 2_048
_MOST_BYTES = 1_024
# What differs from one request of a client to its next: the rest of these two lines, behind the channel and the 0x.
_OWN = re.compile(rb"(\r\nmarket-(?:voucher: ?0x[0-9a-f]{64};|request-id: ?0x))([^\r\n]*)", re.IGNORECASE)
_SIGNED = re.compile(rb"([0-9]{1,19});0x([0-9a-fA-F]{130})(?:;0x([0-9a-fA-F]{130}))?")
_ID = re.compile(rb"[0-9a-fA-F]{64}")
# The pieces of a head that has each of the two lines once.
_PIECES = 7


@dataclass(slots=True, eq=False)
class Head:
    """What heads that are alike say.

    `blank` is the request without its tensors, whose voucher and id are those of one of them; `key_hash` the API key
    that pays where no voucher does. `header_length` is how much of the body is JSON, as the client writes it. `refusal`
    is the response to it, without the lines that all have, or None where there is room, up to `looked_until` of the
    monotonic clock.
    """

    path: str
    blank: InferenceRequest
    header_length: str | None
    body_bytes: int
    forwarded: str | None
    key_hash: bytes | None
    looked_until: float = 0.0
    refusal: bytes | None = None


class Found(NamedTuple):
    """A request's head, and what is its own."""

    head: Head
    voucher: ParsedVoucher | None
    request_id: bytes | None


class Heads:
    """Reads heads, and keeps the newest; one per gateway process."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        # Apart: what is cut from a head must never be taken for a head.
        self._same: dict[bytes, Head] = {}
        self._alike: dict[bytes, Head] = {}

    def find(self, data: bytes, end: int) -> Found | None:
        """Return what a request's first `end` bytes say; None if it is not plain, or the long way must refuse it."""
        raw = data[:end]
        body_bytes = len(data) - end
        head = self._same.get(raw)
        if head is not None and head.body_bytes == body_bytes:
            return Found(head, head.blank.voucher, None)
        common = None
        if end <= _MOST_BYTES and (own := _own(raw)) is not None:
            common, voucher, request_id = own
            head = self._alike.get(common)
            if head is not None and head.body_bytes == body_bytes:
                return Found(head, voucher, request_id)
        head = self._read(data)
        if head is None:
            return None
        if common is not None:
            _keep(self._alike, common, head)
        elif end <= _MOST_BYTES and head.blank.request_id is None:
            _keep(self._same, raw, head)
        return Found(head, head.blank.voucher, head.blank.request_id)

    def _read(self, data: bytes) -> Head | None:
        request = read_whole(data)
        if request is None or wanted_encoding(request.headers):
            return None
        model = request.path[len(PREFIX) : -len(SUFFIX)]
        if "/" in model or len(request.body) > self._max_body_bytes:
            return None
        try:
            payment = read_headers(request.headers)
        except CodedError:
            return None
        if payment.hedge or payment.trace is not None:
            return None
        key = None
        if payment.voucher is None:
            by_x402 = payment.x402 is not None and payment.x402.given
            if by_x402 or payment.bearer is None or not is_key(payment.bearer):
                return None
            key = key_hash(payment.bearer)
        blank = InferenceRequest(
            model,
            (),
            payment.voucher,
            request_id=payment.request_id,
            max_price=payment.max_price,
            worker=payment.worker,
            region=payment.region,
            min_stake=payment.min_stake,
        )
        return Head(
            request.path,
            blank,
            request.headers.get(_HEADER_LENGTH),
            len(request.body),
            request.headers.get(FORWARDED_FOR),
            key,
        )


def _keep(kept: dict[bytes, Head], key: bytes, head: Head) -> None:
    if len(kept) >= _KEPT:
        del kept[next(iter(kept))]
    kept[key] = head


def _own(raw: bytes) -> tuple[bytes, ParsedVoucher, bytes] | None:
    """Cut a voucher's amount and signature and the request id out of a head; returns the rest and them.

    None unless each line is there once and written as clients write it; the strict reading sees to all else.
    """
    pieces = _OWN.split(raw)
    if len(pieces) != _PIECES:
        return None
    before, one, its, between, other, others, after = pieces
    if one.endswith(b";"):
        channel, signed, name = one, _SIGNED.fullmatch(its), others
    else:
        channel, signed, name = other, _SIGNED.fullmatch(others), its
    if signed is None or not channel.endswith(b";") or _ID.fullmatch(name) is None:
        return None
    amount = int(signed[1])
    if amount > MAX_CUMULATIVE:
        return None
    access = None if signed[3] is None else _bytes(signed[3])
    voucher = ParsedVoucher(_bytes(channel[-65:-1]), amount, _bytes(signed[2]), access)
    return b"".join((before, one, between, other, after)), voucher, _bytes(name)


def _bytes(digits: bytes) -> bytes:
    return bytes.fromhex(digits.decode("ascii"))
