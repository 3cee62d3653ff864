"""Reading a request body within a size and a time, so that a slow or huge client costs little.

Called by the inference route; nothing else reads bodies.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from market.errors import InvalidRequest, PayloadTooLarge


async def read_body(request: Request, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Read the whole body.

    Raises:
        PayloadTooLarge: more than `max_bytes`, by its announced or its real length.
        InvalidRequest: compressed, not there in time, or cut off.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise InvalidRequest(f"{encoding} bodies are not taken.", field="Content-Encoding", remedy="Send plain JSON.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _collect(request, max_bytes)
    except TimeoutError as error:
        raise InvalidRequest(
            f"the body was not complete after {timeout_seconds:g} s.", field="body", remedy="Send it at once."
        ) from error
    except ClientDisconnect as error:
        raise InvalidRequest("the connection closed inside the body.", field="body") from error


async def _collect(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes.", field="body")
