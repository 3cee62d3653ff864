"""One id from the client's `traceparent` through gateway, queue, worker and settlement, at a real OTLP collector."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from typer.testing import CliRunner

from market.cli import app
from market.demo import minilm
from market.demo.network import LocalMarket, Options

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = ["received", "queued", "started", "modelRun", "signed", "returned", "charged", "answered"]


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans, each with the service that told of it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, trace_id):
        return [(service, span) for service, span in list(self.spans) if span.trace_id.hex() == trace_id]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        import gzip

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for group in collector.ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            self.server.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def otlp():
    server = Collector()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def local(tmp_path_factory, otlp):
    folder = tmp_path_factory.mktemp("traced")
    package = folder / minilm.TEXT_NAME
    minilm.build_text_package(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{otlp.server_port}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        options = Options(folder / "market", keep_state=False, settle_interval_seconds=1.0, packages=(package,))
        with LocalMarket(options) as found:
            found.start()
            found.save_network_file()
            yield found


@pytest.fixture(scope="module")
def market(local):
    with local.client(1_000_000) as found:
        yield found


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def told(market, request_id):
    return market.get(f"/market/v1/requests/{request_id}/trace")


def test_one_trace_from_the_client_to_the_settlement(local, market, otlp):
    wallet, kept = market.payer()
    headers = {
        "Market-Voucher": wallet.voucher_header(kept.channel, 500_000, kept.domain),
        "traceparent": f"00-{TRACE_ID}-{PARENT}-01",
    }
    market.papers.signed(kept.channel_id, 500_000)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A man is eating food."]}
    answer = httpx.post(
        f"{local.gateway_url}/v2/models/minilm-text/infer", json={"inputs": [tensor]}, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["Market-Request-Id"]

    wait_for(lambda: "settle" in {span.name for _, span in otlp.of(TRACE_ID)})
    found = {(service, span.name): span for service, span in otlp.of(TRACE_ID)}
    root = found["inference-gateway", "inference"]
    assert root.parent_span_id.hex() == PARENT
    assert found["inference-worker", "serve"].parent_span_id == root.span_id
    assert found["inference-jobs", "settle"].parent_span_id == root.span_id
    assert found["inference-worker", "model run"].parent_span_id == found["inference-worker", "serve"].span_id
    assert {"admit", "dispatch", "check", "charge"} <= {name for _, name in found}
    for span in found.values():
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        values = [attribute.value.string_value for attribute in span.attributes]
        assert not any("eating" in value for value in values), "no trace holds an input"

    wait_for(lambda: told(market, request_id)["state"] == "settled")
    run = CliRunner().invoke(app, ["trace", request_id, "--json", "--data-dir", str(local.data_dir)])
    shown = json.loads(run.output)
    assert shown["traceId"] == TRACE_ID
    *steps, settled = shown["steps"]
    assert [step["step"] for step in steps] == STEPS
    transaction = {a.key: a.value for a in found["inference-jobs", "settle"].attributes}["market.transaction"]
    assert settled["transactionHash"] == transaction.string_value
    money = {name: int(shown["money"][name]) for name in ("price", "workerAmount", "ownerAmount", "gatewayAmount")}
    assert money["price"] == sum(money.values()) - money["price"] == int(answer.headers["Market-Charged"])
    text = CliRunner().invoke(app, ["trace", request_id, "--data-dir", str(local.data_dir)]).output
    assert "settled in epoch" in text
    assert transaction.string_value in text


def test_a_refused_request_tells_why(local, market, otlp):
    request_id = "0x" + "ab" * 32
    wallet, kept = market.payer()
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A man is eating food."]}
    answer = httpx.post(
        f"{local.gateway_url}/v2/models/minilm-text/infer",
        json={"inputs": [tensor]},
        headers={
            "Market-Voucher": wallet.voucher_header(kept.channel, 500_000, kept.domain),
            "Market-Max-Price": "1",
            "Market-Request-Id": request_id,
        },
        timeout=60,
    )
    assert answer.status_code >= 400
    shown = told(market, request_id)
    assert (shown["state"], shown["code"], shown["money"]) == ("failed", answer.json()["code"], None)
    assert shown["steps"][-1]["step"] == "refused"
    assert wait_for(lambda: otlp.of(shown["traceId"])), "the gateway begins a trace where the client brings none"


def test_nobody_knows_a_request_that_never_was(local):
    run = CliRunner().invoke(app, ["trace", "0x" + "00" * 32, "--json", "--data-dir", str(local.data_dir)])
    assert run.exit_code == 1
    assert "receipt-not-found" in run.output + run.stderr
