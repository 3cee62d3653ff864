"""Where a request is served and what it costs there: live offers, the request's limits, this process's load.

Decides nothing about payment. Raises what a client should hear when no offer fits. Called by the use case.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.protocol.money import split_price
from contracts.protocol.pricing import price_up
from market.errors import MarketError, NoCapacity, PriceAboveLimit
from market.inference.load import WorkerLoad
from market.inference.model import InferenceRequest, PriceTerms
from market.registry.model import Listing
from market.registry.offers import LiveOffer, LiveOffers
from market.registry.selection import Candidate, Limits, choose


class Placement:
    """Chooses among live offers and prices the choice; `fee_ppm` is the gateway's share in millionths."""

    def __init__(self, offers: LiveOffers, load: WorkerLoad, fee_ppm: int) -> None:
        self._offers = offers
        self._load = load
        self._fee_ppm = fee_ppm

    def choose(
        self, listing: Listing, units: int, request: InferenceRequest, failed: Mapping[bytes, MarketError]
    ) -> LiveOffer:
        """Return the best offer of a worker that has not `failed` this request.

        Raises:
            NoCapacity: no live worker offers the model, or not the one asked for.
            PriceAboveLimit: every offer costs more than the request allows.
            MarketError: the last failure, if there was one and nobody is left.
        """
        live = {offer.offer.worker: offer for offer in self._offers.offers(listing.model_id)}
        if len(live) == 1 and not failed and request.max_price is None and request.worker is None:
            return next(iter(live.values()))
        candidates = [
            Candidate(
                worker=worker,
                operator=offer.worker.operator,
                unit_price=offer.offer.unit_price,
                in_flight=self._load.in_flight(worker),
                latency_ms=self._load.latency_ms(worker),
                stake=offer.worker.stake,
            )
            for worker, offer in live.items()
        ]
        limits = Limits(
            max_unit_price=None if request.max_price is None else request.max_price // units,
            only_worker=request.worker,
            excluded=frozenset(failed),
        )
        chosen = choose(candidates, limits)
        if chosen is not None:
            return live[chosen.worker]
        if failed:
            raise list(failed.values())[-1]
        cheapest = choose(candidates, Limits(only_worker=request.worker))
        if cheapest is not None:
            raise PriceAboveLimit(
                f"The cheapest offer asks {price_up(cheapest.unit_price, units)}; "
                f"the request allows {request.max_price}.",
                field="Market-Max-Price",
            )
        wanted = "" if request.worker is None else " at the worker that was asked for"
        raise NoCapacity(f"No live worker offers {listing.name}{wanted}.", field="model")

    def terms(self, listing: Listing, units: int, live: LiveOffer, *, metered: bool) -> PriceTerms:
        """Return what `units` cost at an offer, rounded up, and how that is split; ceilings where it is `metered`."""
        price = price_up(live.offer.unit_price, units)
        split = split_price(price, listing.royalty_ppm, self._fee_ppm)
        return PriceTerms(
            units=units,
            price=price,
            worker_amount=split.worker_amount,
            owner_amount=split.owner_amount,
            royalty_ppm=listing.royalty_ppm,
            fee_ppm=self._fee_ppm,
            unit_price=live.offer.unit_price if metered else 0,
        )
