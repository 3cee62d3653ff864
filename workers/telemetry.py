"""Logs and counters of a worker: structlog to stderr, Prometheus by code and stage, never an address as a label."""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

METRICS = CollectorRegistry()
JOBS = Counter("worker_jobs_total", "Jobs by outcome code.", ["code"], registry=METRICS)
PACKS = Histogram("worker_pack_jobs", "Jobs in a pack.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), registry=METRICS)
COMPUTE = Histogram("worker_compute_seconds", "Time of one model run.", registry=METRICS)
EARNED = Counter("worker_earned_units_total", "Atomic token units signed for.", registry=METRICS)
LOADED_MODELS = Gauge("worker_loaded_models", "Models in memory.", registry=METRICS)


def configure_logging(level: str, log_format: str) -> None:
    """Send structlog and the standard library's records to stderr; call once at start."""
    threshold = getattr(logging, level.upper())
    logging.basicConfig(level=threshold, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
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
