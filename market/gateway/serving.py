"""One paid inference, whatever the transport: find the model, read the tensors, run the use case, count what happened.

Decides the order of refusals and what a 402 says. It never reads a socket nor writes an answer's bytes. Called by the
HTTP path, the OpenAPI route and the gRPC service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import ceiling_units
from contracts.protocol.pricing import price_up
from contracts.protocol.tensors import Tensor
from market.bootstrap import GatewayRuntime
from market.errors import InvalidVoucher, PaymentError
from market.gateway import views
from market.gateway.headers import PaymentHeaders
from market.gateway.lookup import find_listing, require_manifest
from market.gateway.tensors_json import InferenceBody
from market.gateway.x402.counter import pay_by_x402
from market.inference.model import Answer, InferenceRequest
from market.payments.model import ParsedVoucher
from market.registry.model import Listing
from market.telemetry import CHARGED_UNITS, IN_FLIGHT, requests_by, stage

log = structlog.get_logger(__name__)

# Decoding more than this takes longer than other requests should wait for.
_DECODE_APART_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """A checked request and its answer; `headers` tell an x402 client what became of its payment."""

    body: InferenceBody
    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)


async def serve(
    joined: GatewayRuntime,
    model: str,
    version: str | None,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
    path: str | None = None,
) -> Served:
    """Run one paid inference; `decode` reads the request's `size` bytes against the model's manifest.

    `path` is the route's own, for x402; default the infer route of the Open Inference Protocol.

    Raises:
        CodedError: any refusal; a PaymentError tells in `terms` what to pay to whom.
    """
    IN_FLIGHT.inc()
    code = "internal-error"
    try:
        served = await _serve(joined, model, version, payment, decode, size, path)
        code = "ok"
        return served
    except CodedError as error:
        code = error.code
        raise
    finally:
        IN_FLIGHT.dec()
        requests_by(code).inc()


async def _serve(
    joined: GatewayRuntime,
    model: str,
    version: str | None,
    payment: PaymentHeaders,
    decode: Callable[[Manifest], InferenceBody],
    size: int,
    path: str | None,
) -> Served:
    listing = find_listing(joined, model, version)
    manifest = require_manifest(joined, listing)
    with stage("decode"):
        body = decode(manifest) if size <= _DECODE_APART_BYTES else await asyncio.to_thread(decode, manifest)

    def infer(voucher: ParsedVoucher | None, request_id: bytes | None, max_price: int | None) -> Awaitable[Answer]:
        return joined.inference.infer(
            InferenceRequest(
                model_ref=model,
                version=version,
                tensors=body.tensors,
                parameters=body.parameters,
                requested_outputs=body.outputs,
                voucher=voucher,
                request_id=request_id,
                max_price=max_price,
                worker=payment.worker,
            )
        )

    headers: Mapping[str, str] = {}
    try:
        if payment.voucher is None and joined.x402 is not None:
            paid = await pay_by_x402(
                joined, joined.x402, listing, manifest, body.tensors, body.parameters, payment, infer, path
            )
            answer, headers = paid.answer, paid.headers
        else:
            answer = await infer(payment.voucher, payment.request_id, payment.max_price)
    except PaymentError as error:
        if isinstance(error, InvalidVoucher):  # a matter of form, not of money
            raise
        error.terms = {**payment_terms(joined, listing, manifest, body.tensors, body.parameters), **error.terms}
        log.info("payment-refused", code=error.code, model=listing.name)
        raise
    if not answer.repeated:
        CHARGED_UNITS.inc(answer.charged)
    return Served(body, answer, headers)


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
            {**views.quote(found), "price": str(price_up(found.unit_price, units))}
            for found in joined.offers.quotes(listing.model_id)
        ],
    }
