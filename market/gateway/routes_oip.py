"""Open Inference Protocol v2: server and model metadata, health, paid inference.

Routes parse, call the use case and write the answer; every refusal is raised and mapped in `problems`.
"""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Any

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse, Response

from market.bootstrap.gateway import GatewayRuntime
from market.errors import InvalidRequest
from market.gateway import schemas, views
from market.gateway.body import read_body
from market.gateway.infer_http import receive_body, respond
from market.gateway.lookup import find_listing, require_manifest, runtime
from market.gateway.tensors_json import HEADER_LENGTH, parse_json
from market.gateway.written import as_json, written_once

router = APIRouter(tags=["Open Inference Protocol v2"])
_INDEX_BODY_BYTES = 4_096
_INDEX = TypeAdapter(list[schemas.ModelIndex])


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}


PAYMENT_PARAMETERS = [
    _header(
        "Market-Voucher",
        "<channel id>;<cumulative>;<signature>: what pays; and ;<access> where the channel asks for it.",
    ),
    _header("Market-Request-Id", "0x and 32 bytes; the same id is charged once."),
    _header("Market-Max-Price", "Highest price accepted, atomic token units."),
    _header("Market-Worker", "Address of the only worker accepted."),
    _header("Market-Hedge", "`true`: a second worker may be asked when the first is late; one is paid."),
    _header("Market-Region", "Region of the worker: `eu` takes `eu` and all that begin with `eu-`."),
    _header("Market-Min-Stake", "Least stake of the worker, atomic token units."),
]
_INFER_DOCS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.InferRequest.model_json_schema()},
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary", "description": "The JSON, then raw tensor data."}
            },
        },
    },
    "parameters": [
        *PAYMENT_PARAMETERS,
        _header(HEADER_LENGTH, "Bytes of JSON at the start of the body, where raw tensor data follow; 0: all is data."),
    ],
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    402: {"model": schemas.PaymentRequired},
    **{status: {"model": schemas.Problem} for status in (400, 404, 409, 413, 429, 502, 503, 504)},
}


@router.get("/v2", response_model=schemas.ServerMetadata)
async def server_metadata() -> Any:
    """Name the server and its extensions."""
    return {
        "name": "inference-market",
        "version": package_version("inference-market"),
        "extensions": ["binary_tensor_data", "model_repository", "market"],
    }


@router.get("/v2/health/live")
async def live() -> Any:
    """Say that the process answers."""
    return {"live": True}


@router.get("/v2/health/ready")
async def ready(request: Request) -> Response:
    """Say whether the chain has been read, so that channels and models are known; 503 if not."""
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


@router.post("/v2/repository/index", response_model=list[schemas.ModelIndex])
async def repository_index(request: Request) -> Any:
    """List the models; `{"ready": true}` in the body leaves out those that no live worker offers."""
    joined = runtime(request)
    timeout_seconds = joined.settings.body_timeout_seconds
    body = await read_body(
        request.headers, request.receive, max_bytes=_INDEX_BODY_BYTES, timeout_seconds=timeout_seconds
    )
    ready_only = parse_json(body).get("ready", False) if body.strip() else False
    if not isinstance(ready_only, bool):
        raise InvalidRequest("expected true or false.", field="ready")

    def write(joined: GatewayRuntime) -> bytes:
        rows = views.model_index(joined.registry.listings(), joined.offers.quotes, ready_only=ready_only)
        return as_json(_INDEX, rows)

    return written_once(request, write, "ready" if ready_only else "")


@router.post(
    "/v2/models/{model}/infer", response_model=schemas.InferAnswer, responses=PROBLEMS, openapi_extra=_INFER_DOCS
)
@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_model=schemas.InferAnswer,
    responses=PROBLEMS,
    openapi_extra=_INFER_DOCS,
)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Run one paid inference; the answer's headers carry the receipt signed by worker and gateway."""
    joined = runtime(request)
    body = await receive_body(joined, request.headers, request.receive)
    return (await respond(joined, model, version, request.headers, body)).response()
