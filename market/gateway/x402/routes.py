"""The x402 routes beside inference itself: what an endpoint asks, where the endpoints are, credit and refunds.

Decides nothing about money: the door and the book do. Called by the application.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.pricing import Unit, price_up
from market.bootstrap.gateway import GatewayRuntime
from market.errors import (
    InvalidRequest,
    NoCapacity,
    NoPayment,
    NothingToRefund,
    NoX402,
    PaymentRejected,
)
from market.gateway.lookup import find_listing, runtime
from market.gateway.written import written_once
from market.gateway.x402 import refunds, sign_in, terms
from market.gateway.x402.counter import NOT_CACHED, challenge, infer_path, price_of
from market.gateway.x402.wire import PAYMENT_REQUIRED, x402_headers
from market.payments.x402_model import PaymentRefused
from market.payments.x402_ports import X402Desk

router = APIRouter(tags=["x402"])


_ASKED: dict[int | str, dict[str, Any]] = {402: {"description": "What the endpoint asks, for one unit, or one token."}}


@router.head("/v2/models/{model}/infer", responses=_ASKED)
@router.get("/v2/models/{model}/infer", responses=_ASKED)
@router.get("/v2/models/{model}/versions/{version}/infer", responses=_ASKED)
async def ask_price(request: Request, model: str, version: str | None = None) -> Response:
    """Answer 402 with what one unit costs, or one token where a million are the unit.

    A payload of type `refund` closes an x402 channel instead. Clients ask for the terms before they ask for that, so
    they are told them also where nobody offers the model now: then by the least price that its owner allows.
    """
    joined, desk = runtime(request), _desk(request)
    listing = find_listing(joined, model, version)
    manifest = joined.offers.manifest(listing.model_id)
    unit = Unit(listing.unit)
    try:
        price = price_of(joined, listing, 1, None)
    except NoCapacity:
        price = max(1, price_up(listing.min_price, 1, units_per_price=unit.per_price))
    path = infer_path(listing)
    given = x402_headers(request.headers)
    try:
        if given.payment is not None and request.method == "GET":
            body, headers = await refunds.refund(desk, price, given.payment)
            return JSONResponse(body, headers=headers)
    except PaymentRefused as refused:
        rejected = PaymentRejected(refused.detail)
        header = terms.payment_required(desk, listing, manifest, price, path, error=refused.reason)
        rejected.headers = {PAYMENT_REQUIRED: header, **NOT_CACHED}
        raise rejected from refused
    one = "token" if unit.is_tokens else "unit"
    asked = NoPayment("Payment required", remedy=f"POST the request with a payment; this is the price of one {one}.")
    challenge(asked, desk, listing, manifest, price, path)
    raise asked


@router.get("/.well-known/x402")
async def endpoints(request: Request) -> Any:
    """List the endpoints that are paid by x402, with what one unit costs at each, or one token."""
    desk = _desk(request)
    return written_once(request, lambda joined: orjson.dumps(_endpoints(joined, desk)))


def _endpoints(joined: GatewayRuntime, desk: X402Desk) -> dict[str, Any]:
    resources = []
    for listing in joined.registry.listings():
        manifest = joined.offers.manifest(listing.model_id) if listing.active else None
        if manifest is None:
            continue
        try:
            price = price_of(joined, listing, 1, None)
        except NoCapacity:
            continue
        resources.append(
            {
                "resource": desk.origin + infer_path(listing),
                "type": "http",
                "method": "POST",
                "x402Version": 2,
                "accepts": terms.accepts(desk, price),
                "extensions": {"bazaar": terms.bazaar(manifest)} if manifest.is_listed_whole else {},
                "metadata": {
                    "model": listing.name,
                    "modelId": hex0x(listing.model_id),
                    "task": manifest.task,
                    "unit": manifest.unit.name.lower(),
                    "unitPrice": str(joined.offers.quotes(listing.model_id)[0].unit_price),
                },
            }
        )
    return {"version": 1, "x402Version": 2, "resources": [found["resource"] for found in resources], "items": resources}


@router.get("/market/v1/x402/credit/{payer}")
async def credit(request: Request, payer: str) -> Any:
    """Tell what a payer bought in packs and has left, in atomic token units."""
    account = address_from_hex(payer, field="payer")
    found = await asyncio.to_thread(_desk(request).book.credit, account)
    amounts = {"available": found.available, "held": found.held, "bought": found.bought, "refunded": found.refunded}
    return {"payer": checksum(account), **{name: str(amount) for name, amount in amounts.items()}}


@router.get("/market/v1/x402/sign-in")
async def sign_in_terms(request: Request) -> Any:
    """Return a challenge to sign for a refund."""
    desk = _desk(request)
    return terms.sign_in_challenge(desk, desk.origin + request.url.path)


@router.post("/market/v1/x402/refund")
async def refund_credit(request: Request) -> Any:
    """Send the account that signed in (SIGN-IN-WITH-X) all its unused credit back; the same proof, the same refund."""
    desk = _desk(request)
    header = x402_headers(request.headers).sign_in
    if header is None:
        raise InvalidRequest(
            "SIGN-IN-WITH-X is missing.", field="SIGN-IN-WITH-X", remedy="Sign the challenge of a 402."
        )
    try:
        proof = sign_in.verify(header, origin=desk.origin, network=desk.merchant.network, now=time.time())
    except PaymentRefused as refused:
        raise InvalidRequest(refused.detail, field="SIGN-IN-WITH-X") from refused
    found = await refunds.refund_credit(desk, proof)
    if found is None:
        raise NothingToRefund(f"{checksum(proof.address)} has no unused credit.")
    amount, transaction = found
    return {"payer": checksum(proof.address), "amount": str(amount), "transaction": transaction}


def _desk(request: Request) -> X402Desk:
    desk = runtime(request).x402
    if desk is None:
        raise NoX402
    return desk
