"""Opens Redis connections for the event loop and names their failures after the market.

A lost connection is opened again by the next command; nothing here retries a command that may have been carried out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contracts.redis_url import is_unix
from market.errors import RedisUnreachable

CONNECT_TIMEOUT_SECONDS = 2.0
COMMAND_TIMEOUT_SECONDS = 10.0


def open_redis(url: str, *, max_connections: int = 64) -> Redis:
    """Return a client whose connections are made when first needed."""
    return Redis.from_url(
        url,
        max_connections=max_connections,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=COMMAND_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[],
        **({} if is_unix(url) else {"socket_keepalive": True}),
    )


@contextmanager
def reachable() -> Iterator[None]:
    """Turn every Redis failure into RedisUnreachable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise unreachable(error) from error


def unreachable(error: Exception) -> RedisUnreachable:
    """Return the market's word for a failure of Redis."""
    return RedisUnreachable(f"Redis does not answer: {type(error).__name__}.")
