"""What an operator sets: each field is `WORKER_<NAME>` in the environment or in an env file; read once, then frozen."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import address_from_hex
from workers.errors import StartError


class WorkerSettings(BaseSettings):
    """One worker's settings."""

    model_config = SettingsConfigDict(env_prefix="WORKER_", frozen=True, extra="ignore")

    rpc_url: str = Field("http://127.0.0.1:8545", description="HTTP JSON-RPC of an EVM node.")
    chain_id: int = Field(31337, ge=1, description="Chain id that the node must serve.")
    deployment: Path | None = Field(None, description="File with the contracts' addresses; default by chain id.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The broker shared with the gateway; with --gateway the node's own, unset: an embedded one.",
    )

    keystore: Path | None = Field(None, description="Keystore v3 file of the worker's key.")
    keystore_password_file: Path | None = Field(None, description="File whose first line opens the keystore.")

    models: str = Field(
        "", description="Models to serve: names or 0x-ids by comma, each with its own =price if wished."
    )
    unit_price: int = Field(1_000, ge=0, description="Price of one unit where a model has no own, atomic token units.")
    max_fee_ppm: int = Field(100_000, ge=0, le=1_000_000, description="Highest gateway fee accepted, millionths.")
    gateways: str = Field("", description="Gateway addresses to work for, by comma.")
    gateway_url: str | None = Field(
        None, description="Gateway of another operator that `worker run` links to, https://…; unset: the own lane."
    )
    processes: int = Field(1, ge=0, le=64, description="Worker processes behind a link.")
    allow_plain_link: bool = Field(
        False, description="Link to a gateway by http:// across a network; inputs and outputs are then readable there."
    )
    offer_seconds: int = Field(3_600, ge=60, description="How long a signed offer is good for.")

    drain_seconds: float = Field(
        120.0,
        ge=0,
        description="How long a worker that is told to end serves what it was sent; 0: the message in hand.",
    )

    model_dir: Path = Field(Path("~/.cache/inference-market/models"), description="Cache of model packages.")
    state_dir: Path = Field(Path("~/.local/state/inference-market"), description="Where the worker's papers are kept.")
    allow_file_uri: bool = Field(False, description="Take packages from file:// addresses (one machine only).")
    allow_private_hosts: bool = Field(
        False, description="Take packages by http(s) from addresses inside this machine or its network too."
    )
    trial_seconds: float = Field(
        120.0,
        ge=0,
        description="Longest that a model in a process of its own may take to open; others are tried in one first. "
        "0: not tried.",
    )
    isolation: str = Field(
        "auto",
        pattern="^(auto|always|limits|off)$",
        description="auto: strangers' models run in a sandboxed process, else not at all; always: everybody's, as far "
        "as there is a sandbox; limits: without a sandbox in a process with limits only; off: in the worker's own.",
    )
    trusted_owners: str = Field(
        "", description="Owners whose models may run in the worker's own process: addresses by comma. Yours always may."
    )
    run_seconds: float = Field(
        10.0, gt=0, description="Longest that a batch of a model in a process of its own may take before it is killed."
    )
    max_package_bytes: int = Field(16 << 30, ge=1, description="Largest model package fetched.")

    provider: str = Field("auto", pattern="^(auto|cpu|cuda|tensorrt|openvino|cann)$", description="Execution provider.")
    threads: int = Field(0, ge=0, description="Threads of one inference; 0 lets onnxruntime choose.")
    cuda_graphs: bool = Field(False, description="Capture CUDA graphs, one a shape; for models of few shapes.")
    memory_budget_bytes: int = Field(
        8 << 30, ge=1, description="Models above this together are unloaded, oldest first."
    )

    generations: int = Field(8, ge=1, description="Text generations that go on at once, per model.")
    generation_memory_bytes: int = Field(
        2 << 30, ge=1, description="Memory of the texts that are being generated, per model."
    )

    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="Port of Prometheus metrics, /metrics; 0 takes a free one, unset: none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics are served on.")

    log_level: str = Field("info", pattern=r"(?i)^(debug|info|warning|error)$", description="Least level logged.")
    log_format: str = Field("text", pattern="^(text|json)$", description="text for people, json for machines.")

    @field_validator("gateways", "trusted_owners")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        for text in _items(value):
            try:
                address_from_hex(text, field="addresses")
            except ProtocolError as error:
                raise ValueError(error.detail) from error
        return value

    @property
    def gateway_addresses(self) -> tuple[bytes, ...]:
        """The gateways' addresses as bytes."""
        return tuple(address_from_hex(text, field="WORKER_GATEWAYS") for text in _items(self.gateways))

    @property
    def trusted_owner_addresses(self) -> frozenset[bytes]:
        """The trusted owners' addresses as bytes."""
        return frozenset(address_from_hex(text, field="WORKER_TRUSTED_OWNERS") for text in _items(self.trusted_owners))

    def priced_models(self) -> list[tuple[str, int]]:
        """Return (name or id, unit price) for each model.

        Raises:
            StartError: a price is not a whole number.
        """
        rows = []
        for item in _items(self.models):
            name, _, price = item.partition("=")
            if price and not price.strip().isdecimal():
                raise StartError(f"{item!r} has no whole price.", field="WORKER_MODELS", remedy="Write name=price.")
            rows.append((name.strip(), int(price) if price else self.unit_price))
        return rows


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def load_settings(env_file: Path | None = None) -> WorkerSettings:
    """Read the settings: the environment, then `env_file`, then the defaults.

    Raises:
        StartError: a value is out of bounds; `field` names the setting.
    """
    if env_file is not None and not env_file.is_file():
        raise StartError(f"the settings file {env_file} does not exist.", field="env-file")
    try:
        return WorkerSettings(_env_file=env_file)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise StartError(f"{first['msg']}.", field=f"WORKER_{name.removeprefix('WORKER_')}") from error
