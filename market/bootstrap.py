"""The only place that joins ports to adapters: settings in, running programs' parts out.

Decides which adapter stands behind each port, and refuses to start where a service is missing, wrong or another
network's, saying what and how to mend it. Holds no rule of the market. Called by the commands and `market.jobs`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from contracts import tracing
from contracts.bindings.deploy import Contracts, bind
from contracts.bindings.errors import ChainError, NodeUnreachable
from contracts.bindings.keystore import KeystoreError, load_keystore
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Transactor
from contracts.deployments import Deployment, NoDeployment
from contracts.deployments import load as load_deployment
from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import address_from_hex
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from market import telemetry
from market.adapters.celery_dispatch import CeleryDispatcher
from market.adapters.chain_reader import Web3ChainReader
from market.adapters.chain_window import ChainWindow
from market.adapters.database.engine import open_engine
from market.adapters.database.key_book import DatabaseKeyBook
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.migrate import upgrade
from market.adapters.database.outbox import DatabaseOutbox
from market.adapters.database.proofs import DatabaseProofs
from market.adapters.database.refund_promises import DatabaseRefundPromises
from market.adapters.database.registry_store import DatabaseRegistryStore, DatabaseRegistryView
from market.adapters.database.settlement_book import DatabaseSettlementBook
from market.adapters.database.statistics import DatabaseStatistics
from market.adapters.database.traces import DatabaseTraces
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.house_channel import HouseChannel
from market.adapters.lane_router import JoinedAnnouncements, LanePapers, LaneRouter
from market.adapters.link_bars import RedisBars
from market.adapters.link_dispatch import LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.adapters.link_relay import LinkRelay
from market.adapters.memory_reservations import MemoryReservations
from market.adapters.rates import MemoryRates, RedisRates
from market.adapters.redis_announcements import RedisAnnouncements
from market.adapters.redis_client import open_redis, reachable
from market.adapters.redis_lease import ReservationsLease
from market.adapters.redis_reservations import RedisReservations
from market.adapters.settlement_chain import EscrowDisputes, EscrowSettlementChain, RegistryStanding
from market.adapters.x402_housekeeping import Housekeeping
from market.errors import (
    ChainUnreachable,
    ConfigurationError,
    DatabaseUnreachable,
    RedisUnreachable,
    WrongNetwork,
)
from market.inference.channel_facts import RegistryChannels
from market.inference.papers import PapersDesk
from market.inference.plain import PlainLane
from market.inference.rates import RateLimits, Rates
from market.inference.service import InferenceLimits, InferenceService
from market.payments.authorize import Authorizer
from market.payments.capabilities import Capabilities
from market.payments.model import StoredReceipt
from market.payments.ports import Ledger, Reservations
from market.payments.refunds import RefundDesk, RefundPromises
from market.payments.x402_channels import MIN_WITHDRAW_SECONDS, Merchant
from market.payments.x402_ports import X402Desk
from market.registry.indexer import Indexer
from market.registry.offers import LiveOffers
from market.registry.ports import RegistryView
from market.settings import MarketSettings
from market.settlement.answer import Answerer
from market.settlement.ports import Batch
from market.settlement.settle import Rhythm, Settler

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from web3 import Web3

REGISTRY_REFRESH_SECONDS = 0.25
# Several refreshes, so that every process of this gateway has seen a promised refund before it is signed.
PROMISE_SEEN_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Services:
    """What every program of a gateway stands on, opened and checked."""

    settings: MarketSettings
    key: PrivateKey
    web3: Web3
    deployment: Deployment
    contracts: Contracts
    engine: Engine

    @cached_property
    def domain(self) -> Domain:
        """Where signatures are valid."""
        return Domain(self.deployment.chain_id, self.deployment.escrow)


def open_services(settings: MarketSettings) -> Services:
    """Open key, chain, database and Redis, each with a clear refusal.

    Raises:
        ConfigurationError: the key does not open, or no addresses are known.
        ChainUnreachable | WrongNetwork: the node is away, or not the one meant.
        DatabaseUnreachable | RedisUnreachable: the service does not answer.
    """
    key = _open_key(settings)
    web3, deployment, contracts = _open_chain(settings)
    engine = open_engine(settings.database_url)
    try:
        upgrade(engine)
    except DatabaseUnreachable as error:
        raise DatabaseUnreachable(
            f"{settings.masked_database_url()} does not answer.", field="MARKET_DATABASE_URL"
        ) from error
    asyncio.run(_check_redis(settings))
    return Services(settings, key, web3, deployment, contracts, engine)


def _open_key(settings: MarketSettings) -> PrivateKey:
    if settings.keystore is None:
        raise ConfigurationError(
            "the gateway's key is not named.",
            field="MARKET_KEYSTORE",
            remedy="Name a keystore file; `market wallet new` makes one.",
        )
    try:
        return load_keystore(settings.keystore, settings.keystore_password_file)
    except KeystoreError as error:
        raise ConfigurationError(error.detail, field="MARKET_KEYSTORE", remedy=error.remedy) from error


def _open_chain(settings: MarketSettings) -> tuple[Web3, Deployment, Contracts]:
    try:
        web3 = connect(settings.rpc_url, settings.chain_id)
        deployment = _deployment(settings)
        return web3, deployment, bind(web3, deployment)
    except NodeUnreachable as error:
        raise ChainUnreachable(error.detail, field="MARKET_RPC_URL") from error
    except (ChainError, NoDeployment) as error:
        raise WrongNetwork(error.detail, field=error.field, remedy=error.remedy) from error


def _deployment(settings: MarketSettings) -> Deployment:
    given: dict[str, Any] = {
        name: address_from_hex(text, field=f"MARKET_{name.upper()}")
        for name in ("escrow", "worker_registry", "model_registry", "token", "disputes")
        if (text := getattr(settings, name)) is not None
    }
    try:
        return replace(load_deployment(settings.chain_id, settings.deployment), **given)
    except NoDeployment:
        if settings.deployment is None and len(given) == 5:
            return Deployment(chain_id=settings.chain_id, **given)
        raise


async def _check_redis(settings: MarketSettings) -> None:
    client = open_redis(settings.redis_url, max_connections=1)
    try:
        with reachable():
            await client.ping()
    except RedisUnreachable as error:
        raise RedisUnreachable(f"{settings.masked_redis_url()} does not answer.", field="MARKET_REDIS_URL") from error
    finally:
        await client.aclose()


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
    statistics: DatabaseStatistics
    chain_window: ChainWindow
    capabilities: Capabilities
    plain: PlainLane | None = None
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
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for end in self.on_close:
            pending = end()
            if pending is not None:
                await pending

    async def settlement_of(self, stored: StoredReceipt) -> dict[str, Any] | None:
        """Return where a receipt was settled, with its Merkle proof."""
        return await asyncio.to_thread(self.proofs.of, stored)

    async def _follow_registry(self) -> None:
        while True:
            await asyncio.sleep(REGISTRY_REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh_registry)
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
    reservations: Reservations = (
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
    )

    plain = None
    if isinstance(reservations, MemoryReservations):
        plain = PlainLane(inference, dispatcher=dispatcher, reservations=reservations, ledger=ledger)

    def refresh() -> None:
        view.refresh()
        if settings.shared_reservations:
            promises.refresh()

    chain_window = ChainWindow(settings.rpc_url, contract_addresses(services.deployment).values())
    return GatewayRuntime(
        settings=settings,
        gateway=gateway,
        domain=domain,
        contracts=contract_addresses(services.deployment),
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
        statistics=DatabaseStatistics(services.engine, gateway),
        chain_window=chain_window,
        capabilities=Capabilities(
            domain=domain, gateway=gateway, channels=channels, reservations=reservations, book=key_book
        ),
        plain=plain,
        x402=None if x402 is None else x402[0],
        links=hub,
        rates=rates,
        background=(hub.run, *(() if x402 is None else (x402[1].run,))),
        on_start=(lease.start, dispatcher.start),
        on_close=(
            inference.close,
            *([] if plain is None else [plain.close]),
            dispatcher.close,
            announcements.close,
            chain_window.close,
            *([reservations.close] if isinstance(reservations, RedisReservations) else []),
            *([rates.close] if isinstance(rates, RedisRates) else []),
            *([] if bars is None else [bars.close]),
            key_book.close,
            ledger.close,
            lease.close,
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


def build_x402(
    services: Services, ledger: DatabaseLedger, channels: RegistryChannels
) -> tuple[X402Desk, Housekeeping] | None:
    """Join the x402 door, if the settings name a house account.

    Raises:
        ConfigurationError: the key does not open, or chain or token are not fit for x402.
    """
    settings = services.settings
    if settings.x402_keystore is None:
        return None
    # The SDK takes half a second to import.
    from market.adapters.x402_facilitator import InProcessFacilitator, token_domain
    from market.adapters.x402_signer import HouseSigner

    password_file = settings.x402_keystore_password_file or settings.keystore_password_file
    try:
        key = load_keystore(settings.x402_keystore, password_file)
    except KeystoreError as error:
        raise ConfigurationError(error.detail, field="MARKET_X402_KEYSTORE", remedy=error.remedy) from error
    chain_id, token = services.deployment.chain_id, services.deployment.token
    name, version = token_domain(services.web3, token, chain_id)
    merchant = Merchant(chain_id, token, key.address, MIN_WITHDRAW_SECONDS)
    transactor = Transactor(
        services.web3, key, outbox=DatabaseOutbox(services.engine), confirmations=settings.confirmations
    )
    try:
        transactor.resume()
    except ChainError as error:
        raise ChainUnreachable(error.detail, field="MARKET_RPC_URL", remedy=error.remedy) from error
    facilitator = InProcessFacilitator(
        HouseSigner(services.web3, key, transactor), transactor, services.contracts.token, merchant
    )
    book = DatabaseBook(services.engine)
    if not settings.shared_reservations:
        book.inherit()
    house = HouseChannel(
        key=services.key,
        domain=services.domain,
        channels=channels,
        escrow=services.contracts.escrow,
        token=services.contracts.token,
        transactor=transactor,
        target=settings.x402_house_target,
    )
    if settings.public_url is None and settings.host not in ("127.0.0.1", "localhost"):
        raise ConfigurationError(
            "clients that pay by x402 must know by which address they reach this gateway.",
            field="MARKET_PUBLIC_URL",
            remedy="Set it to the scheme, host and port that clients use, such as https://gateway.example.",
        )
    scheme = "http" if settings.tls_certificate is None else "https"
    origin = settings.public_url or f"{scheme}://{settings.host}:{settings.port}"
    desk = X402Desk(merchant, facilitator, book, house, name, version, settings.x402_pack, origin)
    housekeeping = Housekeeping(
        desk, house=house, ledger=ledger, claim_interval_seconds=settings.x402_claim_interval_seconds
    )
    return desk, housekeeping


def contract_addresses(deployment: Deployment) -> dict[str, bytes]:
    """Return a deployment's addresses by name."""
    names = ("escrow", "worker_registry", "model_registry", "token", "disputes")
    return {name: getattr(deployment, name) for name in names}


