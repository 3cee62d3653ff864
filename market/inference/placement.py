"""Where a request is served and what it costs there: live offers, the request's limits, this process's load.

Decides nothing about payment. Raises what a client should hear when no offer fits. Called by the use case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contracts.protocol.money import both, split_price
from contracts.protocol.pricing import Unit, price_up
from market.errors import MarketError, NoCapacity, Overloaded, PriceAboveLimit
from market.inference.breaker import Breakers
from market.inference.load import WorkerLoad
from market.inference.model import InferenceRequest, PriceTerms
from market.registry.model import Listing
from market.registry.offers import LiveOffer, LiveOffers
from market.registry.selection import Candidate, Limits, choose, rank

# Of the time that may be waited for a worker, as much as may be waited already where there is room to spare.
_SPARE = 0.1


class Placement:
    """Chooses among live offers and prices the choice.

    `fee_ppm` is the gateway's share in millionths. `max_queue_seconds` is how long what waits for a worker may keep it
    busy before more is refused; two batches may always be there.
    """

    def __init__(
        self, offers: LiveOffers, load: WorkerLoad, breakers: Breakers, fee_ppm: int, max_queue_seconds: float
    ) -> None:
        self._offers = offers
        self._load = load
        self._breakers = breakers
        self._fee_ppm = fee_ppm
        self._max_queue_seconds = max_queue_seconds

    def choose(
        self,
        listing: Listing,
        units: int,
        request: InferenceRequest,
        client: bytes,
        failed: Mapping[bytes, MarketError],
    ) -> tuple[LiveOffer, bool]:
        """Return the best offer of a worker that has not `failed` this request, and whether others would do too.

        Raises:
            NoCapacity: no live worker offers the model within the request's limits, or all of them fail of late.
            Overloaded: as much waits for each of them as it takes.
            PriceAboveLimit: every offer costs more than the request allows.
            MarketError: the last failure, if there was one and nobody is left.
        """
        offers = self._offers.offers(listing.model_id)
        if len(offers) == 1 and not failed and not request.limits_workers:
            # The common small market: nothing to compare.
            (only,) = offers
            worker = only.offer.worker
            if self._breakers.lets_through(worker, listing.model_id, only.start) and not self._busy(
                worker, listing.model_id, client
            ):
                return only, False
        live, per_price = {offer.offer.worker: offer for offer in offers}, Unit(listing.unit).per_price
        candidates = [self._candidate(worker, offer, listing.model_id, client) for worker, offer in live.items()]
        limits = Limits(
            max_unit_price=None if request.max_price is None else request.max_price * per_price // units,
            only_worker=request.worker,
            region=request.region,
            min_stake=request.min_stake,
            excluded=frozenset(failed),
        )
        ranked = rank(candidates, limits)
        if ranked:
            return live[ranked[0].worker], len(ranked) > 1
        if failed:
            raise list(failed.values())[-1]
        raise self._nobody(listing, units, request, candidates, limits)

    def is_crowded(self, model_id: bytes) -> bool:
        """Tell whether as much waits for every worker of a model as it takes; who has little there may get in yet."""
        live = self._offers.offers(model_id)
        return bool(live) and all(
            self._load.queue_seconds(offer.offer.worker) > self._max_queue_seconds for offer in live
        )

    def spare(self, model_id: bytes, left_out: Callable[[LiveOffer], bool]) -> list[LiveOffer]:
        """Return who serves a model with next to nothing waiting, but for those that are `left_out`."""
        return [
            live
            for live in self._offers.offers(model_id)
            if not left_out(live)
            and self._breakers.lets_through(live.offer.worker, model_id, live.start)
            and self._load.queue_seconds(live.offer.worker) <= _SPARE * self._max_queue_seconds
        ]

    def _candidate(self, worker: bytes, offer: LiveOffer, model_id: bytes, client: bytes) -> Candidate:
        load = self._load
        return Candidate(
            worker=worker,
            operator=offer.worker.operator,
            unit_price=offer.offer.unit_price,
            in_flight=load.in_flight(worker),
            latency_ms=load.latency_ms(worker),
            stake=offer.worker.stake,
            region=offer.worker.region,
            reliability=load.reliability(worker),
            open=not self._breakers.lets_through(worker, model_id, offer.start),
            busy=self._busy(worker, model_id, client),
        )

    def _busy(self, worker: bytes, model_id: bytes, client: bytes) -> bool:
        load = self._load
        seconds = load.queue_seconds(worker)
        if seconds <= self._max_queue_seconds or load.in_flight(worker) < 2 * self._offers.max_batch(worker, model_id):
            return False
        # Room is kept for clients that have little there: nobody's thousand requests lock the others out.
        return seconds > 2 * self._max_queue_seconds or not load.below_share(worker, client)

    def _nobody(
        self,
        listing: Listing,
        units: int,
        request: InferenceRequest,
        candidates: Sequence[Candidate],
        limits: Limits,
    ) -> MarketError:
        """Say why no candidate will do: the nearest reason first."""
        rested = [replace(candidate, open=False, busy=False) for candidate in candidates]
        fitting = {candidate.worker for candidate in rank(rested, limits)}
        busy = [candidate.worker for candidate in candidates if candidate.busy and candidate.worker in fitting]
        if busy:
            wait = min(self._load.queue_seconds(worker) for worker in busy) - self._max_queue_seconds
            error = Overloaded(
                f"Every worker of {listing.name} has more waiting than it answers in {self._max_queue_seconds:g} s."
            )
            error.headers = {"Retry-After": str(max(1, math.ceil(wait)))}
            return error
        if fitting:
            return NoCapacity(f"The workers of {listing.name} fail of late; they are tried again within a minute.")
        affordable = choose(rested, replace(limits, max_unit_price=None))
        if affordable is not None:
            asked = price_up(affordable.unit_price, units, units_per_price=Unit(listing.unit).per_price)
            return PriceAboveLimit(
                f"The cheapest offer asks {both(asked)}; the request allows {both(request.max_price or 0)}.",
                field="Market-Max-Price",
            )
        wanted = "" if request.worker is None else " at the worker that was asked for"
        wanted += "" if request.region is None else f" in the region {request.region!r}"
        wanted += f" with a stake of {both(request.min_stake)} or more" if request.min_stake else ""
        return NoCapacity(f"No live worker offers {listing.name}{wanted}.", field="model")

    def terms(self, listing: Listing, units: int, live: LiveOffer, *, metered: bool) -> PriceTerms:
        """Return what `units` cost at an offer, rounded up, and how that is split; ceilings where it is `metered`."""
        per_price = Unit(listing.unit).per_price
        price = price_up(live.offer.unit_price, units, units_per_price=per_price)
        split = split_price(price, listing.royalty_ppm, self._fee_ppm)
        return PriceTerms(
            units=units,
            price=price,
            worker_amount=split.worker_amount,
            owner_amount=split.owner_amount,
            royalty_ppm=listing.royalty_ppm,
            fee_ppm=self._fee_ppm,
            unit_price=live.offer.unit_price if metered else 0,
            units_per_price=per_price if metered else 1,
        )
