"""Chooses the worker for a request. Pure: the same candidates and limits give the same order.

Order: lowest unit price, then fewest requests in flight here and there, then shortest recent answer time, then highest
stake, then address. Called by `market.inference.service`; never looks at who the payer is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live offer as selection sees it; `latency_ms` is 0 while unknown, so that new workers are tried."""

    worker: bytes
    operator: bytes
    unit_price: int
    in_flight: int
    latency_ms: float
    stake: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the request allows: a price per unit, one worker only, and workers that already failed it."""

    max_unit_price: int | None = None
    only_worker: bytes | None = None
    excluded: frozenset[bytes] = frozenset()


def rank(candidates: Iterable[Candidate], limits: Limits = Limits()) -> list[Candidate]:
    """Return the candidates that the limits allow, the best first."""
    return sorted((c for c in candidates if _allowed(c, limits)), key=_order)


def choose(candidates: Iterable[Candidate], limits: Limits = Limits()) -> Candidate | None:
    """Return the best candidate that the limits allow, or None."""
    return min((c for c in candidates if _allowed(c, limits)), key=_order, default=None)


def _allowed(candidate: Candidate, limits: Limits) -> bool:
    return (
        candidate.worker not in limits.excluded
        and (limits.only_worker is None or candidate.worker == limits.only_worker)
        and (limits.max_unit_price is None or candidate.unit_price <= limits.max_unit_price)
    )


def _order(candidate: Candidate) -> tuple[int, int, float, int, bytes]:
    # Latency only decides between equally loaded workers, and only by whole milliseconds: less is noise.
    return (
        candidate.unit_price,
        candidate.in_flight,
        candidate.latency_ms // 1,
        -candidate.stake,
        candidate.worker,
    )
