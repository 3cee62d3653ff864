"""The gateway's background work on a clock: read the chain, settle, answer challenges, tidy up.

Celery beat and one worker in one process. A beat begins a turn, which takes each step when it is due until the next
beat: a message for each step would cost several times what most steps do (ADR 28). Each task is a shell: it takes the
joined parts, does one step and reports. A step that fails is tried again when it is due; what must not be lost is in
the database. Started by `market jobs`; several may run, the database lets one win.
A gateway's beats have a queue of their own, so that gateways which share a Redis leave each other's work alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue

import structlog
from celery import Celery
from celery.beat import Scheduler, Service
from celery.exceptions import SecurityWarning
from celery.signals import worker_shutting_down
from celery.worker import state

from contracts.protocol.errors import CodedError
from contracts.redis_url import celery_url
from market.bootstrap.jobs import Jobs, build_jobs
from market.settings import MarketSettings
from market.telemetry import JOB_DONE_AT, JOB_FAILURES, SETTLEMENTS, serve_metrics

INDEX_SECONDS = 0.5
SETTLE_SECONDS = 1.0
ANSWER_SECONDS = 10.0
SWEEP_SECONDS = 60.0
MEASURE_SECONDS = 5.0
TURN_SECONDS = 5.0
# A turn ends so long before the next beat is due, and so begins with it; a step due meanwhile is as late at most.
REST_SECONDS = 0.05
RHYTHM = {
    "index": INDEX_SECONDS,
    "settle": SETTLE_SECONDS,
    "answer": ANSWER_SECONDS,
    "sweep": SWEEP_SECONDS,
    "measure": MEASURE_SECONDS,
}

log = structlog.get_logger(__name__)
app = Celery("market.jobs")
_joined: list[Jobs] = []
_failing: dict[str, str] = {}
# When each step is due, on the monotonic clock; at once where nothing stands.
_due: dict[str, float] = {}
# Filled by the signal that ends the program. A lock would not do: the signal may come while the same thread holds it.
_stop: SimpleQueue[None] = SimpleQueue()


def run(settings: MarketSettings) -> None:
    """Run beat and worker until told to stop.

    Raises:
        OperationError: a service is missing or wrong; nothing was started.
    """
    joined = build_jobs(settings)
    queue = queue_name(joined.settler.gateway)
    _joined[:] = [joined]
    configure(settings.redis_url, queue)
    logging.getLogger("celery.beat").setLevel(logging.WARNING)
    # In memory, since nothing is lost when a beat is; the default scheduler writes a file into the current folder.
    beat = Service(app, max_interval=TURN_SECONDS, scheduler_cls=Scheduler, remote_control=False)
    if os.environ.get("C_FORCE_ROOT"):  # root is meant, as in a container; nothing here takes pickles
        warnings.filterwarnings("ignore", category=SecurityWarning)
    stop_metrics = serve_metrics(settings.metrics_host, settings.metrics_port)
    worker_shutting_down.connect(_wake, weak=False)
    threading.Thread(target=beat.start, name="beat", daemon=True).start()
    try:
        app.Worker(
            pool="solo",
            queues=[queue],
            hostname=f"market-jobs@{settings.gateway_id}",
            loglevel="WARNING",
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            quiet=True,
        ).start()
    finally:
        beat.stop()
        stop_metrics()


def queue_name(gateway: bytes) -> str:
    """Name the queue of a gateway's beats."""
    return f"market.jobs.{gateway.hex()}"


def configure(redis_url: str, queue: str) -> None:
    """Set broker, queue and beat."""
    app.conf.update(
        broker_url=celery_url(redis_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=queue,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        beat_schedule={
            "turn": {
                "task": "market.jobs.turn",
                "schedule": TURN_SECONDS,
                "options": {"expires": TURN_SECONDS},
                "last_run_at": datetime.fromtimestamp(0, UTC),  # so that the first one is now
            }
        },
    )


def _step(name: str, work: Callable[[Jobs], object]) -> None:
    try:
        work(_joined[0])
    except CodedError as error:
        JOB_FAILURES.labels(name, error.code).inc()
        # Said once for each new reason: a node that is away for an hour is one line, not an hour of them.
        if _failing.get(name) != error.code:
            _failing[name] = error.code
            log.warning("job-failed", job=name, code=error.code, detail=str(error))
    else:
        JOB_DONE_AT.labels(name).set(time.time())
        if _failing.pop(name, None) is not None:
            log.info("job-recovered", job=name)


@app.task(name="market.jobs.turn")
def turn() -> None:
    """Take each step when it is due, until the next beat is about to come or the program is to end."""
    until = time.monotonic() + TURN_SECONDS - REST_SECONDS
    while True:
        for name, seconds in RHYTHM.items():
            if state.should_stop is not None or state.should_terminate is not None:
                return
            now = time.monotonic()
            if now >= _due.get(name, now):
                _due[name] = now + seconds
                try:
                    app.tasks[f"market.jobs.{name}"]()
                except Exception:  # a bug in one step must not keep the others from their time
                    log.exception("job-broken", job=name)
        next_at = min(_due.values())
        if next_at >= until:
            return
        with suppress(Empty):
            _stop.get(timeout=max(0.0, next_at - time.monotonic()))


def _wake(**_: object) -> None:
    _stop.put(None)


@app.task(name="market.jobs.index")
def index() -> None:
    """Apply new confirmed blocks."""
    _step("index", lambda joined: joined.index())


@app.task(name="market.jobs.settle")
def settle() -> None:
    """Carry the open settlement on, or start one if it is time."""
    _step("settle", _settle)


def _settle(joined: Jobs) -> None:
    try:
        confirmed = joined.settle()
    except CodedError as error:
        SETTLEMENTS.labels(error.code).inc()
        raise
    if confirmed is not None:
        SETTLEMENTS.labels("ok").inc()


@app.task(name="market.jobs.answer")
def answer() -> None:
    """Show the batches of receipts that somebody claims are in none."""
    _step("answer", lambda joined: joined.answer())


@app.task(name="market.jobs.measure")
def measure() -> None:
    """Note for the metrics what waits and what lies behind."""
    _step("measure", lambda joined: joined.measure())


@app.task(name="market.jobs.sweep")
def sweep() -> None:
    """Drop answers that are kept no longer."""
    _step("sweep", lambda joined: joined.sweep())
