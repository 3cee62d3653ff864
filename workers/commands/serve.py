"""`worker run`: serve models, seen live in a terminal or by plain logs."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import redis
import typer

from contracts.protocol.hexes import checksum
from workers import metrics, running, telemetry
from workers import node as nodes
from workers.commands import live
from workers.commands.output import EnvFile, messages
from workers.draining import Drain
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging


def run(
    env_file: EnvFile = None,
    gateway: Annotated[
        str | None,
        typer.Option(help="Gateway of another operator to link to, https://…; default WORKER_GATEWAY_URL."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Worker processes behind a link; default WORKER_PROCESSES."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Logs instead of the live view of a terminal.")] = False,
    metrics_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    behind_link: Annotated[bool, typer.Option("--behind-link", hidden=True)] = False,
) -> None:
    """Serve models until told to stop; what was sent here is finished first."""
    with messages():
        settings = load_settings(env_file)
        if not plain and sys.stdout.isatty():
            raise typer.Exit(live.watch(settings, gateway, workers=workers, env_file=env_file))
        configure_logging(settings.log_level, settings.log_format)
        url = gateway or settings.gateway_url
        if url is not None and not behind_link:
            from workers.link.node import run as run_node

            processes = settings.processes if workers is None else workers
            run_node(settings, url, workers=processes, env_file=env_file, metrics_file=metrics_file)
            return
        _serve(settings, metrics_file, behind_link=behind_link)


def _serve(settings: WorkerSettings, metrics_file: Path | None, *, behind_link: bool) -> None:
    telemetry.start_tracing()
    from workers import tasks
    from workers.announce import Announcer
    from workers.app import app as celery_app
    from workers.app import configure

    node = nodes.build(settings)
    queue = configure(settings, node.key.address)
    announcer = Announcer(node)
    tasks.join(node, announcer)
    telemetry.IN_FLIGHT.set_function(lambda: announcer.in_flight + node.executor.generations.active)
    telemetry.SERVED_MODELS.labels(node.provider).set(len(node.served))
    telemetry.LOADED_MODELS.set(node.sessions.loaded())
    telemetry.ISOLATED_MODELS.set(sum(node.sessions.is_confined(model_id) for model_id in node.served))
    drain = Drain(
        announce_nothing=announcer.drain,
        has_work=lambda: _has_work(node, queue, announcer),
        seconds=settings.drain_seconds,
    )
    announcer.start()
    typer.echo(f"worker {checksum(node.key.address)} serves {len(node.served)} model(s) on {node.provider}", err=True)
    _accept_root()
    try:
        worker = celery_app.Worker(
            pool="solo",
            queues=[queue],
            hostname=f"worker@{node.key.address.hex()[:12]}",
            loglevel="WARNING",
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            quiet=True,
        )
        _stop_offering_on_shutdown(announcer)
        if not behind_link:
            if settings.drain_seconds:
                _drain_before_shutdown(drain)
            telemetry.LINKED.set(1)
            with ExitStack() as stack:
                stack.enter_context(running.registered(settings.state_dir, node.key.address))
                stack.enter_context(metrics.published(settings, node.side, settings.redis_url, to_file=metrics_file))
                worker.start()
        else:
            stop = metrics.writing(metrics_file) if metrics_file is not None else None
            try:
                worker.start()
            finally:
                if stop is not None:
                    stop()
    finally:
        announcer.stop()
        node.executor.generations.drain(drain.seconds_left())
        node.sessions.close()
        node.journal.close()
    raise typer.Exit(worker.exitcode or 0)


def _accept_root() -> None:
    """Leave out Celery's warning about the superuser where `C_FORCE_ROOT` says that this is meant, as in a container.

    Celery refuses root with pickles unless that is set and warns in any case; this worker takes msgpack only.
    """
    if os.environ.get("C_FORCE_ROOT"):
        from celery.exceptions import SecurityWarning

        warnings.filterwarnings("ignore", category=SecurityWarning)


def _has_work(node: nodes.Node, queue: str, announcer: Any) -> bool:
    """Tell whether anything was sent here that is not answered; also while the broker does not say."""
    try:
        return bool(node.redis.llen(queue) or announcer.in_flight or node.executor.generations.active)
    except (redis.RedisError, OSError):
        return True


def _drain_before_shutdown(drain: Drain) -> None:
    from celery.signals import worker_ready

    def install(**_: object) -> None:
        drain.install()

    worker_ready.connect(install, weak=False)


def _stop_offering_on_shutdown(announcer: Any) -> None:
    from celery.signals import worker_shutting_down

    def stop(**_: object) -> None:
        announcer.stop()

    worker_shutting_down.connect(stop, weak=False)
