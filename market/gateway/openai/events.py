"""Server-sent events of one stream, for as long as its reader is there.

Decides when the reader counts as gone: it closed the connection, or takes nothing for a minute. Then the stream is
closed, which ends the generation. A failure after the first byte is an event with OpenAI's error object, and the last.
How an event is written is its route's matter. Called by the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.protocol.errors import CodedError
from market.gateway.openai.problems import error_object
from market.gateway.problems import internal_error

SEND_SECONDS = 60.0
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # Proxies of the nginx family would hold small pieces back.
    "x-accel-buffering": "no",
}
_T = TypeVar("_T")
log = structlog.get_logger(__name__)


class ReaderGone(Exception):
    """Nobody is there to answer any more."""


class Form(Protocol):
    """How a route writes its events; `end` follows the last one of a stream that came to its end."""

    end: bytes

    def event(self, found: Mapping[str, Any]) -> bytes:
        """Return an event as it is sent."""

    def error(self, error: CodedError) -> dict[str, Any]:
        """Return the event of a failure."""


class Chunks:
    """Events without names, ended by one that is no JSON: those of completions."""

    end = b"data: [DONE]\n\n"

    def event(self, found: Mapping[str, Any]) -> bytes:
        """Return a chunk as it is sent."""
        return b"data: " + orjson.dumps(found) + b"\n\n"

    def error(self, error: CodedError) -> dict[str, Any]:
        """Return the chunk of a failure."""
        return {"error": error_object(error)}


class EventStream(Response):
    """Sends lists of JSON objects as they come; `items` is closed whatever happens."""

    def __init__(
        self, items: AsyncGenerator[list[dict[str, Any]], None], headers: Mapping[str, str], form: Form
    ) -> None:
        super().__init__(headers={**headers, **_HEADERS})
        del self.headers["content-length"]
        self._items = items
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await while_there(receive, self._send(scope, send))
        except ReaderGone:
            log.info("reader-gone", path=scope["path"])

    async def _send(self, scope: Scope, send: Send) -> None:
        async def body(data: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        async with aclosing(self._items) as items:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for objects in items:
                    if objects:
                        await body(b"".join(map(self._form.event, objects)))
                await body(self._form.end, more=False)
            except TimeoutError as error:
                raise ReaderGone from error
            except CodedError as error:
                log.info("stream-failed", code=error.code, detail=error.detail, path=scope["path"])
                await body(self._form.event(self._form.error(error)), more=False)
            except Exception:  # the last place to turn a fault into an answer
                log.exception("internal-error", path=scope["path"])
                await body(self._form.event(self._form.error(internal_error())), more=False)


async def while_there(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work` unless the client closes the connection first; then it is cancelled.

    Raises:
        ReaderGone: the client left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ReaderGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
