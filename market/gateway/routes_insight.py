"""How the market does: performance, calls and earnings over time, what waits to be settled, reads of the chain.

The part of the read API that people look at: the web console is made of it, and everybody else may use it the same way.
Nothing here changes state or costs money, and no answer looks at more than a bounded part of the past.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from contracts.protocol.hexes import hex0x
from market.aside import looking, reading
from market.errors import ChainReadRefused, ChainUnreachable, InvalidRequest
from market.gateway import schemas_insight as schemas
from market.gateway import views
from market.gateway.body import read_body
from market.gateway.lookup import address_of, find_listing, require_manifest, runtime
from market.gateway.serving import payment_terms
from market.gateway.tensors_json import HEADER_LENGTH, decode_request, parse_json

router = APIRouter(prefix="/market/v1", tags=["Market"])
MAX_POINTS = 400
_CHAIN_BODY_BYTES = 32_768


@router.get("/workers/{address}", response_model=schemas.WorkerInsight)
async def worker(request: Request, address: str) -> Any:
    """Describe a worker: stake, what it announces, and how it served in the last hour."""
    joined = runtime(request)
    wanted = address_of(address)
    found = joined.registry.worker(wanted)
    if found is None:
        raise InvalidRequest("no worker is registered under this address.", field="address")
    activity = joined.inference.activity
    announcement = joined.offers.announcement(wanted)
    models = [] if announcement is None else [offer.model_id for offer, _ in announcement.offers]
    return {
        **views.worker(found, announcement),
        "performance": views.performance(activity.performance(worker=wanted)),
        "byModel": [
            {
                "modelId": hex0x(model_id),
                "performance": views.performance(activity.performance(worker=wanted, model_id=model_id)),
            }
            for model_id in models
        ],
        "history": [views.minute(one) for one in activity.history(worker=wanted)],
    }


@router.get("/models/{model}/performance", response_model=schemas.ModelInsight)
async def model_performance(request: Request, model: str) -> Any:
    """Tell who serves a model, where and how well, by this gateway's own attempts of the last hour."""
    joined = runtime(request)
    listing = find_listing(joined, model)
    activity, offers = joined.inference.activity, joined.offers
    return {
        "modelId": hex0x(listing.model_id),
        "performance": views.performance(activity.performance(model_id=listing.model_id)),
        "history": [views.minute(one) for one in activity.history(model_id=listing.model_id)],
        "servedBy": [
            {
                **views.worker(found, offers.announcement(quote.worker)),
                "unitPrice": str(quote.unit_price),
                "performance": views.performance(activity.performance(worker=quote.worker, model_id=listing.model_id)),
            }
            for quote in offers.quotes(listing.model_id)
            if (found := joined.registry.worker(quote.worker)) is not None
        ],
    }


@router.post("/models/{model}/quote", response_model=schemas.QuotedTerms, openapi_extra=schemas.QUOTE_BODY)
async def quote(request: Request, model: str) -> Any:
    """Tell what a request would cost at each live offer, at most, and to whom it is paid; nothing runs or is charged.

    The body is the one of `POST /v2/models/{model}/infer`.
    """
    joined = runtime(request)
    listing = find_listing(joined, model)
    manifest = require_manifest(joined, listing)
    settings = joined.settings
    body = await read_body(
        request.headers,
        request.receive,
        max_bytes=settings.max_body_bytes,
        timeout_seconds=settings.body_timeout_seconds,
    )
    decoded = await reading(decode_request, body, manifest, request.headers.get(HEADER_LENGTH))
    return payment_terms(joined, listing, manifest, decoded.tensors, decoded.parameters)


@router.get("/activity", response_model=schemas.Past)
async def activity(
    request: Request,
    operator: str | None = None,
    owner: str | None = None,
    worker: str | None = None,
    model: str | None = None,
    hours: Annotated[int, Query(ge=1, le=24 * 90)] = 24,
    step_seconds: Annotated[int, Query(alias="stepSeconds", ge=60, le=86_400)] = 3_600,
) -> Any:
    """Count charged requests and their money over time, by model: of an operator, owner, worker or model, or of all."""
    joined = runtime(request)
    if hours * 3_600 // step_seconds > MAX_POINTS:
        raise InvalidRequest(
            f"that is more than {MAX_POINTS} steps.", field="stepSeconds", remedy="Ask for fewer hours or longer steps."
        )
    named = {"operator": operator, "owner": owner, "worker": worker}
    who = {name: address_of(text, field=name) for name, text in named.items() if text is not None}
    if model is not None:
        who["model_id"] = find_listing(joined, model).model_id
    since = int(time.time()) - hours * 3_600
    since -= since % step_seconds
    return views.past(await looking(joined.statistics.past, who, since=since, step_seconds=step_seconds))


@router.get("/standing", response_model=schemas.Standing)
async def standing(request: Request) -> Any:
    """Tell what waits to be settled, what the reserve holds, and how far behind the chain this gateway is."""
    joined = runtime(request)
    backlog = await looking(joined.statistics.backlog)
    reserve = joined.registry.reserve(joined.gateway)
    indexed = joined.registry.cursor()
    try:
        head: int | None = await joined.chain_window.head()
    except ChainUnreachable:
        head = None
    confirmed = None if head is None or indexed is None else head - joined.settings.confirmations - indexed
    return {
        "headBlock": head,
        "indexedBlock": indexed,
        "blocksBehind": None if confirmed is None else max(0, confirmed),
        "unsettledReceipts": backlog.receipts,
        "unsettledValue": str(backlog.value),
        "settleIntervalSeconds": joined.settings.settle_interval_seconds,
        "settleValue": str(joined.settings.settle_value),
        "reserve": str(reserve.amount),
        "arrears": str(reserve.arrears),
    }


@router.post("/chain", response_model=schemas.ChainAnswer, openapi_extra=schemas.CHAIN_BODY)
async def chain(request: Request) -> Any:
    """Pass one JSON-RPC read of this market's contracts on to the gateway's node; the answer is that node's word.

    Allowed are eth_chainId, eth_blockNumber, and eth_call and eth_getLogs of the contracts that the status names. Who
    must not trust the gateway asks a node of its own.
    """
    joined = runtime(request)
    if not joined.settings.chain_reads:
        raise ChainReadRefused("this gateway passes no reads on.", remedy="Ask a node of your own, or your wallet's.")
    body = parse_json(
        await read_body(
            request.headers,
            request.receive,
            max_bytes=_CHAIN_BODY_BYTES,
            timeout_seconds=joined.settings.body_timeout_seconds,
        )
    )
    answer = await joined.chain_window.ask(body.get("method"), body.get("params", []))
    return {"jsonrpc": "2.0", "id": body.get("id"), **answer}
