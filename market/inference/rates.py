"""How many requests a second one payer, API key or client address may make, where the operator sets a limit.

A limit lets ten seconds' worth through at once and then as many as it says, evenly. Counted once a voucher is known to
be genuine, so that nobody uses up another's share. Decides nothing about money. Called by the use case and by the
gateway's door; the counters are adapters.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from market.errors import TooManyRequests

BURST_SECONDS = 10.0


class By(Enum):
    """Whose requests are counted together."""

    ADDRESS = "address"
    PAYER = "payer"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests a second; 0 sets no limit."""

    address: float = 0.0
    payer: float = 0.0
    key: float = 0.0

    def of(self, by: By) -> float:
        """Return the limit of one kind."""
        rate: float = getattr(self, by.value)
        return rate

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return max(self.address, self.payer, self.key) > 0


class Rates(Protocol):
    """Counts requests."""

    def admit(self, by: By, name: bytes) -> Awaitable[None] | None:
        """Count one request; what is returned must be awaited, None needs no waiting.

        Raises:
            TooManyRequests: at once or when awaited.
        """
        ...


def slack(rate: float) -> float:
    """Return how many seconds ahead of an even pace a limit lets requests run."""
    # A thousandth more, or rounding would take the last one of a burst away.
    return max(0.0, BURST_SECONDS - 1.0 / rate) + 0.001


def refusal(by: By, rate: float, wait_seconds: float) -> TooManyRequests:
    """Return what whoever is too fast hears."""
    error = TooManyRequests(f"more than {rate:g} requests a second by one {by.value}.")
    error.headers = {"Retry-After": str(max(1, math.ceil(wait_seconds)))}
    return error
