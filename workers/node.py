"""Joins one worker's parts, with every refusal to start said clearly: chain, registration, models, prices, broker.

Called by the command line; the tasks use what it joined.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import redis
import structlog

from contracts.bindings.deploy import Contracts, bind
from contracts.bindings.dispute_manager import DisputeManager
from contracts.bindings.errors import ChainError, DeploymentError
from contracts.bindings.keystore import KeystoreError, load_keystore
from contracts.bindings.model_registry import ModelState
from contracts.bindings.rpc import ask, connect
from contracts.deployments import NoDeployment
from contracts.deployments import load as load_deployment
from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import checksum, from_hex
from contracts.protocol.money import format_amount
from contracts.protocol.sealing import WorkersKey
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from contracts.redis_url import is_unix
from workers.admission import Admission, Served
from workers.chain import CachedChainFacts
from workers.errors import (
    ChainNotReady,
    ModelError,
    ModelNotListed,
    NotRegistered,
    OfferOutsideBounds,
    RedisNotReady,
    StartError,
)
from workers.execution import Executor
from workers.isolation import confined, confinement_for
from workers.models.isolated.model import try_package
from workers.models.runtime import choose_provider
from workers.models.sandbox import find_bubblewrap
from workers.models.sessions import SessionCache, open_sessions
from workers.models.store import Package, PackageStore
from workers.papers import Journal
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ChainSide:
    """The worker's key and the contracts it works under."""

    key: PrivateKey
    contracts: Contracts
    domain: Domain
    disputes: bytes


@dataclass(frozen=True)
class Node:
    """A worker ready to serve; `sealing` is the key that requests are sealed to, and its signature.

    `gateways` are the ones that it works for.
    """

    settings: WorkerSettings
    side: ChainSide
    key: PrivateKey
    domain: Domain
    operator: bytes
    provider: str
    served: Mapping[bytes, Served]
    sessions: SessionCache
    executor: Executor
    journal: Journal
    redis: redis.Redis
    sealing: bytes
    gateways: frozenset[bytes]


def open_chain(settings: WorkerSettings) -> ChainSide:
    """Open key and chain.

    Raises:
        StartError: the key does not open.
        ChainNotReady: node, chain id or contracts are wrong.
    """
    if settings.keystore is None:
        raise StartError(
            "the worker's key is not named.",
            field="WORKER_KEYSTORE",
            remedy="`worker init` draws one and writes all settings; `market wallet new` makes a keystore alone.",
        )
    try:
        key = load_keystore(settings.keystore, settings.keystore_password_file)
    except KeystoreError as error:
        raise StartError(error.detail, field="WORKER_KEYSTORE", remedy=error.remedy) from error
    try:
        web3 = connect(settings.rpc_url, settings.chain_id)
        deployment = load_deployment(settings.chain_id, settings.deployment)
        contracts = bind(web3, deployment)
    except (DeploymentError, NoDeployment) as error:
        raise ChainNotReady(error.detail, field="WORKER_DEPLOYMENT", remedy=error.remedy) from error
    except ChainError as error:
        raise ChainNotReady(error.detail, field="WORKER_RPC_URL", remedy=error.remedy) from error
    return ChainSide(key, contracts, Domain(deployment.chain_id, deployment.escrow), deployment.disputes)


def check_registered(side: ChainSide) -> bytes:
    """Return the operator of the worker's key.

    Raises:
        NotRegistered: the key is not registered, or its stake is too low.
    """
    try:
        state = side.contracts.workers.worker(side.key.address)
        min_stake = side.contracts.workers.min_stake()
    except ChainError as error:
        raise ChainNotReady(error.detail, field="WORKER_RPC_URL", remedy=error.remedy) from error
    address = checksum(side.key.address)
    if not state.registered:
        raise NotRegistered(
            f"{address} is not registered on chain.", field="WORKER_KEYSTORE", remedy="Run `worker register`."
        )
    if not state.active:
        raise NotRegistered(
            f"{address} has {format_amount(state.stake - state.thawing)} at stake, {format_amount(min_stake)} needed.",
            field="stake",
            remedy="Run `worker stake`.",
        )
    return state.operator


