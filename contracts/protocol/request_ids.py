"""Request ids: 32 bytes, of which the first six are the time, milliseconds since 1970, and the others random.

Any 32 bytes are a request id; drawn like this, as version 7 of RFC 9562's UUIDs is, they grow with time, so that an
index of a million of them is written at its end instead of everywhere. Called by gateway and client.
"""

from __future__ import annotations

import time

from contracts.protocol.randomness import Draws

REQUEST_ID_BYTES = 32
_TIME_BYTES = 6
_DRAWS = Draws(REQUEST_ID_BYTES - _TIME_BYTES)


def new_request_id() -> bytes:
    """Draw a request id, 32 bytes; no two are alike, and none can be foreseen."""
    return (time.time_ns() // 1_000_000).to_bytes(_TIME_BYTES, "big") + _DRAWS.take()


def time_prefix(at: float) -> bytes:
    """Return the six bytes with which ids begin that are drawn at a time, unix seconds."""
    return int(at * 1_000).to_bytes(_TIME_BYTES, "big")
