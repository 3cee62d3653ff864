"""GRPCInferenceService: each call in, one checked answer or one coded refusal out.

Decides the gRPC status of each refusal, from its HTTP status, and how many requests of one stream run at once. Built
by `market.gateway.grpc.server`; the work is done by the handler that HTTP uses too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version as package_version
from typing import Any
from urllib.parse import unquote

import grpc
import orjson
import structlog
from google.protobuf.message import DecodeError

from contracts.protocol.errors import CodedError
from market.bootstrap.gateway import GatewayRuntime
from market.errors import CapacityError, InvalidRequest, NoRoute
from market.gateway import views
from market.gateway.doorman import admitted, doorman_of, forwarded_for
from market.gateway.grpc import messages
from market.gateway.grpc.codec import decode, encode, parse, read_payment
from market.gateway.headers import answer_headers
from market.gateway.lookup import find_listing, require_manifest
from market.gateway.problems import InternalError, problem_body
from market.gateway.serving import serve

log = structlog.get_logger(__name__)

STREAM_IN_FLIGHT = 16
# A stream in which nothing runs and nothing comes holds one of the calls that are taken at once.
STREAM_IDLE_SECONDS = 300.0
EXTENSIONS = ("model_repository", "market")
OFFERED = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "RepositoryIndex",
    "ModelInfer",
    "ModelStreamInfer",
)
# Metadata beyond 8 KiB makes some clients drop the whole call, and what a refusal repeats may be long. A byte of the
# status' text travels as up to three, one of the problem as up to 4/3.
_MAX_PROBLEM_BYTES = 4_096
_MAX_TEXT_BYTES = 512

_Caller = tuple[str, str | None]
_Code = grpc.StatusCode
_STATUS: Mapping[int, grpc.StatusCode] = {
    400: _Code.INVALID_ARGUMENT,
    401: _Code.UNAUTHENTICATED,
    402: _Code.FAILED_PRECONDITION,
    403: _Code.PERMISSION_DENIED,
    404: _Code.NOT_FOUND,
    409: _Code.ABORTED,
    413: _Code.INVALID_ARGUMENT,
    429: _Code.RESOURCE_EXHAUSTED,
    500: _Code.INTERNAL,
    502: _Code.UNAVAILABLE,
    503: _Code.UNAVAILABLE,
    504: _Code.DEADLINE_EXCEEDED,
}


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The service's methods; calls that other servers of the protocol offer are refused by name, as every refusal."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        self._methods = {f"/{messages.SERVICE}/{name}": handler for name, handler in methods.items()}
        self._none = grpc.unary_unary_rpc_method_handler(_not_offered)

    def service(self, handler_call_details: Any) -> Any:
        """Return the method's handler, None for another service's method."""
        method: str = handler_call_details.method
        known = self._methods.get(method)
        return self._none if known is None and method.startswith(f"/{messages.SERVICE}/") else known


async def _not_offered(_: bytes, context: Any) -> None:
    refused = NoRoute("this call is not offered.", remedy=f"Calls that are: {', '.join(OFFERED)}.")
    await _abort(context, refused, _Code.UNIMPLEMENTED)


class InferenceServicer:
    """The methods of the service, on one runtime."""

    def __init__(self, joined: GatewayRuntime) -> None:
        self._joined = joined
        self._doorman = doorman_of(joined.rates, joined.settings)
        self._version = package_version("inference-market")
        self._calls: Counter[str] = Counter()
        # As newest written, of all models and of those that are ready: each view of the offers has its own.
        self._indexes: dict[bool, tuple[object, Any]] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers; they parse requests themselves, so that bad bytes are the caller's error."""
        m = messages
        unary: dict[str, tuple[Any, Callable[[Any], Awaitable[Any]]]] = {
            "ServerLive": (m.ServerLiveRequest, self._live),
            "ServerReady": (m.ServerReadyRequest, self._ready),
            "ModelReady": (m.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (m.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": (m.ModelMetadataRequest, self._model_metadata),
            "RepositoryIndex": (m.RepositoryIndexRequest, self._index),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(self._plain(request, answer), response_serializer=_serialize)
            for name, (request, answer) in unary.items()
        }
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer, response_serializer=_serialize)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, response_serializer=_serialize
        )
        return _Handlers(methods)

    # --- health and metadata ----------------------------------------------------------------------------------

    async def _live(self, _: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _ready(self, _: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._joined.registry.cursor() is not None)

    async def _model_ready(self, request: Any) -> Any:
        listing = find_listing(self._joined, request.name, request.version or None)
        return messages.ModelReadyResponse(ready=bool(self._joined.offers.quotes(listing.model_id)))

    async def _server_metadata(self, _: Any) -> Any:
        return messages.ServerMetadataResponse(name="inference-market", version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Any) -> Any:
        listing = find_listing(self._joined, request.name, request.version or None)
        return messages.ModelMetadataResponse(
            **views.model_metadata(listing.name, require_manifest(self._joined, listing))
        )

    async def _index(self, request: Any) -> Any:
        joined = self._joined
        view = joined.offers.view
        known = self._indexes.get(request.ready)
        if known is None or known[0] is not view:
            rows = views.model_index(joined.registry.listings(), joined.offers.quotes, ready_only=request.ready)
            known = self._indexes[request.ready] = view, messages.RepositoryIndexResponse(models=rows)
        return known[1]

    # --- inference --------------------------------------------------------------------------------------------

    async def _infer(self, data: bytes, context: Any) -> Any:
        try:
            self._begin(context)
            message, headers = await self._run(data, _metadata(context), _caller(context))
        except CodedError as error:
            await _abort(context, error)
        except Exception as error:  # the last place to turn a fault into an answer
            log.exception("internal-error", method="ModelInfer")
            await _abort(context, _internal(error))
        context.set_trailing_metadata([(name.lower(), text) for name, text in headers.items()])
        return message

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answer in the order of the requests, several of them running at once; a refusal ends only its request."""
        try:
            self._begin(context)
        except CodedError as error:
            await _abort(context, error)
        metadata, caller = _metadata(context), _caller(context)
        slots = asyncio.Semaphore(STREAM_IN_FLIGHT)
        started: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        running: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for data in requests:
                    await slots.acquire()
                    task = asyncio.create_task(self._streamed(data, metadata, caller))
                    running.add(task)
                    started.put_nowait(task)
            finally:
                started.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await _next(started, context)) is not None:
                answer = await task
                running.discard(task)
                slots.release()
                yield answer
            await reader
        finally:
            # The client may be gone: what still runs is given up, and its money given back.
            for left in (reader, *running):
                left.cancel()
            await asyncio.gather(reader, *running, return_exceptions=True)

    async def _streamed(self, data: bytes, metadata: Mapping[str, str], caller: _Caller) -> Any:
        answer = messages.ModelStreamInferResponse()
        try:
            message, _ = await self._run(data, metadata, caller)
            messages.fill_parameters(message.parameters, {"triton_final_response": True})
            answer.infer_response.CopyFrom(message)
        except CodedError as error:
            _refuse_in(answer, error, data)
        except Exception as error:  # the last place to turn a fault into an answer
            log.exception("internal-error", method="ModelStreamInfer")
            _refuse_in(answer, _internal(error), data)
        return answer

    async def _run(self, data: bytes, metadata: Mapping[str, str], caller: _Caller) -> tuple[Any, dict[str, str]]:
        await self._admit(caller)
        message = parse(data)
        payment = read_payment(message, metadata)
        served = await serve(
            self._joined,
            message.model_name,
            message.model_version or None,
            payment,
            lambda manifest: decode(message, manifest),
            len(data),
        )
        return encode(served, message.model_name), answer_headers(served.answer)

    def _plain(self, request: Any, answer: Callable[[Any], Awaitable[Any]]) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def call(data: bytes, context: Any) -> Any:
            try:
                self._begin(context)
                await self._admit(_caller(context))
                try:
                    message = request.FromString(data)
                except DecodeError as error:
                    raise InvalidRequest("the message cannot be read.", field="message") from error
                return await answer(message)
            except CodedError as error:
                await _abort(context, error)

        return call

    def _begin(self, context: Any) -> None:
        """Count a call of an address until it is over, its answer read: a client's window may be shut for ever.

        Raises:
            CapacityError: the address has its share of calls under way.
        """
        most = self._joined.settings.max_connections_by_address
        if not most:
            return
        address, _ = _caller(context)
        if self._calls[address] >= most:
            raise CapacityError(
                f"{most} calls of {address} are under way.", remedy="Read the answers, or wait for those under way."
            )
        self._calls[address] += 1
        context.add_done_callback(lambda _: self._over(address))

    def _over(self, address: str) -> None:
        self._calls[address] -= 1
        if not self._calls[address]:
            del self._calls[address]

    async def _admit(self, caller: _Caller) -> None:
        if self._doorman is not None:
            await admitted(self._doorman, *caller)


async def _next(started: asyncio.Queue[asyncio.Task[Any] | None], context: Any) -> asyncio.Task[Any] | None:
    """Return a stream's next request under way, None at its end; ends one that rests for too long."""
    try:
        async with asyncio.timeout(STREAM_IDLE_SECONDS):
            return await started.get()
    except TimeoutError:
        rests = InvalidRequest(
            f"nothing came for {STREAM_IDLE_SECONDS:g} s.",
            field="stream",
            remedy="Open another when there is a request.",
        )
        await _abort(context, rests, _Code.DEADLINE_EXCEEDED)
        raise


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _caller(context: Any) -> _Caller:
    """Return the address in gRPC's `ipv4:192.0.2.1:50312` or `ipv6:%5B::1%5D:50312`, and for whom it says to speak."""
    address = unquote(context.peer().partition(":")[2].rpartition(":")[0]).strip("[]")
    return address, forwarded_for(context.invocation_metadata() or ())


def _internal(error: Exception) -> CodedError:
    internal = InternalError("the gateway failed.", remedy="Tell the operator the time of this answer.")
    internal.__cause__ = error
    return internal


async def _abort(context: Any, error: CodedError, status: grpc.StatusCode | None = None) -> None:
    body = problem_body(error)
    problem = orjson.dumps(body)
    if len(problem) > _MAX_PROBLEM_BYTES:
        body.pop("offers", None)
        body.update({name: _cut(body[name]) for name in ("detail", "error")})
        problem = orjson.dumps(body)
    trailing = [("market-code", error.code), ("market-retry", str(error.retry)), ("market-problem-bin", problem)]
    status = status or _STATUS.get(body["status"], _Code.UNKNOWN)
    await context.abort(status, _cut(_text(error)), tuple(trailing))


def _refuse_in(answer: Any, error: CodedError, data: bytes) -> None:
    answer.error_message = _text(error)
    try:
        answer.infer_response.id = parse(data).id
    except InvalidRequest:
        return
    parameters = {"market_code": error.code, "market_retry": str(error.retry), "triton_final_response": True}
    messages.fill_parameters(answer.infer_response.parameters, parameters)


def _text(error: CodedError) -> str:
    return f"[{error.code}] {error}"


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= _MAX_TEXT_BYTES else data[: _MAX_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."
