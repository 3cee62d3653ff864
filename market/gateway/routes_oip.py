"""Open Inference Protocol v2: server and model metadata, health, paid inference.

Routes parse, call the use case and write the answer; every refusal is raised and mapped in `problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as package_version
from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.pricing import count_units, price_up
from contracts.protocol.tensors import Tensor
from market.bootstrap import GatewayRuntime
from market.errors import PaymentError
from market.gateway import schemas, views
from market.gateway.body import read_body
from market.gateway.headers import answer_headers, read_headers
from market.gateway.lookup import find_listing, require_manifest, runtime
from market.gateway.problems import problem_response, status_of
from market.gateway.tensors_json import HEADER_LENGTH, decode_request, encode_answer_for
from market.inference.model import InferenceRequest
from market.registry.model import Listing
from market.telemetry import CHARGED_UNITS, IN_FLIGHT, REQUESTS, stage

router = APIRouter(tags=["Open Inference Protocol v2"])
log = structlog.get_logger(__name__)

_INFER_DOCS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.InferRequest.model_json_schema()}},
    },
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
        for name, description in (
            ("Market-Voucher", "<channel id>;<cumulative>;<signature>: what pays for the request."),
            ("Market-Request-Id", "0x and 32 bytes; the same id is charged once."),
            ("Market-Max-Price", "Highest price accepted, atomic token units."),
            ("Market-Worker", "Address of the only worker accepted."),
        )
    ],
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    402: {"model": schemas.PaymentRequired},
    **{status: {"model": schemas.Problem} for status in (400, 404, 409, 413, 429, 502, 503, 504)},
}


@router.get("/v2", response_model=schemas.ServerMetadata)
async def server_metadata() -> Any:
    """Name the server and its extensions."""
    return {
        "name": "inference-market",
        "version": package_version("inference-market"),
        "extensions": ["binary_tensor_data", "market"],
    }


@router.get("/v2/health/live")
async def live() -> Any:
    """Say that the process answers."""
    return {"live": True}


@router.get("/v2/health/ready")
async def ready(request: Request) -> Response:
    """Say whether the chain is indexed and at least one worker is live; 503 if not."""
    joined = runtime(request)
    fresh = joined.registry.cursor() is not None
    return JSONResponse({"ready": fresh}, status_code=200 if fresh else 503)


@router.get("/v2/models/{model}", response_model=schemas.ModelMetadata)
@router.get("/v2/models/{model}/versions/{version}", response_model=schemas.ModelMetadata)
async def model_metadata(request: Request, model: str, version: str | None = None) -> Any:
    """Describe a model's inputs and outputs."""
    joined = runtime(request)
    listing = find_listing(joined, model, version)
    return views.model_metadata(listing.name, require_manifest(joined, listing))


@router.get("/v2/models/{model}/ready")
@router.get("/v2/models/{model}/versions/{version}/ready")
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Say whether a live worker offers the model; 503 if none does, 404 if it is not listed."""
    joined = runtime(request)
    listing = find_listing(joined, model, version)
    offered = bool(joined.offers.quotes(listing.model_id))
    return JSONResponse({"name": listing.name, "ready": offered}, status_code=200 if offered else 503)


@router.post(
    "/v2/models/{model}/infer", response_model=schemas.InferAnswer, responses=_REFUSALS, openapi_extra=_INFER_DOCS
)
@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_model=schemas.InferAnswer,
    responses=_REFUSALS,
    openapi_extra=_INFER_DOCS,
)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Run one paid inference; the answer's headers carry the receipt signed by worker and gateway."""
    joined = runtime(request)
    IN_FLIGHT.inc()
    code = "internal-error"
    try:
        response, code = await _infer(joined, request, model, version)
        return response
    except CodedError as error:
        code = error.code
        raise
    finally:
        IN_FLIGHT.dec()
        REQUESTS.labels(code).inc()


async def _infer(joined: GatewayRuntime, request: Request, model: str, version: str | None) -> tuple[Response, str]:
    settings = joined.settings
    listing = find_listing(joined, model, version)
    headers = read_headers(request.headers)
    body = await read_body(request, max_bytes=settings.max_body_bytes, timeout_seconds=settings.body_timeout_seconds)
    manifest = require_manifest(joined, listing)
    with stage("decode"):
        decoded = decode_request(body, manifest, request.headers.get(HEADER_LENGTH))
    try:
        answer = await joined.inference.infer(
            InferenceRequest(
                model_ref=model,
                version=version,
                tensors=decoded.tensors,
                parameters=decoded.parameters,
                requested_outputs=decoded.outputs,
                voucher=headers.voucher,
                request_id=headers.request_id,
                max_price=headers.max_price,
                worker=headers.worker,
            )
        )
    except PaymentError as error:
        if status_of(type(error)) != 402:
            raise
        log.info("payment-refused", code=error.code, model=listing.name)
        return problem_response(error, extra=payment_terms(joined, listing, manifest, decoded.tensors)), error.code
    with stage("encode"):
        content, json_bytes = encode_answer_for(decoded, model, answer.tensors, answer.parameters)
    paid = answer_headers(answer)
    media_type = "application/json"
    if json_bytes is not None:
        paid[HEADER_LENGTH] = str(json_bytes)
        media_type = "application/octet-stream"
    CHARGED_UNITS.inc(0 if answer.repeated else answer.charged)
    return Response(content, media_type=media_type, headers=paid), "ok"


def payment_terms(
    joined: GatewayRuntime, listing: Listing, manifest: Manifest, tensors: Sequence[Tensor]
) -> dict[str, Any]:
    """Return what a 402 adds: where to pay, and what each live offer asks for this request."""
    units = count_units(manifest.unit, tensors, manifest.batch_axis)
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