def check_operator(side: ChainSide) -> bytes:
    """Return the operator of the worker's key, registered now or once.

    Raises:
        NotRegistered: the key never was registered.
    """
    try:
        state = side.contracts.workers.worker(side.key.address)
    except ChainError as error:
        raise ChainNotReady(error.detail, field="WORKER_RPC_URL", remedy=error.remedy) from error
    if not any(state.operator):
        raise NotRegistered(f"{checksum(side.key.address)} never was registered on chain.", field="WORKER_KEYSTORE")
    return state.operator


def own_addresses(side: ChainSide) -> frozenset[bytes]:
    """Return the worker's address and, if it is registered, its operator's: whose models are trusted.

    Raises:
        ChainNotReady: the chain does not say.
    """
    try:
        return frozenset({side.key.address, check_operator(side)})
    except NotRegistered:
        return frozenset({side.key.address})


def open_disputes(side: ChainSide) -> DisputeManager:
    """Bind the contract that hears challenges."""
    return DisputeManager(side.contracts.escrow.web3, side.disputes)


def chain_time(side: ChainSide) -> int:
    """Return the newest block's time, unix seconds: contracts know no other clock.

    Raises:
        ChainError: the node does not answer.
    """
    return int(ask(lambda: side.contracts.escrow.web3.eth.get_block("latest"))["timestamp"])


def open_journal(settings: WorkerSettings, side: ChainSide, operator: bytes) -> Journal:
    """Open the worker's papers."""
    path = settings.state_dir.expanduser() / f"papers-{side.key.address.hex()}.db"
    return Journal(path, domain=side.domain, operator=operator)


def find_models(side: ChainSide, settings: WorkerSettings) -> list[tuple[bytes, ModelState, int]]:
    """Return (model id, listing, unit price) for each model to serve.

    Raises:
        ModelNotListed: a name or id is not on chain, or is taken down.
        OfferOutsideBounds: the price is not one the owner allows.
    """
    wanted = settings.priced_models()
    if not wanted:
        raise StartError("no models are named.", field="WORKER_MODELS", remedy="Name at least one listed model.")
    found = []
    for name, price in wanted:
        model_id, listing = find_listing(side, name)
        if not listing.min_price <= price <= listing.max_price:
            raise OfferOutsideBounds(
                f"{price} for {name}; its owner allows {listing.min_price} to {listing.max_price}.",
                field="WORKER_UNIT_PRICE",
                remedy=f"Write {name}=PRICE in WORKER_MODELS, or change the price of all.",
            )
        found.append((model_id, listing, price))
    return found


def find_listing(side: ChainSide, name: str) -> tuple[bytes, ModelState]:
    """Return id and listing of a model by its name or id.

    Raises:
        ModelNotListed: it is not on chain, or is taken down.
    """
    try:
        model_id = from_hex(name, 32, field="WORKER_MODELS") if name.startswith("0x") else b""
        model_id = model_id or side.contracts.models.by_name(name)
        listing = side.contracts.models.model(model_id)
    except InvalidHex as error:
        raise ModelNotListed(error.detail, field="WORKER_MODELS") from error
    except ChainError as error:
        raise ChainNotReady(error.detail, field="WORKER_RPC_URL", remedy=error.remedy) from error
    if listing.owner == bytes(20) or not listing.active:
        raise ModelNotListed(
            f"{name} is not an active listing on chain.",
            field="WORKER_MODELS",
            remedy="Check the name, or ask its owner to list it.",
        )
    return model_id, listing


