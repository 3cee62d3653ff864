"""Joins the audits of one gateway process: what is chosen, who is asked, by which way, with whose money."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from contracts.futures import resolve
from contracts.protocol.tensors import encode_tensors
from market.adapters.database.audit_book import DatabaseAuditBook
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.bootstrap.services import open_key
from market.inference.audit_queue import AuditQueue, Chosen
from market.inference.audits import Auditor
from market.inference.model import Answer, InferenceRequest
from market.inference.plain_lanes import EitherPlainLane
from market.inference.service import InferenceService
from market.payments.model import ParsedVoucher
from market.registry.offers import LiveOffers
from market.settings import MarketSettings
from market.verification.audit_choice import AuditShares

log = structlog.get_logger(__name__)


def build_audit_queue(settings: MarketSettings, offers: LiveOffers, *, paid: bool) -> AuditQueue | None:
    """Make the choice of what is audited; None where nothing is. `paid`: there is money of the gateway's own for it."""
    if not (settings.audit_share or (settings.audit_new_share and settings.audit_new_requests)):
        return None
    if not paid:
        log.info("audits-off", reason="there is no house account to pay them from", setting="MARKET_X402_KEYSTORE")
        return None

    def provider(worker: bytes) -> str:
        announcement = offers.announcement(worker)
        return "" if announcement is None else announcement.provider

    shares = AuditShares(settings.audit_share, settings.audit_new_share, settings.audit_new_requests)
    return AuditQueue(shares, tolerance=settings.audit_tolerance, provider=provider, clock=time.monotonic)


def build_auditor(
    settings: MarketSettings,
    queue: AuditQueue,
    *,
    book: DatabaseAuditBook,
    offers: LiveOffers,
    inference: InferenceService,
    plain: EitherPlainLane,
    voucher: Callable[[], ParsedVoucher],
) -> Auditor:
    """Join the audits of what the queue chooses."""
    return Auditor(
        queue,
        book=book,
        offers=offers,
        placement=inference.parts.placement,
        ask=by_the_clients_way(inference, plain),
        voucher=voucher,
        referees=settings.referees(),
        clock=time.monotonic,
        wall_clock=time.time,
    )


def by_the_clients_way(
    inference: InferenceService, plain: EitherPlainLane
) -> Callable[[InferenceRequest, Chosen], Awaitable[Answer]]:
    """Return how a request is served as a client's is: on the short lane where that takes it, else by the use case."""

    async def ask(request: InferenceRequest, chosen: Chosen) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        blob = encode_tensors(request.tensors, request.parameters)
        if not plain.begin(request, chosen.listing, chosen.manifest, blob, partial(resolve, answered)):
            return await inference.infer(request)
        return await answered

    return ask


@contextmanager
def open_audit_book(settings: MarketSettings) -> Iterator[DatabaseAuditBook]:
    """Open the book of a gateway's audits by itself, for a command.

    Raises:
        ConfigurationError: the key does not open.
        DatabaseUnreachable: the database does not answer.
    """
    gateway = open_key(settings).address
    engine = open_engine(settings.database_url)
    try:
        upgrade(engine)
        yield DatabaseAuditBook(engine, gateway)
    finally:
        engine.dispose()
