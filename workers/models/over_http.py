"""Reads a package's files from the address that its owner listed, of which nothing is believed.

An owner chooses the address and answers for its name: so the name is looked up once, what it means is held against the
worker's own network, and the connection goes to what was looked at, not to what the name means a moment later. Nothing
is followed or decompressed, and a server that trickles is left. Called by `workers.models.store`.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from workers.errors import PackageUnavailable

TIMEOUT_SECONDS = 30.0
# A server that is slower than this after a minute would hold the worker up for days.
LEAST_BYTES_A_SECOND = 16 << 10
PATIENCE_SECONDS = 60.0
# IPv4 addresses as a network that has IPv6 alone writes them, RFC 6052.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


class HttpStream:
    """Just enough of a binary file over a streaming answer, as it was sent: nothing is decompressed."""

    def __init__(self, response: httpx.Response, address: str) -> None:
        self._chunks = response.iter_raw()
        self._rest = b""
        self._address = address
        self._started = time.monotonic()
        self._seen = 0

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end.

        Raises:
            PackageUnavailable: they come too slowly.
        """
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
            self._seen += len(chunk)
            seconds = time.monotonic() - self._started
            if seconds > PATIENCE_SECONDS and self._seen < seconds * LEAST_BYTES_A_SECOND:
                raise PackageUnavailable(
                    f"{self._address} gives {self._seen / seconds:.0f} bytes a second.",
                    field="uri",
                    remedy="Try again later, or ask the owner for a quicker address.",
                )
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class HttpSource:
    """A package's files below one address."""

    def __init__(self, base: str, *, allow_private: bool) -> None:
        """Look the address up.

        Raises:
            PackageUnavailable: it lies inside this machine or its network, or its name is not known.
        """
        self._base = base.rstrip("/") + "/"
        # Where connections go; None lets the name be looked up for each.
        self._places: list[str | None] = [None]
        if not allow_private:
            found = _public_places(base)
            if not _is_by_proxy(base):
                self._places = [*found]

    @contextmanager
    def open(self, name: str) -> Iterator[HttpStream]:
        """Ask for one of the files.

        Raises:
            PackageUnavailable: it is not there, or somewhere else.
        """
        address = self._base + name
        try:
            # Redirects are not followed: they would lead wherever the owner's server says.
            with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
                response = self._asked(client, address)
                try:
                    if response.is_redirect:
                        raise PackageUnavailable(
                            f"{address} redirects, which is not followed.",
                            field="uri",
                            remedy="The owner must list the address that the files lie at.",
                        )
                    if response.status_code != httpx.codes.OK:
                        raise PackageUnavailable(f"{address} answers {response.status_code}.", field="uri")
                    yield HttpStream(response, address)
                finally:
                    response.close()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PackageUnavailable(f"{address}: {type(error).__name__}.", field="uri") from error

    def _asked(self, client: httpx.Client, address: str) -> httpx.Response:
        last: httpx.TransportError | None = None
        for place in self._places:
            url, headers, said = httpx.URL(address), {"Accept-Encoding": "identity"}, {}
            if place is not None:
                # By number, and by name for the server and its certificate.
                headers["Host"] = url.netloc.decode("ascii")
                said = {"sni_hostname": url.raw_host.decode("ascii")}
                url = url.copy_with(host=place)
            try:
                return client.send(client.build_request("GET", url, headers=headers, extensions=said), stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last = error
        assert last is not None, "a name that is known has an address"
        raise last


def _is_by_proxy(address: str) -> bool:
    """Tell whether a proxy of the environment asks for us: then it is the proxy that looks names up."""
    parts = urlsplit(address)
    found = getproxies()
    return bool(found.get(parts.scheme) or found.get("all")) and not proxy_bypass(parts.netloc)


def _public_places(address: str) -> list[str]:
    """Return the addresses of a host, none of which lies inside this machine or its network.

    Raises:
        PackageUnavailable: one does, or its name is not known.
    """
    try:
        parts = urlsplit(address)
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError, UnicodeError) as error:
        raise PackageUnavailable(f"{address}: the host is not known.", field="uri") from error
    # Of IPv6 a scope may follow.
    places = list(dict.fromkeys(str(place[0]).partition("%")[0] for *_, place in found))
    for place in places:
        if _is_inside(ipaddress.ip_address(place)):
            raise PackageUnavailable(
                f"{address} is at {place}, inside this machine or its network.",
                field="uri",
                remedy="Set WORKER_ALLOW_PRIVATE_HOSTS=true if the packages of your own network lie there.",
            )
    return places


def _is_inside(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(host, ipaddress.IPv6Address):
        within = host.ipv4_mapped
        if within is None and host in _TRANSLATED:
            within = ipaddress.IPv4Address(host.packed[-4:])
        if within is not None:
            return _is_inside(within)
    return not host.is_global or host.is_multicast