def open_redis(settings: WorkerSettings) -> redis.Redis:
    """Open the broker's Redis.

    Raises:
        StartError: its address is none.
        RedisNotReady: it does not answer.
    """
    scheme, _, rest = settings.redis_url.partition("://")
    address = f"{scheme}://{rest.rpartition('@')[2]}"
    try:
        client = redis.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=5,
            socket_timeout=15,
            **({} if is_unix(settings.redis_url) else {"socket_keepalive": True}),
            health_check_interval=15,
            protocol=2,
        )
    except ValueError as error:
        raise StartError(
            f"{address} is no address of Redis or Valkey.",
            field="WORKER_REDIS_URL",
            remedy="Write redis://host:port/0, rediss://… for TLS, or unix:///path.",
        ) from error
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise RedisNotReady(
            f"{address} does not answer.",
            field="WORKER_REDIS_URL",
            remedy="Start Redis or Valkey, or name another.",
        ) from error
    return client


def build(settings: WorkerSettings) -> Node:
    """Join a worker: check everything, fetch and load its models.

    Raises:
        WorkerError: what is wrong, in which setting, and how to mend it.
    """
    if not settings.gateway_addresses:
        raise StartError(
            "no gateway is named.",
            field="WORKER_GATEWAYS",
            remedy="Name its address, or link to one by --gateway; `worker init` asks for this and all else.",
        )
    side = open_chain(settings)
    operator = check_registered(side)
    client = open_redis(settings)
    provider = choose_provider(settings.provider)
    store = open_store(settings)
    sessions = open_sessions(settings, provider)
    served: dict[bytes, Served] = {}
    refused: list[ModelError] = []
    ours = frozenset({operator, side.key.address})
    for model_id, listing, price in find_models(side, settings):
        try:
            confinement = confinement_for(listing.owner, ours=ours, settings=settings)
            package = _fetch(store, model_id, listing)
            if confinement is not None:
                sessions.confine(model_id, confinement)
            else:
                _try(package, settings, sessions)
            sessions.get(package)
        except ModelError as error:
            # One bad model keeps nobody from the others; alone it is a reason not to start.
            log.warning("model-refused", model=listing.name, code=error.code, detail=str(error))
            refused.append(error)
            continue
        served[model_id] = Served(package, price)
    if refused and not served:
        raise refused[0]
    facts, sealing = CachedChainFacts(side.contracts), WorkersKey(side.key)
    gateways = frozenset(settings.gateway_addresses)
    admission = Admission(
        domain=side.domain,
        gateways=gateways,
        served=served,
        max_fee_ppm=settings.max_fee_ppm,
        chain=facts,
        sealing=sealing,
    )
    return Node(
        settings=settings,
        side=side,
        key=side.key,
        domain=side.domain,
        operator=operator,
        provider=provider,
        served=served,
        sessions=sessions,
        executor=Executor(key=side.key, domain=side.domain, admission=admission, served=served, sessions=sessions),
        journal=open_journal(settings, side, operator),
        redis=client,
        sealing=sealing.signed(side.domain),
        gateways=gateways,
    )


def _try(package: Package, settings: WorkerSettings, sessions: SessionCache) -> None:
    """Try a model in a process of its own before it is opened here; text generation runs in one anyway."""
    if settings.trial_seconds and package.manifest.task != "text-generation":
        confinement = confined(settings, bubblewrap=find_bubblewrap().program)
        sessions.note_trial(package.model_id, try_package(package, confinement, threads=settings.threads))


def open_store(settings: WorkerSettings) -> PackageStore:
    """Return the cache of packages."""
    return PackageStore(
        settings.model_dir,
        allow_file_uri=settings.allow_file_uri,
        max_package_bytes=settings.max_package_bytes,
        allow_private_hosts=settings.allow_private_hosts,
    )


def _fetch(store: PackageStore, model_id: bytes, listing: ModelState) -> Package:
    started = time.monotonic()
    package = store.get(model_id, listing.uri)
    log.info("package-checked", model=listing.name, id=model_id.hex(), seconds=round(time.monotonic() - started, 2))
    return package
