"""Plain infer requests on the short lane: read, put on their way, and answered without a task, in few steps.

Whether a request is plain is said by its head, see `plain_heads`; all else, and every refusal before the work, is the
long way's, which answers the very same (a test compares the bytes). Called by the connections.
"""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64, hexlify
from collections.abc import Callable

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.receipts import pack_receipt
from contracts.protocol.tensors import encode_tensors
from market.bootstrap.gateway import GatewayRuntime
from market.errors import Overloaded, PaymentError
from market.gateway.connection import MAX_SHORT_BYTES
from market.gateway.doorman import doorman_of
from market.gateway.infer_http import refusal_bytes
from market.gateway.lookup import find_listing, require_manifest
from market.gateway.plain_codec import PlainCodec
from market.gateway.plain_heads import Head, Heads
from market.gateway.serving import payment_terms
from market.gateway.tensors_json import InferenceBody, decode_request, encode_answer_for
from market.inference.model import Answer, InferenceRequest
from market.inference.plain_lanes import EitherPlainLane
from market.payments.model import KeySpending, ParsedVoucher
from market.registry.model import Listing
from market.telemetry import SERVED, observe

log = structlog.get_logger(__name__)

_END = b"\r\n\r\n"
_CODECS_KEPT = 256
_OK = STATUS_LINE[200]
_TOO_MANY = 429
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


# A client that was refused for lack of room hears the same for so long without another look: with three times what can
# be served, looking each time would take a third of what is left for serving. Where there was room none is looked for
# again as long, since that takes a part of each request: what comes too much is then refused after it was read.
_LOOK_SECONDS = 0.02


class PlainHttp:
    """The short lane's HTTP side; one per gateway process."""

    def __init__(self, joined: GatewayRuntime, lane: EitherPlainLane) -> None:
        self._joined = joined
        self._lane = lane
        self._doorman = doorman_of(joined.rates, joined.settings)
        self._heads = Heads(joined.settings.max_body_bytes)
        self._codecs: dict[str, PlainCodec] = {}

    def begin(self, data: bytes, peer: str, common: Callable[[], bytes], done: Callable[[bytes], None]) -> bool:
        """Take a whole plain request; `done` is called later with the whole response, `common` being in each.

        Returns False where it is not plain: nothing was done then.
        """
        if len(data) > MAX_SHORT_BYTES:
            return False
        end = data.find(_END) + len(_END)
        found = self._heads.find(data, end)
        if found is None:
            return False
        head, own_voucher, request_id = found
        joined = self._joined
        try:
            listing = find_listing(joined, head.blank.model_ref)
            manifest = require_manifest(joined, listing)
            paying = self._paying(head, own_voucher, listing)
            if paying is None:
                return False
            voucher, key = paying
            started = time.monotonic()
            if started >= head.looked_until:
                self._look_for_room(head, listing, voucher)
                head.looked_until = started + _LOOK_SECONDS
            if head.refusal is not None:
                SERVED.count(Overloaded.code)
                status = STATUS_LINE[_TOO_MANY]
                response = b"".join((status, common(), head.refusal[len(status) :]))
                asyncio.get_running_loop().call_soon(done, response)
                return True
            codec = self._codecs.get(head.blank.model_ref)
            if codec is None or codec.manifest is not manifest:
                codec = self._codec(head.blank.model_ref, manifest)
            read = None if head.header_length is not None else codec.decode(data[end:])
            if read is None:
                body = decode_request(data[end:], manifest, head.header_length)
                read = body, encode_tensors(body.tensors, body.parameters)
            observe("decode", time.monotonic() - started)
        except CodedError:
            return False
        body, blob = read
        blank = head.blank
        request = InferenceRequest(
            blank.model_ref,
            body.tensors,
            voucher,
            None,
            body.parameters,
            body.outputs,
            request_id,
            blank.max_price,
            blank.worker,
            blank.region,
            blank.min_stake,
            key=key,
        )
        taken = head

        def answered(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Answer):
                SERVED.end("ok")
                done(_write(taken.blank.model_ref, codec, body, outcome, common()))
            else:
                done(self._refuse(taken.path, listing, manifest, request, outcome, common()))

        doorman = self._doorman
        admit = None if doorman is None else lambda: doorman.admit(peer, taken.forwarded)
        if not self._lane.begin(request, listing, manifest, blob, answered, admit):
            return False
        SERVED.begin()
        return True

    def _codec(self, model: str, manifest: Manifest) -> PlainCodec:
        if len(self._codecs) >= _CODECS_KEPT:
            self._codecs.clear()
        made = self._codecs[model] = PlainCodec(model, manifest)
        return made

    def _paying(
        self, head: Head, voucher: ParsedVoucher | None, listing: Listing
    ) -> tuple[ParsedVoucher, KeySpending | None] | None:
        """Return what pays for a request; None where its API key must be asked about, or refused."""
        if head.key_hash is None:
            return None if voucher is None else (voucher, None)
        names = (listing.name, hex0x(listing.model_id))
        capability = self._joined.capabilities.at_hand(head.key_hash, names)
        return None if capability is None else (capability.voucher, capability.spending)

    def _look_for_room(self, head: Head, listing: Listing, voucher: ParsedVoucher) -> None:
        """Find out whether requests are refused unread; what to answer is then in their head."""
        refusal = self._lane.no_room(listing, head.blank, voucher, by_key=head.key_hash is not None)
        head.refusal = None if refusal is None else refusal_bytes(refusal, head.path, b"")

    def _refuse(
        self,
        path: str,
        listing: Listing,
        manifest: Manifest,
        request: InferenceRequest,
        error: Exception,
        common: bytes,
    ) -> bytes:
        SERVED.end(error.code if isinstance(error, CodedError) else "internal-error")
        if isinstance(error, PaymentError):
            # Of the listing as it was: it may be gone by now, and the client must be answered all the same.
            terms = payment_terms(self._joined, listing, manifest, request.tensors, request.parameters)
            error.terms = {**terms, **error.terms}
        return refusal_bytes(error, path, common)


def _write(model: str, codec: PlainCodec, body: InferenceBody, answer: Answer, common: bytes) -> bytes:
    """Write the whole response, as `infer_http` does."""
    if not answer.repeated:
        SERVED.charge(answer.charged)
    started = time.monotonic()
    asks = body.outputs or body.id is not None or body.binary or body.binary_default or answer.parameters
    content, json_bytes = None if asks else codec.encode(answer.tensors), None
    if content is None:
        content, json_bytes = encode_answer_for(body, model, answer.tensors, answer.parameters)
    observe("encode", time.monotonic() - started)
    paper = pack_receipt(answer.receipt, answer.worker_signature, answer.gateway_signature)
    return b"".join(
        (
            _OK,
            common,
            b"content-type: application/json" if json_bytes is None else b"content-type: application/octet-stream",
            b"\r\ncontent-length: %d\r\nmarket-receipt: " % len(content),
            b2a_base64(paper, newline=False).translate(_URL_SAFE).rstrip(b"="),
            b"\r\nmarket-charged: %d\r\nmarket-cumulative: %d\r\nmarket-request-id: 0x%s\r\n"
            % (answer.charged, answer.cumulative, hexlify(answer.request_id)),
            b"market-repeated: true\r\n" if answer.repeated else b"",
            b"" if json_bytes is None else b"inference-header-content-length: %d\r\n" % json_bytes,
            b"\r\n",
            content,
        )
    )
