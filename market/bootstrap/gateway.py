"""Joins one gateway process: what the routes use, and the loops behind it."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from contracts.futures import end_all
from contracts.protocol.errors import CodedError
from contracts.protocol.typed_data import Domain
from market.adapters.celery_dispatch import CeleryDispatcher
from market.adapters.chain_window import ChainWindow
from market.adapters.database.audit_book import DatabaseAuditBook
from market.adapters.database.changes import Changes
from market.adapters.database.key_book import DatabaseKeyBook
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.proofs import DatabaseProofs
from market.adapters.database.refund_promises import DatabaseRefundPromises
from market.adapters.database.registry_store import DatabaseRegistryView
from market.adapters.database.statistics import DatabaseStatistics
from market.adapters.lane_router import JoinedAnnouncements, LanePapers, LaneRouter
from market.adapters.link_bars import RedisBars
from market.adapters.link_dispatch import LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.adapters.link_relay import LinkRelay
from market.adapters.memory_reservations import MemoryReservations
from market.adapters.rates import MemoryRates, RedisRates
from market.adapters.redis_announcements import RedisAnnouncements
from market.adapters.redis_lease import ReservationsLease
from market.adapters.redis_reservations import RedisReservations
from market.aside import looking
from market.bootstrap.audits import build_audit_queue, build_auditor
from market.bootstrap.services import open_services
from market.bootstrap.x402 import build_x402
from market.inference.audit_model import AuditBook
from market.inference.channel_facts import RegistryChannels
from market.inference.papers import PapersDesk
from market.inference.plain_lanes import EitherPlainLane, InstantPlainLane, SharedPlainLane
from market.inference.rates import RateLimits, Rates
from market.inference.service import InferenceLimits, InferenceService
from market.payments.authorize import Authorizer
from market.payments.capabilities import Capabilities
from market.payments.model import StoredReceipt
from market.payments.ports import Ledger, Reservations
from market.payments.refunds import RefundDesk, RefundPromises
from market.payments.x402_ports import X402Desk
from market.registry.offers import LiveOffers
from market.registry.ports import RegistryView
from market.settings import MarketSettings

REGISTRY_REFRESH_SECONDS = 0.25
# Several refreshes, so that every process of this gateway has seen a promised refund before it is signed.
PROMISE_SEEN_SECONDS = 2.0

log = structlog.get_logger(__name__)


class SettlementProofs(Protocol):
    """Where a receipt's place in its settled batch is found."""

    def of(self, stored: StoredReceipt) -> dict[str, Any] | None:
        """Return epoch, root, index, proof and transaction of a receipt settled on chain, None until then."""
        ...


