"""The application: routes, error mapping and lifetime, joined around one runtime.

Decides how errors leave (always as problems) and that the runtime starts before and stops after serving. Called by the
server and by tests, which pass a runtime of fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version
from typing import Any

import structlog
from fastapi import FastAPI, Request, status
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.protocol.errors import CodedError
from market.bootstrap.gateway import GatewayRuntime
from market.errors import InvalidRequest, NoRoute
from market.gateway import (
    routes_audits,
    routes_insight,
    routes_keys,
    routes_market,
    routes_oip,
    routes_refunds,
    routes_trace,
)
from market.gateway.console import console_router
from market.gateway.infer_http import refuse
from market.gateway.openai import problems as openai_problems
from market.gateway.openai import routes as routes_openai
from market.gateway.problems import internal_error, internal_response, problem_response
from market.gateway.x402 import routes as routes_x402
from market.gateway.x402.background import settle_background

log = structlog.get_logger(__name__)

_METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")


class _Heads:
    """Asks the routes for GET where a client asks for HEAD; the server sends no content then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


@asynccontextmanager
async def _grpc(runtime: GatewayRuntime) -> AsyncIterator[int | None]:
    """Serve gRPC where a port is set; its library takes ten megabytes."""
    if runtime.settings.grpc_port is None:
        yield None
        return
    from market.gateway.grpc.server import serve_grpc

    async with serve_grpc(runtime) as port:
        yield port


def create_app(runtime: GatewayRuntime) -> FastAPI:
    """Build the application around a runtime, which it opens and closes with its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            async with _grpc(runtime) as app.state.grpc_port:
                yield
        finally:
            await settle_background()
            await runtime.close()

    app = FastAPI(
        title="Inference market gateway",
        version=package_version("inference-market"),
        description="Open Inference Protocol v2, paid per request; receipts settle on an EVM ledger.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A redirection would name the address as the gateway sees it, http:// behind a proxy that ends TLS, and a
        # client that follows it would send its key there in the clear.
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    app.state.written = {}
    app.add_middleware(_Heads)
    app.include_router(routes_oip.router)
    app.include_router(routes_openai.router)
    app.include_router(routes_openai.cohere)
    app.include_router(routes_market.router)
    app.include_router(routes_trace.router)
    app.include_router(routes_refunds.router)
    app.include_router(routes_insight.router)
    app.include_router(routes_audits.router)
    app.include_router(routes_keys.router)
    app.include_router(routes_market.plain)
    app.include_router(routes_x402.router)
    if runtime.settings.console:
        app.include_router(console_router())
    app.add_exception_handler(CodedError, _coded)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _internal)
    return app


async def _coded(request: Request, error: Exception) -> Response:
    assert isinstance(error, CodedError)
    return _refuse(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "request"
    return _refuse(request, InvalidRequest(f"{first['msg']}.", field=field))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    missing = NoRoute(f"{request.method} {path}: {error.detail}.", remedy=_nearest_route(request))
    if path.startswith(openai_problems.PREFIX):
        refused = openai_problems.error_response(missing, status=error.status_code)
    else:
        refused = problem_response(missing, status=error.status_code)
    if error.status_code == status.HTTP_405_METHOD_NOT_ALLOWED:
        refused.headers["Allow"] = ", ".join(method for method in _METHODS if _takes(request, method, path))
    return refused


def _nearest_route(request: Request) -> str | None:
    """Return what to do instead, where a usual slip is seen in a path that no route has."""
    path = request.url.path
    below = openai_problems.PREFIX.rstrip("/") + path
    if any(_takes(request, method, below) for method in _METHODS):
        return f"Ask for {below}: the base URL of an OpenAI client ends in /v1."
    if path != path.rstrip("/"):
        return "Leave out the slash at the end; /openapi.json lists the routes."
    return None


def _takes(request: Request, method: str, path: str) -> bool:
    asked = {**request.scope, "method": "GET" if method == "HEAD" else method, "path": path}
    return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)


async def _internal(request: Request, error: Exception) -> Response:
    log.error("internal-error", path=request.url.path, exc_info=error)
    if request.url.path.startswith(openai_problems.PREFIX):
        return openai_problems.error_response(internal_error())
    return internal_response()


def _refuse(request: Request, error: CodedError) -> Response:
    path = request.url.path
    refused = refuse(error, path)
    return openai_problems.error_response(error) if path.startswith(openai_problems.PREFIX) else refused
