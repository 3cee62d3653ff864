"""A local market from nothing: services, contracts, accounts, a listed model, a registered worker, the real programs.

Decides the order of the steps and what each one reports. Every step can be repeated on a data folder that has it done
already. Called by `market demo`, `market up` and the end-to-end tests; `stop` leaves no process behind.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.demo import minilm
from market.devnet import keys, services
from market.devnet.keys import LocalAccount
from market.devnet.network_file import NetworkFile
from market.devnet.process import Child, ProcessFailed, Supervisor, check_interrupt, free_port, require_free
from market.sdk import packages
from market.sdk.wallet import Wallet

if TYPE_CHECKING:
    from market.sdk.chain import Chain
    from market.sdk.client import Market
    from market.sdk.papers import PaperStore

GAS_MONEY_WEI = 100 * 10**18
MINTED = {
    "operator": 2_000 * ATOMIC_PER_TOKEN,
    **dict.fromkeys(("client", "gateway", "house"), 100 * ATOMIC_PER_TOKEN),
}
STAKE = 1_000 * ATOMIC_PER_TOKEN
UNIT_PRICE = 1_000
# What a token costs: ten dollars a million.
TOKEN_PRICE = 10
MIN_PRICE, MAX_PRICE = 100, 10_000
ROYALTY_PPM = 100_000
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """How a local market is run; `settle_interval_seconds` long enough means settlement on demand only.

    `packages` are folders of further models to list and serve under their folders' names; `grpc` opens that port too.
    With `linked` the worker is another operator's node: it reaches the gateway over a link, with a broker of its own.
    """

    data_dir: Path
    keep_state: bool
    port: int = 0
    settle_interval_seconds: float = 5.0
    confirmations: int = 1
    packages: tuple[Path, ...] = ()
    grpc: bool = False
    linked: bool = False


class LocalMarket:
    """The parts of one local market, in the order in which they come up."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data_dir = options.data_dir.resolve()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.supervisor = Supervisor(self.data_dir / "logs", self.data_dir)
        self.accounts: dict[str, LocalAccount] = {}
        self.redis_url = self.rpc_url = self.database_url = self.gateway_url = self.grpc_address = ""
        self.jobs_metrics_url = ""
        self._chain: Chain | None = None
        self._manifest: Manifest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process that was started here."""
        self.supervisor.stop_all()

    @property
    def deployment_file(self) -> Path:
        """Where the contracts' addresses are written."""
        return self.data_dir / "deployment.json"

    @property
    def chain(self) -> Chain:
        """The connected chain."""
        assert self._chain is not None, "deploy first"
        return self._chain

    @property
    def manifest(self) -> Manifest:
        """The listed model's manifest."""
        assert self._manifest is not None, "list the model first"
        return self._manifest

    def wallet(self, role: str) -> Wallet:
        """Return a role's wallet."""
        return Wallet(self.accounts[role].key)

    def start(self) -> None:
        """Take all the steps; returns once a request can be served."""
        for step in (self.start_services, self.deploy, self.list_model, self.register_worker, self.start_programs):
            step()

    @contextmanager
    def client(self, deposit: int, *, role: str = "client", papers: PaperStore | None = None) -> Iterator[Market]:
        """Give a client with an open channel of `deposit`, atomic units, that the gateway has seen."""
        from market.sdk.client import Market

        wallet = self.wallet(role)
        with Market(self.gateway_url, wallet, papers=papers) as market:
            channel = self.chain.open_channel(wallet, self.accounts["gateway"].address, deposit)
            market.use_channel(channel, self.chain.domain)
            market.wait_for_channel(channel.digest(self.chain.domain), deposited=deposit)
            yield market

    # --- the steps --------------------------------------------------------------------------------------------

    def start_services(self) -> None:
        """Start or find Redis, the chain and the database.

        Raises:
            ConfigurationError: the gateway's port is taken; whoever has it would be taken for ours.
        """
        if self.options.port:
            require_free(self.options.port)
        self.redis_url = services.start_redis(self.supervisor, self.data_dir)
        self.rpc_url = services.start_chain(self.supervisor, self.data_dir, keep_state=self.options.keep_state)
        self.database_url = services.database_url(self.data_dir)

    def deploy(self) -> None:
        """Draw the accounts, give them gas money and test dollars, deploy the contracts."""
        from market.devnet import x402
        from market.sdk.chain import Chain  # web3 takes seconds to import

        for role in keys.ROLES:
            self.accounts[role] = keys.load_or_create(self.data_dir, role)
        if self.deployment_file.exists():
            self._chain = Chain.connect(self.rpc_url, self.deployment_file)
            return
        for account in self.accounts.values():
            services.rpc(self.rpc_url, "anvil_setBalance", checksum(account.address), hex(GAS_MONEY_WEI))
        self._chain = Chain.deploy(self.rpc_url, self.wallet("deployer"), self.deployment_file)
        for role, amount in MINTED.items():
            self._chain.mint(self.wallet("deployer"), self.accounts[role].address, amount)
        x402.install(self.rpc_url, self.accounts["deployer"].key)

    def list_model(self) -> None:
        """Pack the demonstration's model and list it by its hash, with its price bounds and royalty."""
        package = self.data_dir / "packages" / minilm.NAME
        self._manifest = minilm.build_package(package)
        self._list(minilm.NAME, self._manifest, package)
        for folder in self.options.packages:
            self._list(folder.name, packages.load(folder), folder)

    def _list(self, name: str, manifest: Manifest, folder: Path) -> None:
        if not self.chain.is_listed(manifest.model_id):
            self.chain.list_model(
                self.wallet("owner"),
                manifest,
                name=name,
                min_price=1 if manifest.is_metered else MIN_PRICE,
                max_price=MAX_PRICE,
                royalty_ppm=ROYALTY_PPM,
                uri=folder.resolve().as_uri(),
            )

    def register_worker(self) -> None:
        """Stake for the worker's key and register it."""
        worker = self.accounts["worker"]
        if not self.chain.is_registered(worker.address):
            self.chain.register_worker(
                self.wallet("operator"), worker.key, stake=STAKE, region="local", hardware="cpu", endpoint=""
            )

    def start_programs(self) -> None:
        """Start jobs, gateway and worker; returns once the gateway has read the chain and sees the worker's offer."""
        port = self.options.port or free_port()
        self.gateway_url = f"http://127.0.0.1:{port}"
        environment = {**self.gateway_environment(), "MARKET_PORT": str(port)}
        if self.options.grpc:
            grpc_port = free_port()
            self.grpc_address = f"127.0.0.1:{grpc_port}"
            environment["MARKET_GRPC_PORT"] = str(grpc_port)
        metrics_port = free_port()
        self.jobs_metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        environment["MARKET_METRICS_PORT"] = str(metrics_port)
        self.supervisor.start("jobs", self.program("market", "jobs"), environment)
        gateway = self.supervisor.start("gateway", self.program("market", "serve"), environment)
        worker = self.start_worker()
        self._await(gateway, lambda: self._get("/v2/health/ready") is not None, "GET /v2/health/ready")
        self._await(worker, self._model_ready, "an offer at the gateway")

    def start_worker(self) -> Child:
        """Start the worker, and return at once."""
        environment = self.worker_environment()
        if not self.options.linked:
            return self.supervisor.start("worker", self.program("worker", "run"), environment)
        del environment["WORKER_REDIS_URL"]
        linked = self.program("worker", "run", "--gateway", self.link_url())
        return self.supervisor.start("worker", linked, environment)

    def program(self, name: str, *arguments: str) -> list[str]:
        """Return the command that runs one of the project's programs."""
        return program(name, *arguments)

    def link_url(self) -> str:
        """Return where a linked worker finds the gateway."""
        return self.gateway_url

    def save_network_file(self) -> NetworkFile:
        """Write down where everything is, for a second terminal."""
        written = NetworkFile(
            gateway_url=self.gateway_url,
            rpc_url=self.rpc_url,
            chain_id=self.chain.domain.chain_id,
            deployment=str(self.deployment_file),
            redis_url=self.redis_url,
            database_url=self.database_url,
            model=minilm.NAME,
            keystores={role: str(account.keystore) for role, account in self.accounts.items()},
            password_file=str(keys.password_file(self.data_dir)),
            pid=os.getpid(),
        )
        written.save(self.data_dir)
        return written

    # --- environments -----------------------------------------------------------------------------------------

    def gateway_environment(self) -> dict[str, str]:
        """Return the settings of gateway and jobs."""
        return {
            "MARKET_RPC_URL": self.rpc_url,
            "MARKET_CHAIN_ID": str(self.chain.domain.chain_id),
            "MARKET_DEPLOYMENT": str(self.deployment_file),
            "MARKET_REDIS_URL": self.redis_url,
            "MARKET_DATABASE_URL": self.database_url,
            "MARKET_KEYSTORE": str(self.accounts["gateway"].keystore),
            "MARKET_KEYSTORE_PASSWORD_FILE": str(keys.password_file(self.data_dir)),
            "MARKET_X402_KEYSTORE": str(self.accounts["house"].keystore),
            "MARKET_CONFIRMATIONS": str(self.options.confirmations),
            "MARKET_SETTLE_INTERVAL_SECONDS": str(self.options.settle_interval_seconds),
            "MARKET_HOST": "127.0.0.1",
        }

    def worker_environment(self) -> dict[str, str]:
        """Return the settings of the worker."""
        return {
            "WORKER_RPC_URL": self.rpc_url,
            "WORKER_CHAIN_ID": str(self.chain.domain.chain_id),
            "WORKER_DEPLOYMENT": str(self.deployment_file),
            "WORKER_REDIS_URL": self.redis_url,
            "WORKER_KEYSTORE": str(self.accounts["worker"].keystore),
            "WORKER_KEYSTORE_PASSWORD_FILE": str(keys.password_file(self.data_dir)),
            "WORKER_MODELS": ",".join((minilm.NAME, *(_priced(folder) for folder in self.options.packages))),
            "WORKER_UNIT_PRICE": str(UNIT_PRICE),
            "WORKER_GATEWAYS": checksum(self.accounts["gateway"].address),
            "WORKER_MODEL_DIR": str(self.data_dir / "models"),
            "WORKER_STATE_DIR": str(self.data_dir / "worker"),
            "WORKER_ALLOW_FILE_URI": "true",
            # One person is everybody here; should a stranger list a model, it is served with or without a sandbox.
            "WORKER_TRUSTED_OWNERS": checksum(self.accounts["owner"].address),
            "WORKER_ISOLATION": "limits",
            # The whole market ends with it: nobody is left to be served.
            "WORKER_DRAIN_SECONDS": "0",
        }

    # --- waiting ----------------------------------------------------------------------------------------------

    def _get(self, path: str) -> httpx.Response | None:
        try:
            response = httpx.get(self.gateway_url + path, timeout=5.0, verify=services.tls())
        except httpx.HTTPError:
            return None
        return response if response.is_success else None

    def _model_ready(self) -> bool:
        return self._get(f"/v2/models/{hex0x(self.manifest.model_id)}/ready") is not None

    def _await(self, child: Child, probe: Callable[[], bool], what: str) -> None:
        def check() -> bool:
            self._check_programs()
            return probe()

        child.wait_ready(check, timeout_seconds=START_SECONDS, what=what)

    def _check_programs(self) -> None:
        ended = self.supervisor.first_ended()
        if ended is not None:
            raise ProcessFailed(f"{ended.name} ended with status {ended.exit_code}.\n{ended.log_tail()}\n")

    def wait_until_stopped(self) -> None:
        """Return when interrupted.

        Raises:
            ProcessFailed: a program ended by itself.
        """
        while True:
            check_interrupt()
            self._check_programs()
            time.sleep(0.5)


def program(name: str, *arguments: str) -> list[str]:
    """Return the command that runs one of the project's programs with this interpreter."""
    package = {"market": "market", "worker": "workers"}[name]
    return [sys.executable, "-c", f"from {package}.cli import main; main()", *arguments]


def _priced(folder: Path) -> str:
    """Return a model's name, with the price of a token where it is asked by the token."""
    return f"{folder.name}={TOKEN_PRICE}" if packages.load(folder).is_metered else folder.name
