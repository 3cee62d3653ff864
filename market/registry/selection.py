"""Chooses the worker for a request. Pure: the same candidates and limits give the same order.

Order: lowest unit price over reliability, then fewest requests in flight, then shortest recent answer time, then
highest stake, then address. A worker that fails every second request counts as twice as dear. Whom a limit, an open
circuit or a full queue bars is not in the order at all. Described in docs/selection.md; called by
`market.inference.placement`; never looks at who the payer is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live offer as selection sees it; `latency_ms` is 0 while unknown, so that new workers are tried.

    `stake` in atomic units; `reliability` is the share of requests that it did not fail; `open` says that its circuit
    is open, `busy` that as much waits for it as it takes.
    """

    worker: bytes
    operator: bytes
    unit_price: int
    in_flight: int
    latency_ms: float
    stake: int
    region: str = ""
    reliability: float = 1.0
    open: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What the request allows: a price per unit, one worker only, a region, a stake; and who already failed it.

    A region allows every region that it begins: `eu` allows `eu-west`.
    """

    max_unit_price: int | None = None
    only_worker: bytes | None = None
    region: str | None = None
    min_stake: int = 0
    excluded: frozenset[bytes] = frozenset()


def rank(candidates: Iterable[Candidate], limits: Limits = Limits()) -> list[Candidate]:
    """Return the candidates that the limits allow, the best first."""
    return sorted((c for c in candidates if _allowed(c, limits)), key=_order)


def choose(candidates: Iterable[Candidate], limits: Limits = Limits()) -> Candidate | None:
    """Return the best candidate that the limits allow, or None."""
    return min((c for c in candidates if _allowed(c, limits)), key=_order, default=None)


def _allowed(candidate: Candidate, limits: Limits) -> bool:
    return (
        not (candidate.open or candidate.busy)
        and candidate.worker not in limits.excluded
        and (limits.only_worker is None or candidate.worker == limits.only_worker)
        and (limits.max_unit_price is None or candidate.unit_price <= limits.max_unit_price)
        and candidate.stake >= limits.min_stake
        and (limits.region is None or _lies_in(candidate.region, limits.region))
    )


def _lies_in(region: str, wanted: str) -> bool:
    return region.lower() == wanted.lower() or region.lower().startswith(f"{wanted.lower()}-")


def _order(candidate: Candidate) -> tuple[float, int, float, int, bytes]:
    # Reliability by tenths, since each fault moves it. Latency only decides between equally loaded workers, and only by
    # whole milliseconds: less is noise.
    return (
        candidate.unit_price / max(0.1, round(candidate.reliability, 1)),
        candidate.in_flight,
        candidate.latency_ms // 1,
        -candidate.stake,
        candidate.worker,
    )
