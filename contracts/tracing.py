"""OpenTelemetry for both programs: one trace from the client's `traceparent` through gateway and worker to settlement.

Off unless the standard OTEL_… variables ask for an exporter; then the extra [otel] must be installed. Spans are made of
times that were taken anyway, once a request has ended, so that being off costs a look at a name. Never holds inputs,
outputs, signatures or keys. Called by gateway, jobs and workers.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

CONTEXT_BYTES = 24
_W3C = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_EXPORTERS = ("otlp", "console", "file")

# The context in which the work at hand goes on, as a `traceparent`; read where a job is put into a message.
current: ContextVar[str | None] = ContextVar("traceparent", default=None)

Attributes = Mapping[str, str | int | float | bool]


class TracingNotConfigured(Exception):
    """The OTEL_… variables ask for something that is not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class SpanContext:
    """Where in which trace: 16 bytes, 8 bytes, and whether anybody wants to see it."""

    trace_id: bytes
    span_id: bytes
    sampled: bool = True

    def __str__(self) -> str:
        """Write it as a `traceparent` header."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-0{int(self.sampled)}"

    def to_bytes(self) -> bytes:
        """Write it as 24 bytes."""
        return self.trace_id + self.span_id


def parse(text: str | None) -> SpanContext | None:
    """Read a `traceparent` header; None if there is none or it is malformed, as W3C Trace Context asks for."""
    found = None if text is None else _W3C.fullmatch(text)
    if found is None or (found[4] and text is not None and text.startswith("00")):
        return None
    trace_id, span_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    if not any(trace_id) or not any(span_id):
        return None
    return SpanContext(trace_id, span_id, sampled=bool(int(found[3], 16) & 1))


def read(data: bytes | None) -> SpanContext | None:
    """Read what `SpanContext.to_bytes` wrote."""
    return None if data is None or len(data) != CONTEXT_BYTES else SpanContext(data[:16], data[16:])


class Span:
    """One step under way or done; makes its children from times in unix seconds."""

    def __init__(self, context: SpanContext, span: Any = None) -> None:
        self.context = context
        self._span = span

    def child(self, name: str, began_at: float, ended_at: float, attributes: Attributes | None = None) -> Span:
        """Add a step that is over."""
        found = start(name, self.context, began_at, attributes=attributes, kind="internal")
        assert found is not None
        found.end(ended_at)
        return found

    def end(self, at: float, attributes: Attributes | None = None, *, failed: str | None = None) -> None:
        """Say that it is over, with the code of what went wrong."""
        if self._span is None:
            return
        if attributes:
            self._span.set_attributes(dict(attributes))
        if failed is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, failed))
        self._span.end(end_time=_nanoseconds(at))


_tracer: Any = None
_provider: Any = None


def is_on() -> bool:
    """Tell whether spans go anywhere."""
    return _tracer is not None


def start(
    name: str,
    parent: SpanContext | None,
    at: float,
    *,
    attributes: Attributes | None = None,
    kind: str = "server",
) -> Span | None:
    """Begin a step below `parent`, or a trace; without an exporter the caller's context, if any, is handed on."""
    if _tracer is None:
        return None if parent is None else Span(parent)
    from opentelemetry import trace
    from opentelemetry.context import Context

    context = Context()
    if parent is not None:
        remote = trace.SpanContext(
            int.from_bytes(parent.trace_id, "big"),
            int.from_bytes(parent.span_id, "big"),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(parent.sampled)),
        )
        context = trace.set_span_in_context(trace.NonRecordingSpan(remote), context)
    span = _tracer.start_span(
        name,
        context,
        kind=trace.SpanKind[kind.upper()],
        start_time=_nanoseconds(at),
        attributes=dict(attributes or {}),
    )
    made = span.get_span_context()
    ids = made.trace_id.to_bytes(16, "big"), made.span_id.to_bytes(8, "big")
    return Span(SpanContext(*ids, sampled=bool(made.trace_flags & 1)), span)


def configure(service: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send spans where the OTEL_… variables say; False if they say nowhere.

    Raises:
        TracingNotConfigured: the extra is not installed, or the exporter is unknown.
    """
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not wanted and endpoint:
        wanted = "otlp"
    if not wanted or wanted == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if wanted not in _EXPORTERS:
        raise TracingNotConfigured(f"OTEL_TRACES_EXPORTER is {wanted!r}, known are {', '.join(_EXPORTERS)} and none.")
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingNotConfigured("Install the extra for traces: pip install 'inference-market[otel]'.") from error
    install(BatchSpanProcessor(_exporter(wanted, environ)), service, environ)
    return True


def install(processor: Any, service: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send spans to a processor of the OpenTelemetry SDK."""
    global _tracer, _provider  # noqa: PLW0603  # one a process, as OpenTelemetry's own
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    attributes = {"service.instance.id": secrets.token_hex(8)}
    if not environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = service
    _provider = TracerProvider(resource=Resource.create(attributes))
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("inference-market")


def close() -> None:
    """Send what waits, and stop."""
    global _tracer, _provider
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        provider.shutdown()


def _exporter(wanted: str, environ: Mapping[str, str]) -> Any:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if wanted == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise TracingNotConfigured("Install the extra for traces: pip install 'inference-market[otel]'.") from error
        return OTLPSpanExporter()
    if wanted == "console":
        import sys

        return ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    path = environ.get("OTEL_EXPORTER_FILE_PATH")
    if not path:
        raise TracingNotConfigured("OTEL_TRACES_EXPORTER=file needs OTEL_EXPORTER_FILE_PATH.")
    # Several programs may share it: each line is one write to the end of the file.
    return ConsoleSpanExporter(out=open(path, "a", buffering=1, encoding="utf-8"), formatter=_line)  # noqa: PTH123


def _line(span: Any) -> str:
    return str(span.to_json(indent=None)) + "\n"


def _nanoseconds(at: float) -> int:
    return int(at * 1e9)
