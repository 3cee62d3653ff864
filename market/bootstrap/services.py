"""Opens and checks what every program of a gateway stands on: key, chain, database, Redis.

Refuses to start where a service is missing, wrong or another network's, saying what and how to mend it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from contracts.bindings.deploy import Contracts, bind
from contracts.bindings.errors import ChainError, NodeUnreachable
from contracts.bindings.keystore import KeystoreError, load_keystore
from contracts.bindings.rpc import connect
from contracts.deployments import Deployment, NoDeployment
from contracts.deployments import load as load_deployment
from contracts.protocol.hexes import address_from_hex
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.redis_client import open_redis, reachable
from market.errors import (
    ChainUnreachable,
    ConfigurationError,
    DatabaseUnreachable,
    RedisUnreachable,
    WrongNetwork,
)
from market.settings import MarketSettings

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from web3 import Web3


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
    key = open_key(settings)
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


def open_key(settings: MarketSettings) -> PrivateKey:
    """Open the gateway's key.

    Raises:
        ConfigurationError: it is not named, or does not open.
    """
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
    try:
        client = open_redis(settings.redis_url, max_connections=1)
    except ValueError as error:
        raise ConfigurationError(
            f"{settings.masked_redis_url()} is no address of Redis or Valkey.",
            field="MARKET_REDIS_URL",
            remedy="Write redis://host:port/0, rediss://… for TLS, or unix:///path.",
        ) from error
    try:
        with reachable():
            await client.ping()
    except RedisUnreachable as error:
        raise RedisUnreachable(f"{settings.masked_redis_url()} does not answer.", field="MARKET_REDIS_URL") from error
    finally:
        await client.aclose()