@dataclass(frozen=True)
class Jobs:
    """The gateway's background work, one step a call; see `market.jobs`."""

    indexer: Indexer
    settler: Settler
    answerer: Answerer
    view: DatabaseRegistryView
    ledger: DatabaseLedger
    traces: DatabaseTraces

    def index(self) -> int:
        """Apply what the chain has confirmed; returns how many blocks."""
        return self.indexer.catch_up()

    def settle(self) -> Batch | None:
        """Take one step of settlement; returns a batch when it is confirmed."""
        self.view.refresh()
        began_at = time.time()
        batch = self.settler.step()
        if batch is not None and tracing.is_on():
            self.traces.tell(batch, began_at, time.time())
        return batch

    def answer(self) -> None:
        """Answer challenges of receipts that are settled; settle at once what is challenged and waits."""
        self.view.refresh()
        if self.answerer.step():
            self.settler.step(force=True)

    def measure(self) -> None:
        """Note what waits for settlement, how far the index lies behind and how much stake thaws.

        Raises:
            ChainUnreachable: the node does not answer; what waits was noted.
        """
        now, backlog = time.time(), self.settler.backlog()
        telemetry.UNSETTLED_UNITS.set(backlog.value)
        telemetry.UNSETTLED_RECEIPTS.set(backlog.receipts)
        telemetry.UNSETTLED_AGE.set(self.settler.waited_seconds(backlog))
        telemetry.OPEN_CHALLENGES.set(len(self.view.challenges(self.settler.gateway)))
        telemetry.THAWING.set(sum(found.thawing for found in self.view.workers()))
        behind, newest_at = self.indexer.lag()
        telemetry.BLOCKS_BEHIND.set(behind)
        telemetry.BLOCK_AGE.set(max(0.0, now - newest_at))

    def sweep(self) -> int:
        """Drop stored answers whose time has passed; returns how many."""
        return asyncio.run(self.ledger.sweep(time.time()))


