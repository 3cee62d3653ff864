"""Counts the requests of a client's address at the door, before anything of them is read.

Decides whose address counts: the connection's own, unless it is a proxy that the operator trusts, which says in
`X-Forwarded-For` whom it speaks for. Called by the infer path, which every HTTP request passes, and the gRPC service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from market.errors import ConfigurationError
from market.inference.rates import By, Rates
from market.settings import MarketSettings

FORWARDED_FOR = "x-forwarded-for"
_RAW = FORWARDED_FOR.encode()
# Whoever has one address of IPv6 has as many as he likes beside it.
_IPV6_BYTES = 8
_MOST_HOPS = 16

Network = IPv4Network | IPv6Network


class Doorman:
    """Admits requests by address."""

    def __init__(self, rates: Rates, trusted: tuple[Network, ...]) -> None:
        self._rates = rates
        self._trusted = trusted
        self._is_trusted = lru_cache(4_096)(self._lies_in_trusted)

    def admit(self, peer: str, forwarded: str | None) -> Awaitable[None] | None:
        """Count a request of a connection from `peer`; see `Rates.admit`."""
        return self._rates.admit(By.ADDRESS, _name(self.client(peer, forwarded)))

    def client(self, peer: str, forwarded: str | None) -> str:
        """Return the address that counts: the last one that no trusted proxy has."""
        if forwarded is None or not self._is_trusted(peer):
            return peer
        for hop in reversed(forwarded.split(",")[-_MOST_HOPS:]):
            address = hop.strip()
            if _packed(address) is None:
                return peer
            peer = address
            if not self._is_trusted(address):
                break
        return peer

    def _lies_in_trusted(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def doorman_of(rates: Rates | None, settings: MarketSettings) -> Doorman | None:
    """Return who stands at the door, if the settings limit addresses.

    Raises:
        ConfigurationError: the trusted proxies are no networks.
    """
    try:
        trusted = tuple(ip_network(part.strip()) for part in settings.trusted_proxies.split(",") if part.strip())
    except ValueError as error:
        raise ConfigurationError(f"{error}.", field="MARKET_TRUSTED_PROXIES") from error
    return Doorman(rates, trusted) if rates is not None and settings.rate_by_address else None


def forwarded_for(headers: Iterable[tuple[str | bytes, str | bytes]]) -> str | None:
    """Return all `X-Forwarded-For` headers as one: what a proxy adds as a header of its own comes last."""
    given = [value for name, value in headers if name in (FORWARDED_FOR, _RAW)]
    return ",".join(value if isinstance(value, str) else value.decode("latin-1") for value in given) if given else None


async def admitted(doorman: Doorman, peer: str, forwarded: str | None) -> None:
    """Count a request; `forwarded` is all that its `X-Forwarded-For` headers say.

    Raises:
        TooManyRequests: the address sends more than the gateway takes.
    """
    pending = doorman.admit(peer, forwarded)
    if pending is not None:
        await pending


@lru_cache(4_096)
def _packed(text: str) -> bytes | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:_IPV6_BYTES]
    return address.packed


def _name(text: str) -> bytes:
    return _packed(text) or text.encode()[:64]
