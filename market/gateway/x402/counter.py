"""Where an inference route meets x402: the price of the request, the door, and what a 402 tells the client.

Decides the price asked: the cheapest live offer that the request allows. Called by `market.gateway.serving`, and by the
discovery routes for what an endpoint would ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import ceiling_units
from contracts.protocol.money import both
from contracts.protocol.pricing import Unit, price_up
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.errors import (
    CreditSpent,
    NoCapacity,
    NoPayment,
    PaymentError,
    PaymentRejected,
    PriceAboveLimit,
    UnknownModel,
)
from market.gateway.x402 import terms
from market.gateway.x402.door import Door, Paid, corrected
from market.gateway.x402.wire import PAYMENT_REQUIRED
from market.inference.model import Answer
from market.payments.model import ParsedVoucher
from market.payments.x402_model import PaymentRefused
from market.payments.x402_ports import X402Desk
from market.registry.model import Listing

if TYPE_CHECKING:
    from market.bootstrap.gateway import GatewayRuntime
    from market.gateway.headers import PaymentHeaders

Infer = Callable[[ParsedVoucher | None, bytes | None, int | None, bytes | None], Awaitable[Answer]]


async def pay_by_x402(
    joined: GatewayRuntime,
    desk: X402Desk,
    listing: Listing,
    manifest: Manifest,
    tensors: Sequence[Tensor],
    parameters: Mapping[str, Any],
    payment: PaymentHeaders,
    infer: Infer,
    path: str | None,
) -> Paid:
    """Serve a request that carries no voucher, or say what it costs.

    Raises:
        PaymentError: with PAYMENT-REQUIRED in its headers.
        MarketError: see the inference service.
    """

    def inputs() -> bytes:
        return content_hash(listing.model_id + encode_tensors(tensors, parameters))

    units = ceiling_units(manifest, tensors, parameters)
    given = payment.x402 if payment.x402 is not None and payment.x402.given else None
    try:
        if not listing.active:
            raise UnknownModel(f"no active listing is called {listing.name}.", field="model")
        prices = prices_of(joined, listing, units, payment)
    except (UnknownModel, NoCapacity, PriceAboveLimit) as error:
        if given is None:
            raise
        try:
            return await Door(desk, given, 0, 0, infer, inputs).again()
        except PaymentRefused:
            raise error from None
    price = prices[0]
    path = path or infer_path(listing)
    try:
        if given is None:
            raise NoPayment
        return await Door(desk, given, price, prices[-1], infer, inputs).serve()
    except PaymentRefused as refused:
        rejected = PaymentRejected(refused.detail, field=None if refused.reason == refused.detail else refused.reason)
        offers = corrected(terms.accepts(desk, price), refused)
        header = terms.payment_required(desk, listing, manifest, price, path, error=refused.reason, offers=offers)
        rejected.headers = {PAYMENT_REQUIRED: header, **NOT_CACHED}
        raise rejected from refused
    except PriceAboveLimit as error:
        # The cheap worker went away meanwhile, and the payment covers no other: the new price is a new question.
        again = NoPayment("The price has changed.")
        price = price_of(joined, listing, units, payment)
        challenge(again, desk, listing, manifest, price, path)
        again.headers = {**error.headers, **again.headers}
        raise again from error
    except (NoPayment, CreditSpent) as error:
        challenge(error, desk, listing, manifest, price, path)
        raise


NOT_CACHED = {"Cache-Control": "no-store"}


def challenge(
    error: PaymentError, desk: X402Desk, listing: Listing, manifest: Manifest | None, price: int, path: str
) -> None:
    """Let a refusal tell x402 clients of both versions what to pay."""
    header = terms.payment_required(desk, listing, manifest, price, path, error=error.detail)
    error.headers = {PAYMENT_REQUIRED: header, **NOT_CACHED}
    error.terms = {**error.terms, **terms.v1_terms(desk, listing, price, path)}


def price_of(joined: GatewayRuntime, listing: Listing, units: int, payment: PaymentHeaders | None) -> int:
    """Return what the cheapest live offer asks that the request allows; raises as `prices_of`."""
    return prices_of(joined, listing, units, payment)[0]


def prices_of(joined: GatewayRuntime, listing: Listing, units: int, payment: PaymentHeaders | None) -> list[int]:
    """Return what the live offers ask that the request allows, the cheapest first.

    Raises:
        NoCapacity: nobody offers it now.
        PriceAboveLimit: every offer costs more than the request allows.
    """
    wanted, per_price = None if payment is None else payment.worker, Unit(listing.unit).per_price
    prices = sorted(
        price_up(offer.unit_price, units, units_per_price=per_price)
        for offer in joined.offers.quotes(listing.model_id)
        if wanted is None or offer.worker == wanted
    )
    if not prices:
        raise NoCapacity(f"no live worker offers {listing.name}.", field="model")
    limit = None if payment is None else payment.max_price
    if limit is None:
        return prices
    if prices[0] > limit:
        raise PriceAboveLimit(
            f"The cheapest offer asks {both(prices[0])}; the request allows {both(limit)}.", field="Market-Max-Price"
        )
    return [price for price in prices if price <= limit]


def infer_path(listing: Listing) -> str:
    """Return the path of a model's infer route; by model id where the name is not one path segment."""
    plain = all(part.isalnum() or part in "-_." for part in listing.name) and listing.name.isascii() and listing.name
    return f"/v2/models/{listing.name if plain else hex0x(listing.model_id)}/infer"
