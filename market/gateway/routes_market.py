"""The market's read API: status, models, workers, channels, receipts with proofs, settlements, earnings.

Everything served here is public: the chain holds most of it, and a receipt is useless to others. Nothing here changes
state or costs money.
"""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter
from starlette.responses import Response

from contracts.protocol.hexes import checksum
from market.aside import looking
from market.bootstrap.gateway import GatewayRuntime
from market.errors import ChannelNotFound, InvalidRequest, ReceiptNotFound
from market.gateway import schemas, views
from market.gateway.lookup import address_of, find_listing, hash_of, runtime
from market.gateway.problems import all_errors, status_of, title_of
from market.gateway.written import as_json, written_once
from market.registry.model import Listing
from market.telemetry import LIVE_WORKERS, METRICS

router = APIRouter(prefix="/market/v1", tags=["Market"])
plain = APIRouter(tags=["Operations"])
MAX_PAGE = 1_000
# A proof takes a tree over its whole batch, 30 ms for one of the usual size, and nobody pays for it.
PROVEN_BATCHES = 64
_MODELS = TypeAdapter(list[schemas.Model])


@router.get("/status", response_model=schemas.Status)
async def status(request: Request) -> Any:
    """Name the gateway, its chain and contracts, and how far it has read the chain."""
    joined = runtime(request)
    settlements = joined.registry.settlements(joined.gateway)
    return {
        "version": package_version("inference-market"),
        "gateway": checksum(joined.gateway),
        "chain_id": joined.domain.chain_id,
        "escrow": checksum(joined.domain.escrow),
        "token": checksum(joined.contracts["token"]),
        "contracts": {name: checksum(address) for name, address in joined.contracts.items()},
        "fee_ppm": joined.settings.fee_ppm,
        "confirmations": joined.settings.confirmations,
        "exposure_cap": str(joined.settings.exposure_cap),
        "indexed_block": joined.registry.cursor() or 0,
        "live_workers": len(joined.offers.workers()),
        "models": len(joined.registry.listings()),
        "last_epoch": max((found.epoch for found in settlements), default=0),
    }


@router.get("/models", response_model=list[schemas.Model])
async def models(request: Request, owner: str | None = None) -> Any:
    """List every listing, or one owner's, with its live offers and how they served in the last hour.

    Inputs, outputs and options that take more than 64 KiB are null here and addresses are cut after 2,048 characters;
    they are whole where the model is asked for.
    """
    if owner is None:
        return written_once(request, _all_models)
    return _models(runtime(request), address_of(owner, field="owner"))


def _all_models(joined: GatewayRuntime) -> bytes:
    return as_json(_MODELS, _models(joined))


def _models(joined: GatewayRuntime, owner: bytes | None = None) -> list[dict[str, Any]]:
    rows = []
    for found in joined.registry.listings():
        if owner in (None, found.owner):
            row = _model(joined, found)
            row["uri"] = views.cut(found.uri)
            manifest = joined.offers.manifest(found.model_id)
            if manifest is not None and not manifest.is_listed_whole:
                row |= {"inputs": None, "outputs": None, "options": None}
            rows.append(row)
    return rows


@router.get("/models/{model}", response_model=schemas.Model)
async def model(request: Request, model: str) -> Any:
    """Describe one listing with its live offers."""
    joined = runtime(request)
    return _model(joined, find_listing(joined, model))


def _model(joined: GatewayRuntime, found: Listing) -> dict[str, Any]:
    quotes = joined.offers.quotes(found.model_id)
    places = [
        views.cut(worker.region) for quote in quotes if (worker := joined.registry.worker(quote.worker)) is not None
    ]
    return {
        **views.listing(found, joined.offers.manifest(found.model_id), quotes),
        "regions": sorted(set(filter(None, places))),
        "performance": views.performance(joined.inference.activity.performance(model_id=found.model_id)),
    }


@router.get("/workers", response_model=list[schemas.Worker])
async def workers(request: Request, operator: str | None = None) -> Any:
    """List the registered workers, or one operator's, and which of them are live."""
    joined = runtime(request)
    wanted = None if operator is None else address_of(operator, field="operator")
    return [
        views.worker(found, joined.offers.announcement(found.worker))
        for found in joined.registry.workers()
        if wanted in (None, found.operator)
    ]


