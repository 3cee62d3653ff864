"""Serves the web console: one page at `/` and its built files, with a policy that lets them talk to this origin only.

Decides headers and caching. The files are package data, built from `console/` by `make console`; they are read once,
when the application is made, so that serving them touches no disk. Called by `market.gateway.app`.
"""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from market.errors import UnknownPage

FOLDER = "static"
PAGE = "index.html"
_COMPRESSED_ABOVE = 1_000
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",  # wallets open windows of their own
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class _Served:
    """One file, ready to leave; `small` is its gzip where that is worth it."""

    plain: bytes
    small: bytes | None
    media_type: str
    caching: str

    def response(self, request: Request) -> Response:
        """Answer GET or HEAD."""
        headers = {**_HEADERS, "Cache-Control": self.caching}
        body = self.plain
        if self.small is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["Content-Encoding"] = self.small, "gzip"
        return Response(body, media_type=self.media_type, headers=headers)


def console_router() -> APIRouter:
    """Return the console's routes, with its files in memory."""
    router = APIRouter(include_in_schema=False)
    served = _load()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        """Answer the console's page."""
        return served[PAGE].response(request)

    @router.api_route("/console/{name}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        """Answer one of its files; their names change with their content."""
        found = served.get(name)
        if found is None or name == PAGE:
            raise UnknownPage(f"the console has no file {name!r}.", field="name")
        return found.response(request)

    return router


def _load() -> dict[str, _Served]:
    served = {}
    for entry in files(__package__).joinpath(FOLDER).iterdir():
        plain = entry.read_bytes()
        media_type = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
        small = gzip.compress(plain, mtime=0) if len(plain) > _COMPRESSED_ABOVE else None
        # The page names files by hash, so only the page itself must be asked for anew.
        caching = "no-cache" if entry.name == PAGE else "public, max-age=31536000, immutable"
        served[entry.name] = _Served(plain, small, media_type, caching)
    return served
