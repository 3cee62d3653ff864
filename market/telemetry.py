"""What the market logs and counts: structlog events with bound ids, Prometheus counters by code, histograms by stage.

Decides the names of metrics and the look of log lines. It never logs a key, a voucher's signature or a tensor, and no
metric has an address as a label. Every layer may import it; it imports none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

METRICS = CollectorRegistry(auto_describe=True)

REQUESTS = Counter("market_requests_total", "Inference requests by outcome.", ["code"], registry=METRICS)
STAGE_SECONDS = Histogram(
    "market_stage_seconds",
    "Seconds spent in each stage of a paid request.",
    ["stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=METRICS,
)
IN_FLIGHT = Gauge("market_requests_in_flight", "Inference requests being served now.", registry=METRICS)
CHARGED_UNITS = Counter("market_charged_units_total", "Atomic token units charged.", registry=METRICS)
UNSETTLED_UNITS = Gauge("market_unsettled_units", "Atomic token units charged and not settled.", registry=METRICS)
BLOCKS_BEHIND = Gauge("market_blocks_behind", "Confirmed blocks that the index has not folded.", registry=METRICS)
SETTLEMENTS = Counter("market_settlements_total", "Settlement transactions by outcome.", ["code"], registry=METRICS)
LIVE_WORKERS = Gauge("market_live_workers", "Workers that announce offers now.", registry=METRICS)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time the body into the histogram of `name`, whether it succeeds or raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(name).observe(time.perf_counter() - started)


def configure_logging(level: str = "info", log_format: str = "text", *, service: str = "market") -> None:
    """Send structlog and the standard library's records to stderr in one format; call once at start."""
    threshold = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for noisy in ("web3", "urllib3", "httpx", "httpcore", "kombu", "amqp", "asyncio", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; events are short kebab-case names with bound values."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
