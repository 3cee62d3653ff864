"""Settings of the gateway and its jobs, read once from the environment or a file and then frozen.

Decides names, defaults and bounds. It opens nothing and never prints a secret. Built by `market.bootstrap` and the
commands, passed down as one value; nothing else reads `MARKET_…` from the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.deployments.networks import confirmations_of
from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import address_from_hex
from market.errors import ConfigurationError

PPM = 1_000_000
DEFAULT_DATA_DIR = Path(".market")

Ppm = Annotated[int, Field(ge=0, le=PPM)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class MarketSettings(BaseSettings):
    """What one gateway operator sets; each field is `MARKET_<NAME>` in the environment or an env file."""

    model_config = SettingsConfigDict(env_prefix="MARKET_", frozen=True, extra="ignore", populate_by_name=True)

    rpc_url: str = Field("http://127.0.0.1:8545", description="JSON-RPC address of the chain's node.")
    chain_id: int = Field(31_337, gt=0, description="Chain id the node must serve.")
    deployment: Path | None = Field(
        None, description="File with the contracts' addresses; default contracts/deployments/<chain id>.json."
    )
    escrow: str | None = Field(None, description="Address of InferenceEscrow, over the deployment file.")
    worker_registry: str | None = Field(None, description="Address of WorkerRegistry, over the deployment file.")
    model_registry: str | None = Field(None, description="Address of ModelRegistry, over the deployment file.")
    token: str | None = Field(None, description="Address of the payment token, over the deployment file.")
    disputes: str | None = Field(None, description="Address of DisputeManager, over the deployment file.")
    confirmations: int = Field(
        default_factory=lambda given: confirmations_of(given.get("chain_id", 0)),
        ge=0,
        description=(
            "Blocks on top of an event before it counts; default 1 on devnet, 3 on Ethereum Sepolia, 5 on Base Sepolia "
            "and elsewhere."
        ),
    )

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey: queues, reservations, health.")
    shared_reservations: bool = Field(
        False,
        description="Keep reservations in Redis, for several processes of one gateway; else this is the only one.",
    )
    database_url: str = Field("sqlite:///market.db", description="SQLAlchemy URL: SQLite (WAL) or PostgreSQL.")

    keystore: Path | None = Field(None, description="Keystore v3 file of the gateway's key.")
    keystore_password_file: Path | None = Field(None, description="File whose first line opens the keystore.")
    gateway_id: str = Field("gateway", pattern=r"^[a-z0-9-]{1,32}$", description="Names this gateway's reply list.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8_080, description="Port to listen on; 0 takes a free one.")
    tls_certificate: Path | None = Field(
        None,
        description="PEM file of the server's certificate and chain; without it a proxy ends the TLS.",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, if it is not in the same file.")
    grpc_port: Port | None = Field(None, description="Port of the gRPC service; 0 takes a free one, unset: none.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1_024, description="Largest request body.")
    body_timeout_seconds: float = Field(10.0, gt=0, description="A body must have arrived after this long.")
    header_timeout_seconds: float = Field(
        10.0, gt=0, description="A request's headers must have arrived after this long, or the connection is closed."
    )
    max_connections: int = Field(4_096, gt=0, description="HTTP connections held at once; more are refused with 503.")
    max_connections_by_address: int = Field(
        0,
        ge=0,
        description="The same for one address, and its gRPC calls; 0 sets no limit of its own, as behind a proxy.",
    )
    rate_by_address: float = Field(
        0.0, ge=0, description="Requests a second that one client address may make, ten seconds' worth at once; 0: any."
    )
    rate_by_payer: float = Field(0.0, ge=0, description="The same for paid requests of one payer, by any of its ways.")
    rate_by_key: float = Field(0.0, ge=0, description="The same for one API key.")
    trusted_proxies: str = Field(
        "", description="Networks, by commas, whose `X-Forwarded-For` says who the client is; empty: nobody's does."
    )
    cors_origins: str = Field(
        "", description="Origins, by commas, whose pages may read this gateway's answers; `*` means all, empty none."
    )
    request_timeout_seconds: float = Field(30.0, gt=0, description="Deadline of one inference, failover included.")
    max_queue_seconds: float = Field(
        2.0,
        gt=0,
        description="Refuse with 429 where more waits than is answered in this time.",
    )
    hedge_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Most of the requests with `Market-Hedge` that a second worker is asked; 0: none.",
    )
    generation_timeout_seconds: float = Field(
        100.0,
        gt=0,
        le=110,
        description="Deadline of one text generation; shortly before it a stream ends with what is there.",
    )

    fee_ppm: Ppm = Field(50_000, description="The gateway's share of a price, in millionths.")
    exposure_cap: int = Field(5_000_000, gt=0, description="Most a channel may owe unsettled, in atomic token units.")
    settle_interval_seconds: float = Field(60.0, gt=0, description="Settle at least this often.")
    settle_value: int = Field(1_000_000, gt=0, description="Settle once this much is unsettled, in atomic token units.")

    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/@?#]+$",
        description="Address that clients use, for x402; default http://host:port.",
    )
    x402_keystore: Path | None = Field(
        None, description="Keystore v3 file of the house account, which x402 clients pay; without it x402 is off."
    )
    x402_keystore_password_file: Path | None = Field(
        None, description="File whose first line opens it; default MARKET_KEYSTORE_PASSWORD_FILE."
    )
    x402_pack: int = Field(100_000, gt=0, description="Price of a credit pack by `exact`, in atomic token units.")
    x402_house_target: int = Field(
        5_000_000, gt=0, description="What the house channel is filled up to, in atomic token units."
    )
    x402_claim_interval_seconds: float = Field(
        300.0, gt=0, le=600, description="Claim x402 channels this often; payers can leave after 900 s."
    )

    x402_least_claim: int = Field(
        10_000,
        gt=0,
        description=(
            "Least that is claimed from an x402 channel, and what a payer must have been charged for each further "
            "refund, in atomic token units: what the house account pays in gas for a claim and its sweep."
        ),
    )

    audit_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description=(
            "Share of served requests whose worker is audited by another operator's, paid from the house channel; 0: "
            "none. Without MARKET_X402_KEYSTORE there are none."
        ),
    )
    audit_new_share: float = Field(
        0.2, ge=0, le=1, description="The same of a worker's first MARKET_AUDIT_NEW_REQUESTS requests."
    )
    audit_new_requests: int = Field(200, ge=0, description="How many requests a worker answers as a new one.")
    audit_tolerance: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="Relative L2 distance between honest answers of a model whose manifest names none.",
    )
    audit_referees: str = Field(
        "", description="Workers, by commas, that this operator trusts to judge where two differ; empty: nobody's."
    )

    console: bool = Field(True, description="Serve the web console at /.")
    chain_reads: bool = Field(
        True, description="Pass reads of this market's contracts on to the node, for browsers without a wallet."
    )

    metrics_port: Port | None = Field(
        None, description="Port of the jobs' Prometheus metrics; unset: none. The gateway serves its own at /metrics."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the jobs' metrics are served on.")

    log_level: str = Field("info", pattern=r"(?i)^(debug|info|warning|error)$", description="Least level logged.")
    log_format: str = Field("text", pattern="^(text|json)$", description="text for people, json for machines.")

    @field_validator("escrow", "worker_registry", "model_registry", "token", "disputes")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                address_from_hex(value, field="address")
            except ProtocolError as error:
                raise ValueError(error.detail) from error
        return value

    @field_validator("audit_referees")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        for item in filter(None, (part.strip() for part in value.split(","))):
            cls._is_address(item)
        return value

    def referees(self) -> frozenset[bytes]:
        """Return the workers of MARKET_AUDIT_REFEREES."""
        items = (part.strip() for part in self.audit_referees.split(","))
        return frozenset(address_from_hex(item, field="MARKET_AUDIT_REFEREES") for item in items if item)

    def masked_redis_url(self) -> str:
        """Return the Redis URL without its password, for messages."""
        return mask_url(self.redis_url)

    def masked_database_url(self) -> str:
        """Return the database URL without its password, for messages."""
        return mask_url(self.database_url)


def mask_url(url: str) -> str:
    """Replace the password in a URL's user part by `***`."""
    scheme, mark, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    if not (mark and at and ":" in user):
        return url
    return f"{scheme}://{user.partition(':')[0]}:***@{host}"


def load_settings(env_file: Path | None = None, **overrides: object) -> MarketSettings:
    """Read the settings: overrides, then the environment, then `env_file`, then the defaults.

    Raises:
        ConfigurationError: a value is out of bounds; the setting's name is in `field`.
    """
    if env_file is not None and not env_file.is_file():
        raise ConfigurationError(f"the settings file {env_file} does not exist.", field="env-file")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return MarketSettings(_env_file=env_file, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(f"{first['msg']}.", field=f"MARKET_{name.removeprefix('MARKET_')}") from error
