"""One paid inference, whatever the transport: find the model, read the tensors, run the use case, count what happened.

Decides the order of refusals and what a 402 says. It never reads a socket nor writes an answer's bytes. Called by the
HTTP path, the OpenAPI route and the gRPC service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import ceiling_units
from contracts.protocol.pricing import price_up
from contracts.protocol.tensors import Tensor
from market.aside import reading
from market.bootstrap.gateway import GatewayRuntime
from market.errors import InvalidVoucher, NoPayment, PaymentError
from market.gateway import views
from market.gateway.headers import PaymentHeaders
from market.gateway.lookup import find_answered, find_listing, require_manifest
from market.gateway.tensors_json import InferenceBody
from market.gateway.x402.counter import pay_by_x402
from market.inference.model import Answer, InferenceRequest, Partial
from market.payments.model import KeySpending, ParsedVoucher
from market.registry.model import Listing
from market.telemetry import SERVED, stage

log = structlog.get_logger(__name__)

# Decoding more than this takes longer than other requests should wait for.
_DECODE_APART_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """A checked request and its answer; `headers` tell an x402 client what became of its payment."""

    body: InferenceBody
    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer in pieces, the first at hand; `rest` must be closed when the reader is gone."""

    first: Partial | Answer
    rest: AsyncGenerator[Partial | Answer, None]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request read against its model."""

    model: str
    version: str | None
    listing: Listing
    manifest: Manifest
    body: InferenceBody
    key: KeySpending | None

    def request(
        self,
        payment: PaymentHeaders,
        voucher: ParsedVoucher | None,
        request_id: bytes | None,
        max_price: int | None,
        payer: bytes | None = None,
    ) -> InferenceRequest:
        return InferenceRequest(
            model_ref=self.model,
            version=self.version,
            tensors=self.body.tensors,
            parameters=self.body.parameters,
            requested_outputs=self.body.outputs,
            voucher=voucher,
            request_id=request_id,
            max_price=max_price,
            worker=payment.worker,
            region=payment.region,
            min_stake=payment.min_stake,
            hedge=payment.hedge,
            key=self.key,
            payer=payer,
            trace=payment.trace,
        )


async def serve(
    joined: GatewayRuntime,
    model: str,
    version: str | None,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
    path: str | None = None,
    collect: Callable[[Partial], object] | None = None,
) -> Served:
    """Run one paid inference; `decode` reads the request's `size` bytes against the model's manifest.

    `path` is the route's own, for x402; default the infer route of the Open Inference Protocol. With `collect` a
    generation is run piece by piece, so that it can be called off, and each piece shown to it.

    Raises:
        CodedError: any refusal; a PaymentError tells in `terms` what to pay to whom.
    """
    SERVED.begin()
    code = "internal-error"
    try:
        checked, payment = await _check(joined, model, version, payment, decode, size)
        served = await _serve(joined, checked, payment, path, collect)
        code = "ok"
        return served
    except CodedError as error:
        code = error.code
        raise
    finally:
        SERVED.end(code)


async def serve_stream(
    joined: GatewayRuntime,
    model: str,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
    path: str,
    collect: Callable[[Partial], object],
) -> Streamed:
    """Begin one paid generation; returns with its first piece at hand, so that refusals come before anything is sent.

    What a payment by x402 came to stands in the headers, so such a request is served whole before its first piece;
    `collect` is shown the pieces that it was made of.

    Raises:
        CodedError: any refusal; a PaymentError tells in `terms` what to pay to whom.
    """
    if _by_x402(joined, payment):
        served = await serve(joined, model, None, payment, decode, size, path, collect)
        return Streamed(served.answer, _nothing(), served.headers)
    items = _stream(joined, model, payment, decode, size)
    return Streamed(await anext(items), items)


async def _check(
    joined: GatewayRuntime,
    model: str,
    version: str | None,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
) -> tuple[_Checked, PaymentHeaders]:
    """Read a request against its model; a payment by API key becomes one by the voucher that the key stands for."""
    may_be_answered = payment.request_id is not None or _is_paid_by_x402(joined, payment)
    listing = (find_answered if may_be_answered else find_listing)(joined, model, version)
    key = None
    if payment.bearer is not None and not _by_x402(joined, payment):
        capability = await joined.capabilities.authenticate(payment.bearer, (listing.name, hex0x(listing.model_id)))
        key, payment = capability.spending, replace(payment, voucher=capability.voucher)
    manifest = require_manifest(joined, listing)
    with stage("decode"):
        body = decode(manifest) if size <= _DECODE_APART_BYTES else await reading(decode, manifest)
    return _Checked(model, version, listing, manifest, body, key), payment


async def _serve(
    joined: GatewayRuntime,
    checked: _Checked,
    payment: PaymentHeaders,
    path: str | None,
    collect: Callable[[Partial], object] | None,
) -> Served:
    listing, manifest, body = checked.listing, checked.manifest, checked.body

    def infer(
        voucher: ParsedVoucher | None, request_id: bytes | None, max_price: int | None, payer: bytes | None = None
    ) -> Awaitable[Answer]:
        request = checked.request(payment, voucher, request_id, max_price, payer)
        return joined.inference.infer(request) if collect is None else _collected(joined, request, collect)

    headers: Mapping[str, str] = {}
    try:
        if _by_x402(joined, payment):
            assert joined.x402 is not None
            paid = await pay_by_x402(
                joined, joined.x402, listing, manifest, body.tensors, body.parameters, payment, infer, path
            )
            answer, headers = paid.answer, paid.headers
        else:
            answer = await infer(payment.voucher, payment.request_id, payment.max_price)
    except PaymentError as error:
        _tell_terms(joined, checked, payment, error)
        raise
    if not answer.repeated:
        SERVED.charge(answer.charged)
    return Served(body, answer, headers)


async def _stream(
    joined: GatewayRuntime,
    model: str,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
) -> AsyncGenerator[Partial | Answer, None]:
    SERVED.begin()
    code = "client-gone"
    try:
        checked, payment = await _check(joined, model, None, payment, decode, size)
        request = checked.request(payment, payment.voucher, payment.request_id, payment.max_price)
        try:
            async with aclosing(joined.inference.stream(request)) as items:
                async for item in items:
                    if isinstance(item, Answer) and not item.repeated:
                        SERVED.charge(item.charged)
                    yield item
        except PaymentError as error:
            _tell_terms(joined, checked, payment, error)
            raise
        code = "ok"
    except CodedError as error:
        code = error.code
        raise
    except Exception:
        code = "internal-error"
        raise
    finally:
        SERVED.end(code)


async def _nothing() -> AsyncGenerator[Partial | Answer, None]:
    return
    yield


async def _collected(joined: GatewayRuntime, request: InferenceRequest, collect: Callable[[Partial], object]) -> Answer:
    async with aclosing(joined.inference.stream(request, counted=False)) as items:
        async for item in items:
            if isinstance(item, Answer):
                return item
            collect(item)
    raise AssertionError("a stream ends with its answer")  # pragma: no cover


def _by_x402(joined: GatewayRuntime, payment: PaymentHeaders) -> bool:
    if payment.voucher is not None or joined.x402 is None:
        return False
    return payment.bearer is None or (payment.x402 is not None and payment.x402.given)


def _is_paid_by_x402(joined: GatewayRuntime, payment: PaymentHeaders) -> bool:
    return payment.x402 is not None and payment.x402.given and _by_x402(joined, payment)


def _tell_terms(joined: GatewayRuntime, checked: _Checked, payment: PaymentHeaders, error: PaymentError) -> None:
    if isinstance(error, InvalidVoucher):  # a matter of form, not of money
        return
    if isinstance(error, NoPayment) and payment.other_bearer:
        error.detail = "The request carries no payment: what it sends as Authorization is no API key of this market."
    listing, body = checked.listing, checked.body
    terms = payment_terms(joined, listing, checked.manifest, body.tensors, body.parameters)
    error.terms = {**terms, **error.terms}
    log.info("payment-refused", code=error.code, model=listing.name)


def payment_terms(
    joined: GatewayRuntime,
    listing: Listing,
    manifest: Manifest,
    tensors: Sequence[Tensor],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a 402 adds: where to pay, and what each live offer asks for this request, at most."""
    units = ceiling_units(manifest, tensors, parameters)
    return {
        "gateway": checksum(joined.gateway),
        "escrow": checksum(joined.domain.escrow),
        "chainId": joined.domain.chain_id,
        "token": checksum(joined.contracts["token"]),
        "modelId": hex0x(listing.model_id),
        "offers": [
            {
                **views.quote(found),
                "price": str(price_up(found.unit_price, units, units_per_price=manifest.unit.per_price)),
            }
            for found in joined.offers.quotes(listing.model_id)
        ],
    }
