"""Logs and counters of a worker: structlog to stderr, Prometheus by code and stage, never an address as a label.

`METRICS` counts what one serving process does; `NODE_METRICS` are facts of the whole node, sampled by its one front.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from contracts import tracing

disable_created_metrics()  # type: ignore[no-untyped-call]

METRICS = CollectorRegistry()
JOBS = Counter("worker_jobs_total", "Jobs by outcome code.", ["code"], registry=METRICS)
PACKS = Histogram("worker_pack_jobs", "Jobs in a pack.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), registry=METRICS)
COMPUTE = Histogram("worker_compute_seconds", "Time of one model run.", registry=METRICS)
EARNED = Counter("worker_earned_units_total", "Atomic token units signed for.", registry=METRICS)
LOADED_MODELS = Gauge("worker_loaded_models", "Models in memory.", registry=METRICS)
TOKENS = Counter("worker_tokens_total", "Tokens read from inputs, and generated.", ["kind"], registry=METRICS)
IN_FLIGHT = Gauge("worker_jobs_in_flight", "Jobs being served now.", registry=METRICS)
SERVED_MODELS = Gauge("worker_served_models", "Models offered, by execution provider.", ["provider"], registry=METRICS)
ISOLATED_MODELS = Gauge("worker_isolated_models", "Models that run in a process of their own.", registry=METRICS)
WITHDRAWN_MODELS = Gauge(
    "worker_withdrawn_models", "Models not offered now because their process ended too often.", registry=METRICS
)
MODEL_ENDS = Counter(
    "worker_model_process_ends_total",
    "Models' processes that died or were killed.",
    ["cause"],
    registry=METRICS,
)
MODEL_STARTS = Counter("worker_model_process_starts_total", "Models' processes started.", registry=METRICS)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
PACK_SECONDS = Histogram(
    "worker_pack_seconds", "From a pack's arrival to its last answer.", buckets=_SECONDS, registry=METRICS
)
GENERATION_SECONDS = Histogram(
    "worker_generation_seconds", "From a generation's start to its end.", buckets=_SECONDS, registry=METRICS
)

NODE_METRICS = CollectorRegistry()
QUEUE = Gauge("worker_queue_packs", "Packs of jobs that wait in this worker's queue.", registry=NODE_METRICS)
LINKED = Gauge("worker_linked", "1 while the link to the gateway is up, and in the own lane.", registry=NODE_METRICS)
STAKE = Gauge("worker_stake_units", "Atomic token units at stake.", registry=NODE_METRICS)
THAWING = Gauge("worker_stake_thawing_units", "Atomic token units of the stake that thaw.", registry=NODE_METRICS)
MIN_STAKE = Gauge("worker_stake_needed_units", "Smallest stake that counts, atomic token units.", registry=NODE_METRICS)
ACTIVE = Gauge("worker_active", "1 while the worker is registered with enough stake.", registry=NODE_METRICS)
BLOCK_AGE = Gauge("worker_block_age_seconds", "Age of the node's newest block.", registry=NODE_METRICS)
CHAIN_REACHED = Gauge("worker_chain_reached", "1 while the chain's node answers.", registry=NODE_METRICS)
GPU_USED = Gauge("worker_gpu_memory_used_bytes", "Memory in use on a card.", ["gpu"], registry=NODE_METRICS)
GPU_TOTAL = Gauge("worker_gpu_memory_bytes", "Memory of a card.", ["gpu"], registry=NODE_METRICS)
GPU_BUSY = Gauge("worker_gpu_busy_ratio", "Share of time a card was busy, 0 to 1.", ["gpu"], registry=NODE_METRICS)

_MAX_TRACES = 10_000
_traces: dict[str, str] = {}


def remember_traces(trace: Iterable[tuple[str, str]]) -> None:
    """Note to which traces the jobs of a pack belong, if anybody collects them."""
    if tracing.is_on():
        _traces.update(trace)
        while len(_traces) > _MAX_TRACES:  # jobs that never came to a signature
            _traces.pop(next(iter(_traces)), None)


def tell_trace(request_id: bytes, started_at: float, seconds: float, signed_at: float) -> None:
    """Tell a job's trace how it was served; times are unix seconds."""
    if not _traces:
        return
    context = tracing.parse(_traces.pop(request_id.hex(), None))
    span = None if context is None else tracing.start("serve", context, started_at, kind="consumer")
    if span is not None:
        span.child("model run", started_at, started_at + seconds)
        span.child("sign", started_at + seconds, signed_at)
        span.end(signed_at, {"market.request_id": "0x" + request_id.hex()})


def start_tracing() -> None:
    """Send spans where the OTEL_… variables say; a wrong one is logged and leaves tracing off."""
    try:
        tracing.configure("inference-worker")
    except tracing.TracingNotConfigured as error:
        structlog.get_logger(__name__).warning("tracing-off", detail=str(error))


def configure_logging(level: str, log_format: str) -> None:
    """Send structlog and the standard library's records to stderr; call once at start."""
    threshold = getattr(logging, level.upper())
    logging.basicConfig(level=threshold, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # A line for each request that it makes, in a format of its own.
    logging.getLogger("httpx").setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer()
            if log_format == "json"
            else structlog.dev.ConsoleRenderer(colors=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
