"""The hot path: `POST /v2/models/{model}[/versions/{version}]/infer`, served as raw ASGI in front of the application.

Decides nothing that the route does not: both call `respond`, so the OpenAPI description holds for either. It exists
because routing, dependency solving and response objects cost more than a small model. Called by the server and by
`routes_oip`.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.protocol.errors import CodedError
from market.bootstrap import GatewayRuntime
from market.gateway.body import read_body
from market.gateway.headers import answer_headers, plain_headers, read_headers
from market.gateway.problems import internal_response, problem_response, status_of
from market.gateway.serving import serve
from market.gateway.tensors_json import HEADER_LENGTH, decode_request, encode_answer_for
from market.telemetry import stage

log = structlog.get_logger(__name__)

_PREFIX = "/v2/models/"
_SUFFIX = "/infer"
_HEADER_LENGTH = HEADER_LENGTH.lower()
_JSON = b"application/json"
_BINARY = b"application/octet-stream"


class Answered:
    """An answer as ASGI, without what a response object does for others: cookies, charsets, background tasks."""

    __slots__ = ("_content", "_headers")

    def __init__(self, content: bytes, paid: Mapping[str, str], media_type: bytes) -> None:
        self._content = content
        self._headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(content)),
            *((name.lower().encode(), value.encode()) for name, value in paid.items()),
        ]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._content})

    def response(self) -> Response:
        """Return it as the application's routes answer."""
        headers = {name.decode(): value.decode() for name, value in self._headers}
        return Response(self._content, headers=headers)


class InferPath:
    """ASGI: serves the infer routes itself and hands everything else to the application."""

    def __init__(self, app: ASGIApp, joined: GatewayRuntime) -> None:
        self._app = app
        self._joined = joined

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
                match path[len(_PREFIX) : -len(_SUFFIX)].split("/"):
                    case [model]:
                        return await self._serve(scope, receive, send, model, None)
                    case [model, "versions", version]:
                        return await self._serve(scope, receive, send, model, version)
        return await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, model: str, version: str | None) -> None:
        response: ASGIApp
        try:
            response = await respond(self._joined, model, version, plain_headers(scope["headers"]), receive)
        except CodedError as error:
            response = refuse(error, scope["path"])
        except Exception:  # the last place to turn a fault into an answer
            log.exception("internal-error", path=scope["path"])
            response = internal_response()
        await response(scope, receive, send)


async def respond(
    joined: GatewayRuntime, model: str, version: str | None, headers: Mapping[str, str], receive: Receive
) -> Answered:
    """Read a request, serve it and write the answer; its headers carry the receipt signed by worker and gateway.

    Raises:
        CodedError: any refusal.
    """
    settings = joined.settings
    payment = read_headers(headers)
    length = headers.get(_HEADER_LENGTH)
    body = await read_body(
        headers, receive, max_bytes=settings.max_body_bytes, timeout_seconds=settings.body_timeout_seconds
    )
    served = await serve(
        joined, model, version, payment, lambda manifest: decode_request(body, manifest, length), len(body)
    )
    answer = served.answer
    with stage("encode"):
        content, json_bytes = encode_answer_for(served.body, model, answer.tensors, answer.parameters)
    paid = {**answer_headers(answer), **served.headers}
    if json_bytes is not None:
        paid[HEADER_LENGTH] = str(json_bytes)
    return Answered(content, paid, _JSON if json_bytes is None else _BINARY)


def refuse(error: CodedError, path: str) -> Response:
    """Turn a refusal into its response; faults of the operator's side are logged."""
    if status_of(type(error)) >= 500:
        log.warning("request-failed", code=error.code, detail=error.detail, path=path)
    return problem_response(error)
