"""Answers to clients of HTTP/1.0, which know no chunks. Called by the connection."""

from __future__ import annotations

from typing import Any


class UntilClosed:
    """Sends what an application answers to a client of HTTP/1.0: of unknown length up to the end, not in chunks."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._is_open = False

    async def __call__(self, message: Any) -> None:
        """See ASGI's `send`."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            named = {name.lower() for name, _ in message.get("headers", ())}
            self._is_open = b"content-length" not in named and cycle.scope["method"] != "HEAD"
            if self._is_open:
                cycle.chunked_encoding = False
        elif self._is_open:
            if cycle.flow.write_paused and not cycle.disconnected:
                await cycle.flow.drain()
            if not cycle.disconnected:
                cycle.transport.write(message.get("body", b""))
                if not message.get("more_body", False):
                    cycle.response_complete = True
                    cycle.message_event.set()
                    cycle.transport.close()
                    cycle.on_response()
            return
        await self._send(message)
