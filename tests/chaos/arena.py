"""A whole market of real processes whose every part can be killed, frozen, filled up or set back, and started again."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import time
from pathlib import Path

import httpx
import redis

from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.typed_data import Channel
from market.demo import minilm
from market.demo.network import GAS_MONEY_WEI, STAKE, TOKEN_PRICE, LocalMarket, Options, program
from market.devnet import keys, services
from market.devnet.process import Child
from market.errors import ConfigurationError
from market.payments.x402_channels import CONTRACT
from market.sdk.chain import Chain
from market.sdk.wallet import Wallet
from tests.chaos.load import WRITER
from tests.support import tiny_llm
from tests.support.cutting_proxy import CuttingProxy
from tests.support.postgres import Postgres
from tests.support.processes import family, signalled

# A reorganisation may take back what is not confirmed yet, never more.
CONFIRMATIONS = 3
DEPOSIT = 20_000_000
DISK_BYTES = 400 * 1024 * 1024
# Channels of x402 are claimed so often; the next beat finishes what a crash left.
CLAIM_SECONDS = 10.0
AUDIT_SHARE = 0.5
# Each worker and its operator.
WORKERS = {"worker": "operator", "node": "operator2", "third": "operator3"}
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


class Arena(LocalMarket):
    """The local market on PostgreSQL, with a chain node that keeps its state and two more operators' workers.

    All three workers serve MiniLM, so that where two differ the third can judge; `third` is in the gateway's own lane as
    `worker` is, `node` is behind a link and also serves a text-generation model.
    """

    def __init__(self, folder: Path) -> None:
        writer = folder / "made" / WRITER
        tiny_llm.package(writer)
        options = Options(
            folder,
            keep_state=True,
            settle_interval_seconds=2.0,
            confirmations=CONFIRMATIONS,
            packages=(writer,),
        )
        super().__init__(options)
        self.postgres = Postgres(disk_bytes=DISK_BYTES)
        self.restarts = 0
        self.skewed: set[str] = set()
        self.proxy: CuttingProxy | None = None
        self._commands: dict[str, tuple[list[str], dict[str, str], bool]] = {}
        self._remember_starts()

    def _remember_starts(self) -> None:
        start = self.supervisor.start

        def remembered(name, command, environment=None, *, is_service=False) -> Child:
            self._commands.setdefault(name, (list(command), dict(environment or {}), is_service))
            return start(name, command, environment, is_service=is_service)

        self.supervisor.start = remembered  # type: ignore[method-assign]

    def stop(self) -> None:
        super().stop()
        self.postgres.stop()
        if self.proxy is not None:
            self.proxy.close()

    def start_services(self) -> None:
        super().start_services()
        self.database_url = self.postgres.url

    @property
    def on_chain(self) -> EscrowFacts:
        """What the chain says, for the judge."""
        return EscrowFacts(self.chain, self.rpc_url)

    def gateway_environment(self) -> dict[str, str]:
        """Return the settings of gateway and jobs."""
        return {
            **super().gateway_environment(),
            "MARKET_X402_CLAIM_INTERVAL_SECONDS": str(CLAIM_SECONDS),
            "MARKET_X402_LEAST_CLAIM": "1",
            "MARKET_AUDIT_SHARE": str(AUDIT_SHARE),
            "MARKET_AUDIT_NEW_SHARE": str(AUDIT_SHARE),
        }

    def open_channels(self, count: int) -> list[tuple[Wallet, Channel]]:
        opened = []
        for _ in range(count):
            wallet = self.wallet("client")
            opened.append((wallet, self.chain.open_channel(wallet, self.accounts["gateway"].address, DEPOSIT)))
        return opened

    # --- the other workers ------------------------------------------------------------------------------------

    def register_worker(self) -> None:
        """Register all workers, each with an operator of its own."""
        super().register_worker()
        for name, role in list(WORKERS.items())[1:]:
            self.accounts[name], self.accounts[role] = (keys.load_or_create(self.data_dir, one) for one in (name, role))
            operator, key = self.wallet(role), self.accounts[name].key
            services.rpc(self.rpc_url, "anvil_setBalance", checksum(operator.address), hex(GAS_MONEY_WEI))
            self.chain.mint(self.wallet("deployer"), operator.address, STAKE)
            self.chain.register_worker(operator, key, stake=STAKE, region="elsewhere", hardware="cpu", endpoint="")

    def start_programs(self) -> None:
        """Start all of it; returns once the gateway sees all workers' offers."""
        super().start_programs()
        third = self.supervisor.start("third", program("worker", "run"), self._environment_of("third"))
        self.proxy = CuttingProxy(int(self.gateway_url.rpartition(":")[2]))
        environment = {**self._environment_of("node"), "WORKER_MODELS": f"{minilm.NAME},{WRITER}={TOKEN_PRICE}"}
        del environment["WORKER_REDIS_URL"]
        command = program("worker", "run", "--gateway", f"http://127.0.0.1:{self.proxy.port}")
        node = self.supervisor.start("node", command, environment)
        self._await(node, lambda: self._get(f"/v2/models/{WRITER}/ready") is not None, "an offer over the link")
        self._await(third, lambda: self._offers() == len(WORKERS), "an offer of each worker")

    def _offers(self) -> int:
        found = self._get(f"/market/v1/models/{minilm.NAME}")
        return 0 if found is None else len(found.json()["offers"])

    def _environment_of(self, name: str) -> dict[str, str]:
        return {
            **self.worker_environment(),
            "WORKER_KEYSTORE": str(self.accounts[name].keystore),
            "WORKER_STATE_DIR": str(self.data_dir / name),
        }

    def worker_environment(self) -> dict[str, str]:
        """Return the settings of a worker in the own lane, which serves MiniLM only."""
        # No trial of the models before each start: it takes as long again, and is tested elsewhere.
        return {**super().worker_environment(), "WORKER_MODELS": minilm.NAME, "WORKER_TRIAL_SECONDS": "0"}

    def journals(self) -> dict[bytes, Path]:
        """Where each worker keeps its papers, by its address."""
        return {self.accounts[name].address: self.data_dir / name for name in WORKERS}

    # --- processes --------------------------------------------------------------------------------------------

    def child(self, name: str) -> Child:
        if name == "postgres":
            assert self.postgres.child is not None
            return self.postgres.child
        return next(child for child in self.supervisor.children if child.name == name)

    def kill(self, name: str) -> None:
        """Kill -9 with all its children."""
        child = self.child(name)
        for pid in family(child.pid):
            signalled(pid, signal.SIGKILL)
        child.stop()

    def start_again(self, name: str, **extra: str) -> None:
        """Start a dead program with the command it had, as an init system would."""
        if name == "postgres":
            self.postgres.start()
            return
        if name == "chain":
            mend_chain_state(self.data_dir / "chain" / "state.json")
        child = self.child(name)
        if child.exit_code is None:
            child.stop()
        self.supervisor.children.remove(child)
        self.skewed.discard(name)
        command, environment, is_service = self._commands[name]
        self.supervisor.start(name, command, {**environment, **extra}, is_service=is_service)
        if name in ("redis", "chain"):
            self.await_service(name)

    def await_service(self, name: str) -> None:
        deadline = time.monotonic() + 60
        answers = {
            "redis": lambda: services._redis_answers(self.redis_url),
            "chain": lambda: services._chain_answers(self.rpc_url),
        }
        while not answers[name]():
            if self.child(name).exit_code is not None:
                self.start_again(name)
                return
            assert time.monotonic() < deadline, f"{name} does not come back\n{self.child(name).log_tail()}"
            time.sleep(0.1)

    def start_the_dead(self) -> None:
        """Do what an init system does: a program that ended is started again."""
        if self.child("postgres").exit_code is not None:
            self.restarts += 1
            self.postgres.start()
        for child in list(self.supervisor.children):
            if child.exit_code is not None:
                self.restarts += 1
                self.start_again(child.name)

    # --- what is done to them ---------------------------------------------------------------------------------

    def freeze(self, name: str, *, frozen: bool) -> None:
        for pid in family(self.child(name).pid):
            signalled(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def fill_disk(self, name: str, *, full: bool) -> None:
        """No byte of a file can be written by this program any more: the kernel refuses, as a full disk does.

        The database, another user's, has a small disk of its own that is filled instead, where that can be mounted.
        """
        if name == "postgres":
            if self.postgres.has_own_disk:
                self.postgres.fill_disk(full=full)
            return
        for pid in family(self.child(name).pid):
            try:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))
            except ProcessLookupError:
                continue

    def wipe_redis(self) -> None:
        with redis.Redis.from_url(self.redis_url, socket_timeout=5) as client:
            client.flushall()

    def lose_redis_data(self) -> None:
        self.kill("redis")
        shutil.rmtree(self.data_dir / "redis")
        (self.data_dir / "redis").mkdir()
        self.start_again("redis")

    def restart_database(self) -> None:
        """End it as an operator does: every session is told to go, and it comes back."""
        signalled(self.child("postgres").pid, signal.SIGINT)
        self.child("postgres").stop()
        self.postgres.start()

    def cut_links(self) -> None:
        assert self.proxy is not None
        self.proxy.cut()

    def reorganise(self, depth: int) -> None:
        """Take back the newest blocks; a node that was started again must first have mined as many to go back by."""
        deadline = time.monotonic() + 30
        while True:
            try:
                services.rpc(self.rpc_url, "anvil_reorg", depth, [])
                return
            except (ConfigurationError, httpx.HTTPError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def await_chain_kept(self) -> None:
        """Wait until the node has written its state, so that a kill costs it no block that others count on."""
        state = self.data_dir / "chain" / "state.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        deadline = time.monotonic() + 20
        while not state.exists() or state.stat().st_mtime_ns == before or not is_json(state):
            assert time.monotonic() < deadline, "the node keeps no state"
            time.sleep(0.02)
        shutil.copy(state, state.with_suffix(".kept"))

    def skew(self, name: str, seconds: int) -> None:
        """Start a program again with a wrong clock, which it keeps until it is started again."""
        self.kill(name)
        wrong = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": f"{seconds:+d}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "0",
        }
        self.start_again(name, **wrong)
        self.skewed.add(name)

    def set_clocks_right(self) -> None:
        for name in sorted(self.skewed):
            self.kill(name)
            self.start_again(name)


