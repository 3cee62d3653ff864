"""The OpenAI API: models, embeddings, chat and text completions, responses, paid as every other route.

Routes parse, have the request served and write the answer; refusals leave in OpenAI's shape. A plain answer's headers
carry the receipt, a stream's last but one chunk does, or its last event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.responses import Response

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.pricing import Unit
from market.bootstrap.gateway import GatewayRuntime
from market.gateway.headers import REQUEST_ID, PaymentHeaders, answer_headers, read_headers
from market.gateway.infer_http import receive_body
from market.gateway.lookup import find_listing, runtime
from market.gateway.openai import schemas
from market.gateway.openai.completions import Completion
from market.gateway.openai.embeddings import embedding_answer, read_embedding
from market.gateway.openai.events import Chunks, EventStream, Form, ReaderGone, while_there
from market.gateway.openai.fields import parse_body
from market.gateway.openai.generation import GenerationCall, read_chat, read_text
from market.gateway.openai.naming import by_names_of
from market.gateway.openai.rerank import read_rerank, rerank_answer
from market.gateway.openai.response_events import ResponseEvents
from market.gateway.openai.responses import read_response
from market.gateway.openai.schemas_responses import ResponseAnswer, ResponseRequest
from market.gateway.routes_oip import PAYMENT_PARAMETERS, PROBLEMS
from market.gateway.serving import Streamed, serve, serve_stream
from market.gateway.tensors_json import InferenceBody
from market.gateway.written import written_once
from market.inference.model import Answer, Partial
from market.registry.model import Listing

router = APIRouter(prefix="/v1", tags=["OpenAI API"])
# Cohere's second client asks there.
cohere = APIRouter(prefix="/v2", tags=["OpenAI API"])
EMBEDDINGS, CHAT, TEXT = "/v1/embeddings", "/v1/chat/completions", "/v1/completions"
RESPONSES = "/v1/responses"
# For the description only: which header pays is the door's matter, as on the other routes.
_KEY = [Depends(HTTPBearer(auto_error=False, description="An API key, mk_…; or pay by Market-Voucher, or by x402."))]
# What nginx calls a request whose client left; nobody reads it.
_CLIENT_GONE = 499
_REFUSALS: dict[int | str, dict[str, Any]] = {
    402: {"model": schemas.PaymentRefusal},
    **{status: {"model": schemas.Refusal} for status in (400, 401, 403, 404, 409, 413, 429, 502, 503, 504)},
}


def _described(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"schema": model.model_json_schema()}
    return {
        "requestBody": {"required": True, "content": {"application/json": schema}},
        "parameters": PAYMENT_PARAMETERS,
    }


def _streams(described: str, last: str = "[DONE]") -> dict[int | str, dict[str, Any]]:
    stream = {"schema": {"type": "string", "description": f"Server-sent events, the last is {last}."}}
    return {**_REFUSALS, 200: {"description": described, "content": {"text/event-stream": stream}}}


@router.get("/models", response_model=schemas.ModelList)
async def models(request: Request) -> Response:
    """List the models; `ready` ones have a live worker."""
    return written_once(request, _models)


@router.get("/models/{model:path}", response_model=schemas.Model, responses={404: {"model": schemas.Refusal}})
async def model(request: Request, model: str) -> Any:
    """Describe one model, by its name or 0x model id."""
    joined = runtime(request)
    return _model(joined, find_listing(joined, model))


@router.post(
    "/embeddings",
    response_model=schemas.EmbeddingAnswer,
    responses=_REFUSALS,
    dependencies=_KEY,
    openapi_extra=_described(schemas.EmbeddingRequest),
)
async def embeddings(request: Request) -> Response:
    """Embed texts; the answer's headers carry the receipt signed by worker and gateway."""
    return await _answer(request, read_embedding, embedding_answer, EMBEDDINGS)


@cohere.post(
    "/rerank",
    response_model=schemas.RerankAnswer,
    responses=PROBLEMS,
    dependencies=_KEY,
    openapi_extra=_described(schemas.RerankRequest),
)
@router.post(
    "/rerank",
    response_model=schemas.RerankAnswer,
    responses=_REFUSALS,
    dependencies=_KEY,
    openapi_extra=_described(schemas.RerankRequest),
)
async def rerank(request: Request) -> Response:
    """Order documents by how well they answer a query; the answer's headers carry the receipt, as all here."""
    return await _answer(request, read_rerank, rerank_answer, request.url.path)


@router.post(
    "/chat/completions",
    response_model=schemas.ChatAnswer,
    responses=_streams("The message; with `stream`, chunks of it."),
    dependencies=_KEY,
    openapi_extra=_described(schemas.ChatRequest),
)
async def chat_completions(request: Request) -> Response:
    """Go on with a chat. Only what is served is charged: a stream that its reader leaves costs what was sent."""
    joined = runtime(request)
    body, payment = await _read(joined, request)
    call = read_chat(parse_body(body))
    return await _complete(joined, request, call, Completion(call), Chunks(), payment, len(body), CHAT)


