"""The WebSocket of the link lane, as raw ASGI in front of the application.

Decides nothing: it gives the hub whole binary messages and takes them from it. Called by the server for
`contracts.protocol.link.LINK_PATH`; every other WebSocket is the application's, which has none.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.protocol.link import LINK_PATH
from market.adapters.link_hub import CLOSE_BROKEN, MAX_REASON_BYTES, LinkHub
from market.adapters.link_session import ChannelClosed


class LinkPath:
    """ASGI: serves links itself and hands everything else to the application."""

    def __init__(self, app: ASGIApp, hub: LinkHub) -> None:
        self._app = app
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "websocket" or scope["path"] != LINK_PATH:
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        peer = scope.get("client")
        await self._hub.serve(_WebSocket(receive, send), "" if peer is None else f"{peer[0]}:{peer[1]}")


class _WebSocket:
    """A `Channel` over ASGI's WebSocket events."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise ChannelClosed
        data = message.get("bytes")
        if data is None:
            await self.close(CLOSE_BROKEN, "binary messages only")
            raise ChannelClosed
        found: bytes = data
        return found

    async def send(self, data: bytes) -> None:
        await self._say({"type": "websocket.send", "bytes": data})

    async def close(self, code: int, reason: str) -> None:
        short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        await self._say({"type": "websocket.close", "code": code, "reason": short})

    async def _say(self, event: dict[str, object]) -> None:
        try:
            await self._send(event)
        except Exception as error:  # uvicorn raises its own for a client that is gone, and RuntimeError after a close
            raise ChannelClosed from error
