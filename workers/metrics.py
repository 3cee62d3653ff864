"""Where a worker's metrics go: a port for Prometheus, and a file for the node or the live view in front of it.

A node has one front: the worker itself in the own lane, the link's process otherwise, whose workers each write a file
of their own. Only the front samples what is true of the whole node: queue, stake, chain, cards. Nothing here can end a
worker.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis
import structlog
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from contracts.bindings.errors import ChainError
from contracts.protocol.messages import worker_queue
from workers import machine, telemetry
from workers.errors import StartError
from workers.node import ChainSide, chain_time
from workers.settings import WorkerSettings

SUFFIX = ".prom"
WRITE_SECONDS = 1.0
QUEUE_SECONDS = 1.0
GPU_SECONDS = 5.0
CHAIN_SECONDS = 30.0

log = structlog.get_logger(__name__)


@contextmanager
def published(
    settings: WorkerSettings, side: ChainSide, broker_url: str, *, to_file: Path | None, behind_link: bool = False
) -> Iterator[Path]:
    """Publish the front's metrics while the body runs: on the port of the settings, and in a file if one is named.

    With `behind_link` the counters are those of the workers that write into the folder which is handed out.

    Raises:
        StartError: the port is taken.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="worker-metrics-")))
        registry = CollectorRegistry()
        registry.register(_Passed(telemetry.NODE_METRICS))
        registry.register(_Written(folder) if behind_link else _Passed(telemetry.METRICS))
        if settings.metrics_port is not None:
            stack.callback(_serve(settings.metrics_host, settings.metrics_port, registry))
        if to_file is not None:
            stack.callback(writing(to_file, registry))
        if settings.metrics_port is not None or to_file is not None:
            stack.callback(_sampling(side, broker_url))
        yield folder


def writing(path: Path, registry: CollectorRegistry = telemetry.METRICS) -> Callable[[], None]:
    """Write a registry into a file every second; call what is returned to end it."""

    def write() -> None:
        with suppress(OSError):  # the folder goes first when the node ends
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(generate_latest(registry))
            beside.replace(path)

    return _repeating("metrics-file", [(WRITE_SECONDS, write)])


def read_families(path: Path) -> list[Metric]:
    """Return what a worker wrote; nothing where it has not written yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    return list(text_string_to_metric_families(text))


class _Passed(Collector):
    """Another registry's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()


class _Written(Collector):
    """The metrics that the workers of a folder wrote, told apart by the label `process`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        joined: dict[str, Metric] = {}
        for path in sorted(self._folder.glob(f"[!.]*{SUFFIX}")):
            for family in read_families(path):
                into = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [
                    Sample(one.name, {**one.labels, "process": path.stem}, one.value) for one in family.samples
                ]
        yield from joined.values()


def _serve(host: str, port: int, registry: CollectorRegistry) -> Callable[[], None]:
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}.",
            field="WORKER_METRICS_PORT",
            remedy="Name another port, or 0 for any that is free.",
        ) from error
    log.info("metrics-served", url=f"http://{host}:{server.server_port}/metrics")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop


def _sampling(side: ChainSide, broker_url: str) -> Callable[[], None]:
    client = redis.Redis.from_url(broker_url, socket_connect_timeout=5, socket_timeout=5, protocol=2)
    queue = worker_queue(side.key.address)

    def sample_queue() -> None:
        with suppress(redis.RedisError, OSError):
            found = client.llen(queue)
            telemetry.QUEUE.set(found if isinstance(found, int) else 0)

    steps = [(QUEUE_SECONDS, sample_queue), (CHAIN_SECONDS, lambda: sample_chain(side))]
    if machine.find_gpus():
        steps.append((GPU_SECONDS, sample_gpus))
    return _repeating("metrics-samples", steps)


def sample_gpus() -> None:
    """Note memory and load of the cards."""
    for number, gpu in enumerate(machine.find_gpus()):
        for gauge, value in (
            (telemetry.GPU_USED, gpu.used_bytes),
            (telemetry.GPU_TOTAL, gpu.memory_bytes),
            (telemetry.GPU_BUSY, gpu.busy),
        ):
            if value is not None:
                gauge.labels(str(number)).set(value)


def sample_chain(side: ChainSide, clock: Callable[[], float] = time.time) -> None:
    """Note the worker's stake, and how old the newest block of its node is."""
    try:
        state = side.contracts.workers.worker(side.key.address)
        needed = side.contracts.workers.min_stake()
        age = clock() - chain_time(side)
    except ChainError:
        telemetry.CHAIN_REACHED.set(0)
        return
    telemetry.CHAIN_REACHED.set(1)
    telemetry.STAKE.set(state.stake)
    telemetry.THAWING.set(state.thawing)
    telemetry.MIN_STAKE.set(needed)
    telemetry.ACTIVE.set(state.active)
    telemetry.BLOCK_AGE.set(max(0.0, age))


def _repeating(name: str, steps: list[tuple[float, Callable[[], None]]]) -> Callable[[], None]:
    """Do each step now and again after its seconds, in one thread; returns how to end it."""
    ended = threading.Event()

    def loop() -> None:
        due = [0.0] * len(steps)
        while True:
            for i, (seconds, step) in enumerate(steps):
                if time.monotonic() >= due[i]:
                    due[i] = time.monotonic() + seconds
                    try:
                        step()
                    except Exception:
                        log.exception("sample-failed", thread=name)
            if ended.wait(max(0.05, min(due) - time.monotonic())):
                return

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join(5)

    return stop
