"""How the client kit reaches a gateway: by an address that is one, and past the proxy where that is this machine."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from contracts.protocol.own_machine import is_own
from market.sdk.errors import UnusableAddress


def asks_environment(url: str) -> bool:
    """Tell whether the environment's proxies and certificates count for a URL."""
    return url.startswith("https:") or not is_own(url)


def certificates(url: str) -> ssl.SSLContext | bool:
    """Return whom to trust: the usual, or nobody where only plain connections are made, to this machine.

    To read the usual certificates takes longer than several requests do.
    """
    return True if asks_environment(url) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Check a gateway's address, and name what is wrong with the environment where a client is made for it.

    Raises:
        UnusableAddress: the address is none, or the proxy that the environment names is.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, a bracket that stays open, a label too long
        usable = False
    if not usable:
        raise UnusableAddress(
            f"{url[:200]!r} is not the address of a gateway.",
            field="url",
            remedy="Write http://host:port or https://host.",
        )
    try:
        yield
    except (httpx.InvalidURL, ImportError, ValueError) as error:
        raise UnusableAddress(
            f"the proxy that the environment names cannot be used: {error}",
            field="proxy",
            remedy="Correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or name the gateway's host in NO_PROXY; "
            "SOCKS needs `httpx[socks]`.",
        ) from error
