"""The gateway's background work on a clock: read the chain, settle, answer challenges, tidy up.

Celery beat and one worker in one process. Each task is a shell: it takes the joined parts, does one step and reports. A
step that fails is tried again at the next beat; what must not be lost is in the database. Started by `market jobs`;
several may run, the database lets one win.
A gateway's beats have a queue of their own, so that gateways which share a Redis leave each other's work alone.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable

import structlog
from celery import Celery
from celery.beat import EmbeddedService, Scheduler
from celery.exceptions import SecurityWarning

from contracts.protocol.errors import CodedError
from market.bootstrap import Jobs, build_jobs
from market.settings import MarketSettings
from market.telemetry import JOB_DONE_AT, JOB_FAILURES, SETTLEMENTS, serve_metrics

INDEX_SECONDS = 0.5
SETTLE_SECONDS = 1.0
ANSWER_SECONDS = 10.0
SWEEP_SECONDS = 60.0
MEASURE_SECONDS = 5.0
BEATS = {
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
    beat = EmbeddedService(app, max_interval=INDEX_SECONDS, scheduler_cls=Scheduler, thread=True)
    if os.environ.get("C_FORCE_ROOT"):  # root is meant, as in a container; nothing here takes pickles
        warnings.filterwarnings("ignore", category=SecurityWarning)
    stop_metrics = serve_metrics(settings.metrics_host, settings.metrics_port)
    beat.start()
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
        broker_url=redis_url,
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
            name: {"task": f"market.jobs.{name}", "schedule": seconds, "options": {"expires": max(1.0, seconds)}}
            for name, seconds in BEATS.items()
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