class EscrowFacts:
    """Implements `tests.chaos.books.OnChain` by the node."""

    def __init__(self, chain: Chain, rpc_url: str) -> None:
        self._chain = chain
        self._rpc_url = rpc_url
        self.channel_settled, self.credited, self.balance = chain.channel_settled, chain.credited, chain.balance

    def x402_channel(self, channel_id: bytes) -> tuple[int, int]:
        """Return what a channel of the x402 contract holds, what was claimed included, and what was claimed."""
        return self._x402(b"channels(bytes32)", channel_id)

    def unswept(self, receiver: bytes) -> int:
        """Return what x402's contract holds of a receiver's claims in the market's token."""
        token = self._chain.deployment.token
        claimed, swept = self._x402(b"receivers(address,address)", receiver.rjust(32, b"\0") + token.rjust(32, b"\0"))
        return claimed - swept

    def deposited(self, channel_id: bytes) -> int:
        """Return what was ever put into a channel of the escrow."""
        return self._chain.channel_state(channel_id).deposited

    def _x402(self, signature: bytes, arguments: bytes) -> tuple[int, int]:
        call = {"to": checksum(CONTRACT), "data": hex0x(keccak256(signature)[:4] + arguments)}
        words = bytes.fromhex(services.rpc(self._rpc_url, "eth_call", call, "latest")[2:])
        return int.from_bytes(words[:32], "big"), int.from_bytes(words[32:64], "big")


def clock_can_be_skewed() -> bool:
    return FAKETIME.is_file()


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def mend_chain_state(state: Path) -> None:
    """A kill in the middle of writing leaves half a file, which a node with a journal would not."""
    kept = state.with_suffix(".kept")
    if kept.exists() and (not state.exists() or not is_json(state)):
        shutil.copy(kept, state)