@dataclass
class GatewayRuntime:
    """One gateway process: what the routes use, and the loops behind it."""

    settings: MarketSettings
    gateway: bytes
    domain: Domain
    contracts: Mapping[str, bytes]
    registry: RegistryView
    offers: LiveOffers
    inference: InferenceService
    ledger: Ledger
    reservations: Reservations
    promises: RefundPromises
    refunds: RefundDesk
    proofs: SettlementProofs
    refresh_registry: Callable[[], object]
    registry_changed: Callable[[], bool]
    statistics: DatabaseStatistics
    chain_window: ChainWindow
    capabilities: Capabilities
    audit_book: AuditBook
    plain: EitherPlainLane
    x402: X402Desk | None = None
    links: LinkHub | None = None
    rates: Rates | None = None
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    on_start: Sequence[Callable[[], object]] = ()
    on_close: Sequence[Callable[[], Awaitable[object] | None]] = ()
    _loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Read the registry and the offers once, then keep both fresh; call it inside the event loop."""
        await asyncio.to_thread(self.refresh_registry)
        await self.offers.refresh()
        for begin in self.on_start:
            begin()
        for loop in (self._follow_registry(), self.offers.run(), *(work() for work in self.background)):
            self._loops.append(asyncio.create_task(loop))

    async def close(self) -> None:
        """Finish what is charged, end the loops, drop the connections."""
        await end_all(self._loops)
        for end in self.on_close:
            pending = end()
            if pending is not None:
                await pending

    async def settlement_of(self, stored: StoredReceipt) -> dict[str, Any] | None:
        """Return where a receipt was settled, with its Merkle proof."""
        return await looking(self.proofs.of, stored)

    async def _follow_registry(self) -> None:
        stale = True
        while True:
            await asyncio.sleep(REGISTRY_REFRESH_SECONDS)
            # Asked first: what is written while it is read is read the next time.
            stale = self.registry_changed() or stale
            if not stale:
                continue
            try:
                await asyncio.to_thread(self.refresh_registry)
                stale = False
            except CodedError as error:
                log.warning("registry-unreadable", code=error.code)


def build_gateway(settings: MarketSettings) -> GatewayRuntime:
    """Join one gateway process.

    Raises:
        OperationError: see `open_services`.
    """
    services = open_services(settings)
    gateway, domain = services.key.address, services.domain
    view = DatabaseRegistryView(services.engine)
    ledger = DatabaseLedger(services.engine, gateway)
    process_id = f"{settings.gateway_id}-{os.getpid()}-{secrets.token_hex(4)}"
    lease = ReservationsLease(settings.redis_url, gateway, shared=settings.shared_reservations, process_id=process_id)
    asyncio.run(lease.acquire())
    reservations = (
        RedisReservations(settings.redis_url, ledger) if settings.shared_reservations else MemoryReservations(ledger)
    )
    announcements = RedisAnnouncements(settings.redis_url)
    bars = RedisBars(settings.redis_url, gateway) if settings.shared_reservations else None
    hub = LinkHub(key=services.key, domain=domain, in_standing=_standing_in(view), bars=bars)
    relay = None
    if settings.shared_reservations:
        relay = LinkRelay(settings.redis_url, gateway=gateway, process_id=process_id, hub=hub)
    offers = LiveOffers(
        announcements=JoinedAnnouncements(announcements, hub, relay),
        registry=view,
        domain=domain,
        gateway=gateway,
        fee_ppm=settings.fee_ppm,
    )
    promises = DatabaseRefundPromises(services.engine)
    channels = RegistryChannels(view, promises)
    key_book = DatabaseKeyBook(services.engine)
    x402 = build_x402(services, ledger, channels)
    papers = PapersDesk(key=services.key, domain=domain)
    lives: dict[str, Any] = {"is_live": offers.is_live, "max_batch": offers.max_batch}
    own_papers = LanePapers(papers, lambda worker: not linked.reaches(worker))
    own = CeleryDispatcher(settings.redis_url, process_id=process_id, papers=own_papers, **lives)
    linked_papers = LanePapers(papers, lambda worker: linked.reaches(worker))  # noqa: PLW0108 - it is made below
    linked = LinkDispatcher(hub, papers=linked_papers, relay=relay, **lives)
    dispatcher = LaneRouter(own, linked, hub, relay)
    rates = _rates(settings, gateway)
    audit_queue = build_audit_queue(settings, offers, paid=x402 is not None)
    audit_book = DatabaseAuditBook(services.engine, gateway)
    inference = InferenceService(
        key=services.key,
        domain=domain,
        registry=view,
        offers=offers,
        authorizer=Authorizer(
            domain=domain,
            gateway=gateway,
            channels=channels,
            reservations=reservations,
            exposure_cap=settings.exposure_cap,
        ),
        reservations=reservations,
        ledger=ledger,
        dispatcher=dispatcher,
        papers=papers,
        limits=InferenceLimits(
            fee_ppm=settings.fee_ppm,
            timeout_seconds=settings.request_timeout_seconds,
            generation_timeout_seconds=settings.generation_timeout_seconds,
            max_queue_seconds=settings.max_queue_seconds,
            hedge_share=settings.hedge_share,
        ),
        rates=rates,
        audits=audit_queue,
    )

    plain: EitherPlainLane
    if isinstance(reservations, RedisReservations):
        plain = SharedPlainLane(inference, dispatcher=dispatcher, reservations=reservations, ledger=ledger)
    else:
        plain = InstantPlainLane(inference, dispatcher=dispatcher, reservations=reservations, ledger=ledger)
    background = [hub.run]
    if x402 is not None:
        background.append(x402[1].run)
        if audit_queue is not None:
            auditor = build_auditor(
                settings,
                audit_queue,
                book=audit_book,
                offers=offers,
                inference=inference,
                plain=plain,
                voucher=x402[0].house.voucher,
            )
            background.append(auditor.run)

    def refresh() -> None:
        view.refresh()
        if settings.shared_reservations:
            promises.refresh()

    changes = Changes(services.engine)
    chain_window = ChainWindow(settings.rpc_url, services.deployment.contracts().values())
    return GatewayRuntime(
        settings=settings,
        gateway=gateway,
        domain=domain,
        contracts=services.deployment.contracts(),
        registry=view,
        offers=offers,
        inference=inference,
        ledger=ledger,
        reservations=reservations,
        promises=promises,
        refunds=RefundDesk(
            key=services.key,
            domain=domain,
            channels=channels,
            reservations=reservations,
            promises=promises,
            visible_after_seconds=PROMISE_SEEN_SECONDS if settings.shared_reservations else 0.0,
        ),
        proofs=DatabaseProofs(services.engine, view),
        refresh_registry=refresh,
        registry_changed=changes.any,
        statistics=DatabaseStatistics(services.engine, gateway),
        chain_window=chain_window,
        capabilities=Capabilities(
            domain=domain, gateway=gateway, channels=channels, reservations=reservations, book=key_book
        ),
        plain=plain,
        x402=None if x402 is None else x402[0],
        links=hub,
        rates=rates,
        audit_book=audit_book,
        background=background,
        on_start=(lease.start, dispatcher.start),
        on_close=(
            inference.close,
            plain.close,
            dispatcher.close,
            announcements.close,
            chain_window.close,
            *([reservations.close] if isinstance(reservations, RedisReservations) else []),
            *([rates.close] if isinstance(rates, RedisRates) else []),
            *([] if bars is None else [bars.close]),
            key_book.close,
            ledger.close,
            lease.close,
            changes.close,
            services.engine.dispose,
        ),
    )


def _rates(settings: MarketSettings, gateway: bytes) -> MemoryRates | RedisRates | None:
    limits = RateLimits(settings.rate_by_address, settings.rate_by_payer, settings.rate_by_key)
    if not limits.any:
        return None
    return RedisRates(settings.redis_url, gateway, limits) if settings.shared_reservations else MemoryRates(limits)


def _standing_in(view: RegistryView) -> Callable[[bytes], bool]:
    def in_standing(worker: bytes) -> bool:
        record = view.worker(worker)
        return record is not None and record.registered and record.active

    return in_standing
