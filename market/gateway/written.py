"""Lists that everybody may ask for, unpaid, are written once for each view of the offers, which changes once a second.

A thousand models take the event loop a tenth of a second to describe: asked for again and again, it would do nothing
else. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter
from starlette.responses import Response

from market.bootstrap.gateway import GatewayRuntime
from market.gateway.lookup import runtime


def written_once(request: Request, write: Callable[[GatewayRuntime], bytes], form: str = "") -> Response:
    """Answer a route with the JSON that `write` gives for the newest view; `form` tells its few forms apart."""
    joined, kept = runtime(request), request.app.state.written
    view, name = joined.offers.view, (request.url.path, form)
    known = kept.get(name)
    if known is None or known[0] is not view:
        known = kept[name] = view, write(joined)
    return Response(known[1], media_type="application/json")


def as_json(shape: TypeAdapter[Any], rows: object) -> bytes:
    """Return rows as the JSON that a route of this shape answers."""
    return shape.dump_json(shape.validate_python(rows), by_alias=True)
