"""How clients that are not redis-py's write where Redis or Valkey is."""

from __future__ import annotations

_UNIX = "unix://"


def is_unix(redis_url: str) -> bool:
    """Tell whether it is a Unix socket: such a connection knows none of TCP's options."""
    return redis_url.startswith(_UNIX)


def celery_url(redis_url: str) -> str:
    """Return the broker's URL as Celery writes it, which differs for a Unix socket."""
    if not is_unix(redis_url):
        return redis_url
    path, _, query = redis_url.removeprefix(_UNIX).partition("?")
    return f"redis+socket://{path}?virtual_host={query.removeprefix('db=') or '0'}"