def build_jobs(settings: MarketSettings) -> Jobs:
    """Join the background work of one gateway; what was sent and not confirmed is sent again.

    Raises:
        OperationError: see `open_services`.
    """
    services = open_services(settings)
    gateway = services.key.address
    try:
        min_stake = services.contracts.workers.min_stake()
        transactor = Transactor(
            services.web3,
            services.key,
            outbox=DatabaseOutbox(services.engine),
            confirmations=settings.confirmations,
        )
        transactor.resume()
    except ChainError as error:
        raise ChainUnreachable(error.detail, field="MARKET_RPC_URL", remedy=error.remedy) from error
    view = DatabaseRegistryView(services.engine)
    standing = RegistryStanding(view, gateway)
    return Jobs(
        indexer=Indexer(
            Web3ChainReader(services.web3, services.contracts),
            DatabaseRegistryStore(services.engine, min_stake=min_stake),
            confirmations=settings.confirmations,
            first_block=services.deployment.block,
        ),
        settler=Settler(
            gateway=gateway,
            book=DatabaseSettlementBook(services.engine),
            chain=EscrowSettlementChain(services.contracts.escrow, transactor),
            standing=standing,
            rhythm=Rhythm(settings.settle_interval_seconds, settings.settle_value),
        ),
        answerer=Answerer(
            challenges=standing,
            proofs=DatabaseProofs(services.engine, view),
            chain=EscrowDisputes(services.contracts.disputes, transactor),
        ),
        view=view,
        ledger=DatabaseLedger(services.engine, gateway),
        traces=DatabaseTraces(services.engine),
    )
