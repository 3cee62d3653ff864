"""What the market logs and counts: structlog events with bound ids, Prometheus counters by code, histograms by stage.

Decides the names of metrics and the look of log lines. It never logs a key, a voucher's signature or a tensor, and no
metric has an address as a label. Every layer may import it; it imports the errors alone.
"""

from __future__ import annotations

import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts import tracing
from market.errors import ConfigurationError

METRICS = CollectorRegistry(auto_describe=True)

HEDGES = Counter(
    "market_hedges_total", "Requests sent to a second worker, by whose answer counted.", ["answer"], registry=METRICS
)
_STAGE_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Stages(Collector):
    """Histograms of stages in plain lists, read at the scrape: a paid request passes half a dozen of them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float, count: int = 1) -> None:
        counts = self.seconds.get(name)
        if counts is None:
            counts = self.seconds.setdefault(name, [0.0] * (len(_STAGE_BOUNDS) + 2))
        counts[bisect_left(_STAGE_BOUNDS, seconds)] += count
        counts[-1] += seconds * count

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "market_stage_seconds", "Seconds spent in each stage of a paid request.", labels=["stage"]
        )
        for name, (*counts, total) in sorted(self.seconds.items()):
            bounds = [*(str(float(bound)) for bound in _STAGE_BOUNDS), "+Inf"]
            family.add_metric([name], list(zip(bounds, accumulate(counts), strict=True)), total)
        yield family


_STAGES = _Stages()
METRICS.register(_STAGES)


class Requests(Collector):
    """What is counted of each request, in plain numbers of one thread, read at the scrape.

    A counter that any thread may change costs more than a small step of serving.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.charged_units = 0
        self._ended: dict[str, int] = {}

    def begin(self) -> None:
        """Count a request that is being served from now on."""
        self.in_flight += 1

    def end(self, code: str) -> None:
        """Count that it ended, by its outcome: `ok`, or the code of its refusal."""
        self.in_flight -= 1
        self.count(code)

    def count(self, code: str) -> None:
        """Count an outcome, also of a request that was refused before it began."""
        self._ended[code] = self._ended.get(code, 0) + 1

    def charge(self, units: int) -> None:
        """Count what was charged, atomic units."""
        self.charged_units += units

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        ended = CounterMetricFamily("market_requests", "Inference requests by outcome.", labels=["code"])
        for code, count in sorted(self._ended.copy().items()):
            ended.add_metric([code], count)
        yield ended
        yield GaugeMetricFamily("market_requests_in_flight", "Inference requests being served now.", self.in_flight)
        yield CounterMetricFamily("market_charged_units", "Atomic token units charged.", self.charged_units)


SERVED = Requests()
METRICS.register(SERVED)
UNSETTLED_RECEIPTS = Gauge("market_unsettled_receipts", "Receipts charged and not settled.", registry=METRICS)
UNSETTLED_AGE = Gauge("market_unsettled_seconds", "How long the oldest receipt has waited.", registry=METRICS)
UNSETTLED_UNITS = Gauge("market_unsettled_units", "Atomic token units charged and not settled.", registry=METRICS)
OPEN_CHALLENGES = Gauge("market_open_challenges", "Challenges of inclusion not yet decided.", registry=METRICS)
BLOCKS_BEHIND = Gauge("market_blocks_behind", "Confirmed blocks that the index has not folded.", registry=METRICS)
BLOCK_AGE = Gauge("market_block_age_seconds", "Age of the newest block of the chain's node.", registry=METRICS)
THAWING = Gauge("market_stake_thawing_units", "Atomic token units of all workers' stake that thaw.", registry=METRICS)
JOB_DONE_AT = Gauge("market_job_done_at", "When a job last succeeded, unix seconds.", ["job"], registry=METRICS)
JOB_FAILURES = Counter("market_job_failures_total", "Steps of jobs that failed.", ["job", "code"], registry=METRICS)
SETTLEMENTS = Counter("market_settlements_total", "Settlement transactions by outcome.", ["code"], registry=METRICS)
HOUSE_UNITS = Gauge(
    "market_x402_house_units", "Atomic token units the house channel can still pay onward.", registry=METRICS
)
HOUSE_SPARE_UNITS = Gauge(
    "market_x402_house_spare_units", "Atomic token units the house account can still fill it with.", registry=METRICS
)
CLAIMABLE_UNITS = Gauge(
    "market_x402_claimable_units", "Atomic token units that x402 channels owe and hold, unclaimed.", registry=METRICS
)
MISSING_UNITS = Counter(
    "market_x402_missing_units_total",
    "Atomic token units charged to x402 channels that their payers took out unclaimed.",
    registry=METRICS,
)
AUDITS = Counter(
    "market_audits_total",
    "Requests chosen for an audit, by what came of it.",
    ["outcome"],
    registry=METRICS,
)
CONVICTED_WORKERS = Gauge("market_convicted_workers", "Workers that audits took out of selection.", registry=METRICS)
LIVE_WORKERS = Gauge("market_live_workers", "Workers that announce offers now.", registry=METRICS)


class stage:  # noqa: N801 - used as a function
    """Time the body into the histogram of `name`, whether it succeeds or raises."""

    __slots__ = ("_name", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        _STAGES.add(self._name, time.perf_counter() - self._started)


# Notes in the histogram of a name that a stage took so long, or as much on average for each of so many.
observe = _STAGES.add


def serve_metrics(host: str, port: int | None) -> Callable[[], None]:
    """Serve the metrics of a program without HTTP on a port of their own, if one is set; returns how to end it.

    Raises:
        ConfigurationError: the port is taken.
    """
    if port is None:
        return lambda: None
    try:
        server, thread = start_http_server(port, host, METRICS)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}.",
            field="MARKET_METRICS_PORT",
            remedy="Stop the program that has the port, or set MARKET_METRICS_HOST and MARKET_METRICS_PORT.",
        ) from error
    get_logger(__name__).info("metrics-served", url=f"http://{host}:{server.server_port}/metrics")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop


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


def start_tracing(service: str) -> None:
    """Send spans where the OTEL_… variables say; a wrong one is logged and leaves tracing off."""
    try:
        tracing.configure(service)
    except tracing.TracingNotConfigured as error:
        structlog.get_logger(__name__).warning("tracing-off", detail=str(error))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; events are short kebab-case names with bound values."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
