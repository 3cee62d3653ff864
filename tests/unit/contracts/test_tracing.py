"""W3C trace context as read and written; spans only where somebody asked for them."""

import json

import pytest

from contracts import tracing
from market.inference.timeline import Timeline, Timelines

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans():
    exporting = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    tracing.install(exporting.SimpleSpanProcessor(exporter), "here", {})
    yield exporter
    tracing.close()


def test_a_traceparent_is_read_and_written():
    context = tracing.parse(GOOD)
    assert str(context) == GOOD
    assert tracing.read(context.to_bytes()) == context
    assert str(tracing.parse(GOOD[:-1] + "0")) == GOOD[:-1] + "0"
    assert tracing.parse("01" + GOOD[2:] + "-more") == context, "a later version may say more"


@pytest.mark.parametrize(
    "text",
    [None, "", "00", GOOD.upper(), "ff" + GOOD[2:], GOOD + "-x", GOOD.replace("4bf9", "zzzz"), GOOD[:3] + "0" * 32 + GOOD[35:]],
)  # fmt: skip
def test_what_is_no_traceparent_is_none(text):
    assert tracing.parse(text) is None


def test_off_there_are_no_spans_and_the_clients_context_is_handed_on():
    assert not tracing.is_on()
    assert tracing.start("x", None, 1.0) is None
    span = tracing.start("x", tracing.parse(GOOD), 1.0)
    assert str(span.context) == GOOD
    span.end(2.0)


def test_times_survive_in_a_few_bytes():
    one = Timeline(1_700_000_000.5, code="ok")
    one.queue(b"w" * 20, 1_700_000_000.501)
    one.started_at, one.model_seconds, one.signed_at = 1_700_000_000.49, 0.0125, 1_700_000_000.52
    one.returned_at = 1_700_000_000.53
    data = one.to_bytes()
    assert len(data) == 32
    found = Timeline.from_bytes(data)
    assert found.queued_at == pytest.approx(one.queued_at, abs=2e-6)
    assert found.started_at == pytest.approx(one.started_at, abs=2e-6), "a worker's clock may be behind"
    assert found.model_seconds == pytest.approx(0.0125, abs=2e-6)
    assert found.charged_at == 0.0
    assert Timeline.from_bytes(b"?") is None


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -1e300, 1e300, 10**400])
def test_a_worker_that_says_nonsense_of_its_times_harms_nobody(said):
    one = Timeline(1_700_000_000.5, code="ok")
    one.serve(said, said, said)
    assert Timeline.from_bytes(one.to_bytes()).started_at == 0.0


def test_a_repetition_does_not_hide_how_the_request_was_served():
    kept = Timelines(kept=2)
    first = Timeline(1.0, request_id=b"a", charged_at=2.0, code="ok")
    first.queue(b"w", 1.5)
    kept.keep(first, 3.0)
    kept.keep(Timeline(4.0, request_id=b"a", code="ok"), 5.0)
    assert kept.find(b"a") is first
    for name in (b"b", b"c"):
        kept.keep(Timeline(6.0, request_id=name, code="no-capacity"), 7.0)
    assert kept.find(b"a") is None, "only the newest are remembered"


def test_a_request_becomes_a_tree_of_spans(spans):
    timeline = Timeline(10.0, request_id=b"r", model="m", code="ok", charged_at=13.0, returned_at=12.0)
    timeline.span = tracing.start("inference", tracing.parse(GOOD), 10.0)
    timeline.queued_at, timeline.worker = 11.0, b"w" * 20
    Timelines().keep(timeline, 14.0)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"admit", "dispatch", "check", "charge", "inference"}
    root = found.pop("inference")
    assert format(root.context.trace_id, "032x") == GOOD[3:35]
    assert (root.start_time, root.end_time) == (10_000_000_000, 14_000_000_000)
    assert {span.parent.span_id for span in found.values()} == {root.context.span_id}
    assert sum(span.end_time - span.start_time for span in found.values()) == 4_000_000_000


def test_a_failure_is_marked_with_its_code(spans):
    timeline = Timeline(1.0, request_id=b"r", code="no-capacity")
    timeline.span = tracing.start("inference", None, 1.0)
    Timelines().keep(timeline, 2.0)
    [span] = spans.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "no-capacity")


def test_what_nobody_samples_is_not_told(spans):
    span = tracing.start("inference", tracing.parse(GOOD[:-1] + "0"), 1.0)
    assert not span.context.sampled
    span.end(2.0)
    assert spans.get_finished_spans() == ()


def test_spans_go_to_a_file_line_by_line(tmp_path):
    pytest.importorskip("opentelemetry.sdk")
    path = tmp_path / "spans.jsonl"
    assert tracing.configure("here", {"OTEL_TRACES_EXPORTER": "file", "OTEL_EXPORTER_FILE_PATH": str(path)})
    tracing.start("one", None, 1.0).end(2.0)
    tracing.start("two", None, 1.0).end(2.0)
    tracing.close()
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["one", "two"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
    ],
)
def test_nothing_asked_for_is_nothing_sent(environ):
    assert tracing.configure("here", environ) is False
    assert not tracing.is_on()


def test_what_cannot_be_had_is_said():
    with pytest.raises(tracing.TracingNotConfigured, match="zipkin"):
        tracing.configure("here", {"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(tracing.TracingNotConfigured, match="OTEL_EXPORTER_FILE_PATH"):
        tracing.configure("here", {"OTEL_TRACES_EXPORTER": "file"})
