"""Watches a running market from outside: memory, open files, queues, Valkey's memory, the database's size.

A sample a second, in a thread; reads /proc and asks Valkey, nothing of the market itself.
"""

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from market.demo.network import LocalMarket
from market.devnet.process import Child

MIB = 1 << 20
PAGE = 4_096


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far, user and system, as the kernel counts it."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One moment; memory in bytes, by program with its children."""

    at: float
    memory: dict[str, int]
    files: dict[str, int]
    redis_bytes: int
    waiting: int
    keys: int


@dataclass
class Watch:
    """Samples from `start` to `stop`."""

    local: LocalMarket
    samples: list[Sample] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join(10)

    def _run(self) -> None:
        with redis.Redis.from_url(self.local.redis_url, socket_timeout=5) as client:
            while not self._over.wait(1.0):
                with contextlib.suppress(OSError, redis.RedisError):
                    self.samples.append(self._sample(client))

    def _sample(self, client: redis.Redis) -> Sample:
        families = {child.name: family(child) for child in self.local.supervisor.children}
        lists = list(client.scan_iter(count=1_000, _type="list"))
        return Sample(
            time.monotonic(),
            {name: sum(map(_memory, pids)) for name, pids in families.items()},
            {name: sum(map(_files, pids)) for name, pids in families.items()},
            int(client.info("memory")["used_memory"]),
            sum(client.llen(key) for key in lists),
            int(client.dbsize()),
        )


def family(child: Child) -> list[int]:
    """Return a program's process and all its descendants."""
    found = [child.pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(map(int, task.read_text().split()))
    return found


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return 0


def _files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def database_bytes(local: LocalMarket) -> int:
    """Return the size of the SQLite file and its log."""
    return sum(path.stat().st_size for path in local.data_dir.glob("market.db*"))


def growth(points: list[tuple[float, float]]) -> float:
    """Return by how much the straight line of least squares through (time, value) rises over its whole length."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return slope * (points[-1][0] - points[0][0])