@router.post(
    "/responses",
    response_model=ResponseAnswer,
    responses=_streams("The response; with `stream`, its events.", "response.completed or response.incomplete"),
    dependencies=_KEY,
    openapi_extra=_described(ResponseRequest),
)
async def responses(request: Request) -> Response:
    """Answer what the request brings; nothing is stored. Only what is served is charged, as of chats."""
    joined = runtime(request)
    body, payment = await _read(joined, request)
    call = read_response(parse_body(body))
    written = ResponseEvents(call)
    return await _complete(joined, request, call.chat, written, written, payment, len(body), RESPONSES)


@router.post(
    "/completions",
    response_model=schemas.TextAnswer,
    responses=_streams("The text; with `stream`, chunks of it."),
    dependencies=_KEY,
    openapi_extra=_described(schemas.TextRequest),
)
async def completions(request: Request) -> Response:
    """Go on with a text. Only what is served is charged: a stream that its reader leaves costs what was sent."""
    joined = runtime(request)
    body, payment = await _read(joined, request)
    call = read_text(parse_body(body))
    return await _complete(joined, request, call, Completion(call), Chunks(), payment, len(body), TEXT)


async def _read(joined: GatewayRuntime, request: Request) -> tuple[bytes, PaymentHeaders]:
    payment = read_headers(request.headers)
    return await receive_body(joined, request.headers, request.receive), payment


class _Call(Protocol):
    """A checked request of a route."""

    @property
    def model(self) -> str:
        """The model that it names."""

    @property
    def names(self) -> Mapping[str, str]:
        """What of it a worker is sent under which other name."""

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model."""


_C = TypeVar("_C", bound=_Call)


async def _answer(
    request: Request,
    read: Callable[[Mapping[str, Any]], _C],
    write: Callable[[_C, Answer], Mapping[str, Any]],
    path: str,
) -> Response:
    """Serve a request of a route that streams nothing."""
    joined = runtime(request)
    body, payment = await _read(joined, request)
    call = read(parse_body(body))
    with by_names_of(call.names):
        served = await serve(joined, call.model, None, payment, call.decode, len(body), path)
    return _answered(write(call, served.answer), served.answer, served.headers)


class _Written(Protocol):
    """How a generation's pieces and its answer are written."""

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model."""

    def collect(self, piece: Partial) -> None:
        """Keep a piece, for the texts of single tokens."""

    def piece(self, piece: Partial) -> list[dict[str, Any]]:
        """Return what brings a piece."""

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """Return what ends a stream."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the answer's JSON."""


async def _complete(
    joined: GatewayRuntime,
    request: Request,
    call: GenerationCall,
    completion: _Written,
    form: Form,
    payment: PaymentHeaders,
    size: int,
    path: str,
) -> Response:
    try:
        with by_names_of(call.names):
            if call.stream:
                begun = serve_stream(joined, call.model, payment, completion.decode, size, path, completion.collect)
                streamed: Streamed = await while_there(request.receive, begun)
                named = {REQUEST_ID: hex0x(streamed.first.request_id), **streamed.headers}
                return EventStream(_events(call, completion, streamed), named, form)
            decode, collect = completion.decode, completion.collect
            whole = serve(joined, call.model, None, payment, decode, size, path, collect=collect)
            served = await while_there(request.receive, whole)
    except ReaderGone:
        return Response(status_code=_CLIENT_GONE)
    return _answered(completion.whole(served.answer), served.answer, served.headers)


async def _events(
    call: GenerationCall, completion: _Written, streamed: Streamed
) -> AsyncGenerator[list[dict[str, Any]], None]:
    with by_names_of(call.names):
        async with aclosing(streamed.rest) as rest:
            item = streamed.first
            while not isinstance(item, Answer):
                # Also where a piece brings no whole character: asking for the next says that this one was sent.
                yield completion.piece(item)
                item = await anext(rest)
            yield completion.last(item)


def _answered(body: Mapping[str, Any], answer: Answer, headers: Mapping[str, str]) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json", headers={**answer_headers(answer), **headers})


def _models(joined: GatewayRuntime) -> bytes:
    listed = [_model(joined, found) for found in joined.registry.listings() if found.active]
    return orjson.dumps({"object": "list", "data": listed})


def _model(joined: GatewayRuntime, found: Listing) -> dict[str, Any]:
    manifest = joined.offers.manifest(found.model_id)
    prices = [offer.unit_price for offer in joined.offers.quotes(found.model_id)]
    return {
        "id": found.name,
        "object": "model",
        "created": 0,
        "owned_by": checksum(found.owner),
        "task": None if manifest is None else manifest.task,
        "tool_calls": manifest is not None and manifest.tool_format is not None,
        "unit": Unit(found.unit).name.lower(),
        "price": str(min(prices)) if prices else None,
        "ready": bool(prices),
    }
