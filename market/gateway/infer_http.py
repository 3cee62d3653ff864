"""The hot path: `POST /v2/models/{model}[/versions/{version}]/infer`, served in front of the application.

Decides nothing that the route does not: all ways call `respond`, so the OpenAPI description holds for each. It exists
because routing, dependency solving and response objects cost more than a small model. Called by the server, by its
connections and by `routes_oip`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from contracts.protocol.errors import CodedError
from market.bootstrap.gateway import GatewayRuntime
from market.gateway.body import pack_content, read_body, wanted_encoding
from market.gateway.connection import WholeRequest
from market.gateway.doorman import FORWARDED_FOR, admitted, doorman_of, forwarded_for
from market.gateway.headers import answer_headers, plain_headers, read_headers
from market.gateway.problems import internal_response, problem_response, response_bytes, status_of
from market.gateway.serving import serve
from market.gateway.tensors_json import HEADER_LENGTH, decode_request, encode_answer_for
from market.telemetry import stage

if TYPE_CHECKING:
    from market.gateway.plain_http import PlainHttp

log = structlog.get_logger(__name__)

_PREFIX = "/v2/models/"
_SUFFIX = "/infer"
_HEADER_LENGTH = HEADER_LENGTH.lower()
_JSON = "application/json"
_BINARY = "application/octet-stream"
_OK = STATUS_LINE[200]


class Answered:
    """An answer before it is written: its headers by lower-case name, and its content."""

    __slots__ = ("content", "headers")

    def __init__(self, content: bytes, paid: Mapping[str, str], media_type: str) -> None:
        self.content = content
        self.headers = {
            "content-type": media_type,
            "content-length": str(len(content)),
            **{name.lower(): value for name, value in paid.items()},
        }

    def response(self) -> Response:
        """Return it as the application's routes answer."""
        return Response(self.content, headers=self.headers)

    def to_bytes(self, common: bytes) -> bytes:
        """Write it as a whole HTTP response; `common` are header lines that every response has."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return b"".join((_OK, common, lines.encode("latin-1"), b"\r\n", self.content))


class InferPath:
    """Serves the infer routes: as ASGI in front of the application, and for requests that the connection read whole."""

    def __init__(self, app: ASGIApp, joined: GatewayRuntime, plain: PlainHttp | None = None) -> None:
        self._app = app
        self._joined = joined
        self._doorman = doorman_of(joined.rates, joined.settings)
        self._plain = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if self._doorman is not None and scope["type"] == "http":
            try:
                peer = scope.get("client")
                await admitted(self._doorman, "" if peer is None else peer[0], forwarded_for(scope["headers"]))
            except CodedError as error:
                await refuse(error, scope["path"])(scope, receive, send)
                return
        route = _route(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        answerer = self._app if route is None else await self._respond(route, scope, receive)
        await answerer(scope, receive, send)

    async def _respond(self, route: tuple[str, str | None], scope: Scope, receive: Receive) -> Response:
        try:
            headers = plain_headers(scope["headers"])
            body = await receive_body(self._joined, headers, receive)
            return (await respond(self._joined, *route, headers, body)).response()
        except Exception as error:
            return _refusal(error, scope["path"])

    async def answer(self, request: WholeRequest, common: bytes, peer: str) -> bytes | None:
        """See `ShortWay.answer`."""
        route = _route(request.path)
        if route is None or len(request.body) > self._joined.settings.max_body_bytes:
            return None
        try:
            if self._doorman is not None:
                await admitted(self._doorman, peer, request.headers.get(FORWARDED_FOR))
            return (await respond(self._joined, *route, request.headers, request.body)).to_bytes(common)
        except Exception as error:
            return refusal_bytes(error, request.path, common)

    def begin(self, data: bytes, peer: str, common: Callable[[], bytes], done: Callable[[bytes], None]) -> bool:
        """See `ShortWay.begin`."""
        return self._plain is not None and self._plain.begin(data, peer, common, done)


def _route(path: str) -> tuple[str, str | None] | None:
    """Return model and version of an infer path."""
    if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
        match path[len(_PREFIX) : -len(_SUFFIX)].split("/"):
            case [model]:
                return model, None
            case [model, "versions", version]:
                return model, version
    return None


def _refusal(error: Exception, path: str) -> Response:
    """Turn whatever went wrong into an answer; the last place to do so."""
    if isinstance(error, CodedError):
        return refuse(error, path)
    log.error("internal-error", path=path, exc_info=error)
    return internal_response()


def refusal_bytes(error: Exception, path: str, common: bytes) -> bytes:
    """Write the whole HTTP response to whatever went wrong; `common` are header lines that every response has."""
    return response_bytes(_refusal(error, path), common)


async def receive_body(joined: GatewayRuntime, headers: Mapping[str, str], receive: Receive) -> bytes:
    """Read a request's body within the operator's limits.

    Raises:
        CodedError: too large, too slow, cut off, or compressed in an unknown way.
    """
    settings = joined.settings
    return await read_body(
        headers, receive, max_bytes=settings.max_body_bytes, timeout_seconds=settings.body_timeout_seconds
    )


async def respond(
    joined: GatewayRuntime, model: str, version: str | None, headers: Mapping[str, str], body: bytes
) -> Answered:
    """Serve a request and write the answer; its headers carry the receipt signed by worker and gateway.

    Raises:
        CodedError: any refusal.
    """
    payment = read_headers(headers)
    length = headers.get(_HEADER_LENGTH)
    served = await serve(
        joined, model, version, payment, lambda manifest: decode_request(body, manifest, length), len(body)
    )
    answer = served.answer
    with stage("encode"):
        content, json_bytes = encode_answer_for(served.body, model, answer.tensors, answer.parameters)
    paid = {**answer_headers(answer), **served.headers}
    if json_bytes is not None:
        paid[HEADER_LENGTH] = str(json_bytes)
    encoding = wanted_encoding(headers)
    if encoding is not None:
        packed = await pack_content(content, encoding)
        if packed is not None:
            content = packed
            paid |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Answered(content, paid, _JSON if json_bytes is None else _BINARY)


def refuse(error: CodedError, path: str) -> Response:
    """Turn a refusal into its response; faults of the operator's side are logged."""
    if status_of(type(error)) >= 500:
        log.warning("request-failed", code=error.code, detail=error.detail, path=path)
    return problem_response(error)
