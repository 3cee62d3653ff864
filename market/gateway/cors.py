"""Which other sites' pages may read this gateway's answers: none, unless the operator names them.

Wraps everything that answers HTTP; a page's requests name their origin, and such requests never take the short way of
`market.gateway.connection`. Called by the server.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from market.gateway.headers import ANSWER_HEADERS
from market.gateway.tensors_json import HEADER_LENGTH
from market.gateway.x402.wire import PAYMENT_REQUIRED, PAYMENT_RESPONSE, V1_RESPONSE
from market.settings import MarketSettings

_PREFLIGHT_SECONDS = 600
_READABLE = (*ANSWER_HEADERS, HEADER_LENGTH, PAYMENT_REQUIRED, PAYMENT_RESPONSE, V1_RESPONSE, "Retry-After")


def with_cors(app: ASGIApp, settings: MarketSettings) -> ASGIApp:
    """Return the application as it answers the origins that the settings name; cookies are never asked for."""
    origins = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=_READABLE,
        max_age=_PREFLIGHT_SECONDS,
    )