@router.get("/channels/{channel_id}", response_model=schemas.Channel)
async def channel(request: Request, channel_id: str) -> Any:
    """Describe a channel: deposit, charge, reservations, what may still be spent."""
    joined = runtime(request)
    wanted = hash_of(channel_id, "channel_id")
    found = joined.registry.channel(wanted)
    if found is None:
        raise ChannelNotFound(field="channel_id")
    promised = joined.promises.outstanding(wanted, found.refund_nonce)
    account = await joined.reservations.account(wanted)
    return views.channel(found, account, joined.settings.exposure_cap, promised=promised)


@router.get("/channels/{channel_id}/receipts", response_model=list[schemas.Receipt])
async def channel_receipts(
    request: Request,
    channel_id: str,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Any:
    """List a channel's receipts in the order in which they were charged, those beyond position `after`.

    A page of more than 64 may be shorter than `limit` though others follow: it ends before the 65th batch.
    """
    joined = runtime(request)
    page, batches = [], set[int]()
    for one in await joined.ledger.receipts(hash_of(channel_id, "channel_id"), after=after, limit=limit):
        if one.epoch is not None:
            batches.add(one.epoch)
            if len(batches) > PROVEN_BATCHES:
                break
        page.append(views.receipt(one, await joined.settlement_of(one)))
    return page


@router.get("/receipts/{request_id}", response_model=schemas.Receipt)
async def receipt(request: Request, request_id: str, channel: str | None = None) -> Any:
    """Return a receipt with its Merkle proof once it is settled."""
    joined = runtime(request)
    channel_id = None if channel is None else hash_of(channel, "channel")
    stored = await joined.ledger.receipt(hash_of(request_id, "request_id"), channel_id)
    if stored is None:
        raise ReceiptNotFound(field="request_id")
    return views.receipt(stored, await joined.settlement_of(stored))


@router.get("/settlements", response_model=list[schemas.Settlement])
async def settlements(request: Request, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE) -> Any:
    """List this gateway's settlements on chain, the oldest first."""
    joined = runtime(request)
    booked = await looking(joined.statistics.batches)
    found = joined.registry.settlements(joined.gateway)[-limit:]
    return [views.settlement(one, booked.get(one.epoch)) for one in found]


@router.get("/settlements/{epoch}", response_model=schemas.Settlement)
async def settlement(request: Request, epoch: int) -> Any:
    """Return one settlement."""
    joined = runtime(request)
    booked = await looking(joined.statistics.batches)
    for found in joined.registry.settlements(joined.gateway):
        if found.epoch == epoch:
            return views.settlement(found, booked.get(epoch))
    raise ReceiptNotFound(f"epoch {epoch} is not settled.", field="epoch", remedy="GET /market/v1/settlements.")


@router.get("/settlements/{epoch}/receipts", response_model=list[schemas.Leaf])
async def settlement_receipts(
    request: Request,
    epoch: Annotated[int, Path(ge=1, lt=2**63)],
    after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
) -> Any:
    """List a batch's receipts in the order of its leaves, those beyond leaf `after`; all of them rebuild its root."""
    return [views.leaf(one) for one in await runtime(request).ledger.batch(epoch, after=after, limit=limit)]


@router.get("/payees/{address}", response_model=schemas.Payee)
async def payee(request: Request, address: str) -> Any:
    """Return what a payee earned here, what is credited on chain and what it has withdrawn."""
    joined = runtime(request)
    wanted = address_of(address)
    return views.payee(wanted, await joined.ledger.earned(wanted), joined.registry.credits(joined.gateway, wanted))


@router.get("/owners/{address}/earnings", response_model=schemas.Earnings)
async def earnings(request: Request, address: str) -> Any:
    """Return what an owner's models earned it through this gateway."""
    wanted = address_of(address)
    rows = [found for found in await runtime(request).ledger.earnings(wanted) if found.role == "owner"]
    return {
        "owner": checksum(wanted),
        "total": str(sum(found.earned for found in rows)),
        "models": [views.earning(found) for found in rows],
    }


@plain.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Return the Prometheus metrics of this process."""
    LIVE_WORKERS.set(len(runtime(request).offers.workers()))
    return Response(generate_latest(METRICS), media_type=CONTENT_TYPE_LATEST)


@plain.get("/errors/{code}")
async def error(code: str) -> Any:
    """Describe an error code: its meaning, status and who may try again."""
    for found in all_errors():
        if found.code == code:
            return {
                "code": code,
                "title": title_of(found),
                "status": status_of(found),
                "retry": str(found.retry),
                "remedy": getattr(found, "default_remedy", None),
            }
    raise InvalidRequest(f"there is no error code {code!r}.", field="code")
