"""Both servers on real sockets around a use case that only computes: what comes in broken leaves as a coded refusal."""

import asyncio
import gzip
import json
import socket
import struct
import threading
import time
import zlib
from types import SimpleNamespace

import grpc
import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.tensors import Tensor
from contracts.protocol.typed_data import Domain, Receipt
from market.errors import InsufficientVoucher, NoPayment, WorkerFailed
from market.gateway.app import create_app
from market.gateway.body import pack_content
from market.gateway.grpc import messages as m
from market.gateway.grpc import server, service
from market.gateway.infer_http import InferPath
from market.inference.model import Answer
from market.registry.model import Listing
from market.settings import MarketSettings

pytestmark = pytest.mark.integration

MANIFEST = Manifest(
    task="tensor",
    entry="model.onnx",
    files={"model.onnx": FileEntry(bytes(32), 1)},
    inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    outputs=(TensorSpec("y", "FP32", (-1, 4)), TensorSpec("z", "FP32", (-1, 4))),
    batch_axis=0,
)
LISTING = Listing(MANIFEST.model_id, "twice", bytes(20), 0, 1, 1, 0, "", active=True)
RECEIPT = Receipt(*(bytes(32), bytes(32), bytes(20), bytes(20), 1, bytes(20)), *(bytes(32),) * 3, 5, 4, 0, 5, 1)
VOUCHER = f"0x{'11' * 32};500;0x{'22' * 65}"
CHARGES: list[int] = []


class Doubles:
    """Stands where the use case stands: y is x twice, z is x; the first element asks for a delay in milliseconds."""

    async def infer(self, request):
        if request.voucher is None:
            raise NoPayment
        if request.voucher.cumulative_amount < 5:
            raise InsufficientVoucher("covers nothing", required=5)
        x = request.tensors[0].to_numpy()
        await asyncio.sleep(min(float(abs(x.flat[0])), 200.0) / 1000)
        CHARGES.append(5)
        outputs = tuple(Tensor.from_numpy(name, array) for name, array in (("y", x * 2), ("z", x)))
        wanted = tuple(t for t in outputs if not request.requested_outputs or t.name in request.requested_outputs)
        return Answer(wanted, {"rows": len(x)}, RECEIPT, bytes(65), bytes(65), 5, 5, bytes(32), repeated=False)


class Runtime:
    def __init__(self):
        self.settings = MarketSettings(grpc_port=0, max_body_bytes=64 * 1024, body_timeout_seconds=0.5)
        self.registry = SimpleNamespace(
            cursor=lambda: 1,
            listings=lambda: [LISTING],
            listing=lambda model_id: LISTING if model_id == LISTING.model_id else None,
            listing_by_name=lambda name: LISTING if name == "twice" else None,
        )
        self.offers = SimpleNamespace(manifest=lambda _: MANIFEST, quotes=lambda _: [], view=None)
        self.inference, self.x402, self.rates = Doubles(), None, None
        self.gateway, self.domain, self.contracts = bytes(20), Domain(1, bytes(20)), {"token": bytes(20)}

    async def start(self): ...

    async def close(self): ...


@pytest.fixture(scope="module")
def servers():
    app = create_app(Runtime())
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(InferPath(app, app.state.runtime), loop="uvloop", http="httptools", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=10) as client,
        grpc.insecure_channel(f"127.0.0.1:{app.state.grpc_port}") as channel,
    ):
        yield client, channel
    server.should_exit = True
    thread.join(15)
    listener.close()


@pytest.fixture
def http(servers):
    return servers[0]


@pytest.fixture
def channel(servers):
    return servers[1]


ROW = np.arange(4, dtype="<f4").reshape(1, 4)
PAY = {"Market-Voucher": VOUCHER}
INFER = "/v2/models/twice/infer"


def body(data=ROW, **more):
    row = {"name": "x", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}
    return {"inputs": [row], **more}


def refused(response, status, code):
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["error"]
    return problem


@pytest.mark.parametrize(
    "path", [INFER, "/v2/models/twice/versions/1/infer", f"/v2/models/0x{MANIFEST.model_id.hex()}/infer"]
)
def test_json_in_json_out(http, path):
    answer = http.post(path, json=body(id="a"), headers=PAY)
    assert answer.status_code == 200, answer.text
    assert answer.headers["market-receipt"]
    got = answer.json()
    assert (got["id"], got["model_version"], got["parameters"]) == ("a", "1", {"rows": 1})
    assert [row["data"] for row in got["outputs"]] == [[0, 2, 4, 6], [0, 1, 2, 3]]


async def test_the_described_route_answers_as_the_hot_path_does(http):
    head = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}
    raw = json.dumps(head | {"parameters": {"binary_data_output": True}}).encode()
    binary = {"content": raw + ROW.tobytes(), "headers": PAY | {"Inference-Header-Content-Length": str(len(raw))}}
    transport = httpx.ASGITransport(app=create_app(Runtime()))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as app:
        for request in ({"json": body(), "headers": PAY}, binary, {"json": body()}, {"content": b"{", "headers": PAY}):
            one, other = http.post(INFER, **request), await app.post(INFER, **request)
            assert (one.status_code, one.content) == (other.status_code, other.content)
            hop = ("date", "server", "connection")
            assert {k: v for k, v in one.headers.items() if k not in hop} == dict(other.headers)


def test_binary_in_binary_out(http):
    head = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "z", "parameters": {"binary_data": True}}],
    }
    raw = json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(raw))}
    answer = http.post(INFER, content=raw + ROW.tobytes(), headers=PAY | length)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content[int(answer.headers["inference-header-content-length"]) :] == ROW.tobytes()


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies(http, encoding, pack):
    headers = PAY | {"Content-Encoding": encoding}
    raw = json.dumps(body()).encode()
    assert http.post(INFER, content=pack(raw), headers=headers).status_code == 200
    refused(http.post(INFER, content=raw, headers=headers), 400, "invalid-request")
    refused(http.post(INFER, content=pack(raw)[:-3], headers=headers), 400, "invalid-request")
    refused(http.post(INFER, content=pack(bytes(50_000_000)), headers=headers), 413, "payload-too-large")
    refused(http.post(INFER, content=raw, headers=PAY | {"Content-Encoding": "br"}), 400, "invalid-request")


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_an_answer_is_compressed_where_that_alone_is_asked_for(http, encoding, bits):
    many = body(np.ones((64, 4), np.float32))
    plain = http.post(INFER, json=many, headers=PAY)  # httpx asks for a list by itself
    assert plain.status_code == 200, plain.text
    assert "content-encoding" not in plain.headers
    with http.stream("POST", INFER, json=many, headers=PAY | {"Accept-Encoding": encoding}) as packed:
        data = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == encoding
    assert int(packed.headers["content-length"]) == len(data) < len(plain.content)
    assert zlib.decompress(data, bits) == plain.content
    small = http.post(INFER, json=body(), headers=PAY | {"Accept-Encoding": encoding})
    assert small.status_code == 200
    assert "content-encoding" not in small.headers
    large = bytes(1_000_000)  # packed in a thread
    assert zlib.decompress(await pack_content(large, encoding), bits) == large


def test_refusals_say_what_and_charge_nothing(http):
    before = len(CHARGES)
    assert "offers" in refused(http.post(INFER, json=body()), 402, "payment-required")
    low = {"Market-Voucher": VOUCHER.replace(";500;", ";1;")}
    assert refused(http.post(INFER, json=body(), headers=low), 402, "insufficient-voucher")["required"] == "5"
    refused(http.post(INFER, json=body(), headers={"Market-Voucher": "?"}), 400, "invalid-voucher")
    refused(http.post("/v2/models/nope/infer", json=body(), headers=PAY), 404, "unknown-model")
    refused(http.post("/v2/models/twice/versions/2/infer", json=body(), headers=PAY), 404, "unknown-model")
    refused(http.post(INFER, content=b"{", headers=PAY), 400, "invalid-request")
    refused(http.post(INFER, content=bytes(70_000), headers=PAY), 413, "payload-too-large")
    refused(http.post(INFER, content=json.dumps(body()).replace("1.0", "1e99"), headers=PAY), 400, "tensor-data")
    refused(http.post("/v2/models/a/b/c/infer", json=body(), headers=PAY), 404, "no-route")
    refused(http.put(INFER, json=body()), 405, "no-route")
    assert len(CHARGES) == before


def test_an_announced_length_that_lies_is_cut_off_in_time(http):
    host, port = http.base_url.host, http.base_url.port
    with socket.create_connection((host, port), timeout=5) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{".encode())
        assert b" 400 " in raw.recv(4096).split(b"\r\n")[0]
    with socket.create_connection((host, port), timeout=5) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{{".encode())
        assert b" 413 " in raw.recv(4096).split(b"\r\n")[0]


def test_health_metadata_and_index(http):
    assert http.get("/v2/health/live").status_code == 200
    assert http.get("/v2/health/ready").status_code == 200
    assert "binary_tensor_data" in http.get("/v2").json()["extensions"]
    assert http.get("/v2/models/twice").json()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert http.post("/v2/repository/index").json()[0]["name"] == "twice"
    assert http.post("/v2/repository/index", json={"ready": True}).json() == []
    refused(http.post("/v2/repository/index", json={"ready": 7}), 400, "invalid-request")
    refused(http.post("/v2/repository/index", content=b"["), 400, "invalid-request")
    assert http.get("/v2/models/twice/ready").status_code == 503
    paths = http.get("/openapi.json").json()["paths"]
    assert "402" in paths["/v2/models/{model}/infer"]["post"]["responses"]


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/twice", "/v1/models", "/v2/models/none"])
def test_head_is_answered_as_get_is_without_the_content(http, path):
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


def test_head_of_what_only_takes_post_is_refused(http):
    refused = http.head("/v1/embeddings")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120), st.none() | st.integers(0, 130), st.sampled_from(["", "gzip", "deflate", "x"]))
def test_no_bytes_break_the_http_server(http, content, length, encoding):
    headers = dict(PAY)
    if length is not None:
        headers["Inference-Header-Content-Length"] = str(length)
    if encoding:
        headers["Content-Encoding"] = encoding
    assert http.post(INFER, content=content, headers=headers).status_code in range(400, 500)


# --- gRPC ------------------------------------------------------------------------------------------------------------


def call(channel, method, request, answer, **more):
    stub = channel.unary_unary(f"/{m.SERVICE}/{method}", response_deserializer=answer.FromString)
    return stub(request if isinstance(request, bytes) else request.SerializeToString(), timeout=10, **more)


def message(data=ROW, *, voucher=VOUCHER, request_id="g", outputs=()):
    made = m.ModelInferRequest(model_name="twice", id=request_id)
    made.inputs.add(name="x", datatype="FP32", shape=data.shape)
    made.raw_input_contents.append(data.astype("<f4").tobytes())
    for name in outputs:
        made.outputs.add(name=name)
    m.fill_parameters(made.parameters, {"market_voucher": voucher} if voucher else {})
    return made


def test_grpc_infer_pays_by_metadata_or_parameters(channel):
    for made, metadata in ((message(), ()), (message(voucher=None), (("market-voucher", VOUCHER),))):
        answer = call(channel, "ModelInfer", made, m.ModelInferResponse, metadata=metadata)
        assert [(row.name, list(row.shape)) for row in answer.outputs] == [("y", [1, 4]), ("z", [1, 4])]
        assert answer.raw_output_contents[0] == (ROW * 2).tobytes()
        parameters = m.plain_parameters(answer.parameters)
        assert (parameters["rows"], parameters["market_charged"]) == (1, "5")
        assert parameters["market_receipt"]
    answer = call(channel, "ModelInfer", message(outputs=["z"]), m.ModelInferResponse)
    assert [row.name for row in answer.outputs] == ["z"]


def test_grpc_refusals_are_coded(channel):
    unknown = message()
    unknown.model_name = "nope"
    for made, status, code in (
        (message(voucher=None), grpc.StatusCode.FAILED_PRECONDITION, "payment-required"),
        (message(voucher="?"), grpc.StatusCode.INVALID_ARGUMENT, "invalid-voucher"),
        (message(np.zeros((1, 3))), grpc.StatusCode.INVALID_ARGUMENT, "tensor-shape"),
        (unknown, grpc.StatusCode.NOT_FOUND, "unknown-model"),
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "invalid-request"),
        (message(np.zeros((40_000, 4))), grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(channel, "ModelInfer", made, m.ModelInferResponse)
        assert error.value.code() is status, error.value.details()
        trailing = dict(error.value.trailing_metadata() or ())
        if code is not None:
            assert trailing["market-code"] == code
            assert json.loads(trailing["market-problem-bin"])["code"] == code


class Talkative:
    """Stands where the use case stands; a worker may say of a failure whatever it likes."""

    async def infer(self, request):
        raise WorkerFailed("ö" * 30_000)


@pytest.mark.parametrize("kind", ["name", "version", "worker"])
def test_a_grpc_refusal_stays_coded_however_long_what_it_is_about(channel, monkeypatch, kind):
    made = message()
    if kind == "name":
        made.model_name = "n" * 30_000
    if kind == "version":
        made.model_version = "9" * 30_000
    if kind == "worker":
        monkeypatch.setattr(Doubles, "infer", Talkative.infer)
    with pytest.raises(grpc.RpcError) as refusal:
        call(channel, "ModelInfer", made, m.ModelInferResponse)
    trailing = dict(refusal.value.trailing_metadata())
    assert trailing["market-code"] == ("worker-failed" if kind == "worker" else "unknown-model")
    assert refusal.value.details().startswith(f"[{trailing['market-code']}]")
    assert json.loads(trailing["market-problem-bin"])["code"] == trailing["market-code"]
    assert len(refusal.value.details()) < 600


def test_grpc_health_and_metadata(channel):
    assert call(channel, "ServerLive", b"", m.ServerLiveResponse).live
    assert call(channel, "ServerReady", b"", m.ServerReadyResponse).ready
    assert not call(channel, "ModelReady", m.ModelReadyRequest(name="twice"), m.ModelReadyResponse).ready
    assert call(channel, "ModelMetadata", m.ModelMetadataRequest(name="twice"), m.ModelMetadataResponse).versions == [
        "1"
    ]
    assert call(channel, "RepositoryIndex", b"", m.RepositoryIndexResponse).models[0].state == "UNAVAILABLE"
    with pytest.raises(grpc.RpcError) as error:
        call(channel, "ModelMetadata", b"\xff", m.ModelMetadataResponse)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_calls_that_grpc_does_not_offer_are_refused_by_name(channel):
    offered = channel.unary_unary(f"/{m.SERVICE}/ModelStatistics")
    with pytest.raises(grpc.RpcError) as error:
        offered(b"", timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert dict(error.value.trailing_metadata())["market-code"] == "no-route"
    assert "ModelStreamInfer" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/other.Service/Call")(b"", timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def stream(channel, requests, **more):
    stub = channel.stream_stream(
        f"/{m.SERVICE}/ModelStreamInfer", response_deserializer=m.ModelStreamInferResponse.FromString
    )
    return stub((r if isinstance(r, bytes) else r.SerializeToString() for r in requests), timeout=20, **more)


def test_a_stream_answers_in_order_and_outlives_refusals(channel):
    requests = [message(np.full((1, 4), 100.0 if i == 0 else 1.0), request_id=str(i)) for i in range(40)]
    requests[7] = message(voucher=None, request_id="7")
    requests[9] = b"\xff\xff"
    started = time.monotonic()
    answers = list(stream(channel, requests))
    assert time.monotonic() - started < 5
    assert [a.infer_response.id for a in answers] == [str(i) if i != 9 else "" for i in range(40)]
    assert [i for i, a in enumerate(answers) if a.error_message] == [7, 9]
    assert m.plain_parameters(answers[7].infer_response.parameters)["market_code"] == "payment-required"
    assert m.plain_parameters(answers[1].infer_response.parameters)["triton_final_response"] is True


def test_a_client_that_leaves_a_stream_stops_its_requests(channel):
    before = len(CHARGES)
    gone = threading.Event()

    def requests():
        for i in range(16):
            yield message(np.full((1, 4), 200.0), request_id=str(i))
        gone.wait(5)

    answers = stream(channel, requests())
    time.sleep(0.05)
    answers.cancel()
    gone.set()
    time.sleep(0.4)
    assert len(CHARGES) == before
    assert call(channel, "ModelInfer", message(), m.ModelInferResponse).raw_output_contents


def test_a_stream_at_rest_is_ended_and_one_at_work_is_not(channel, monkeypatch):
    monkeypatch.setattr(service, "STREAM_IDLE_SECONDS", 0.1)
    gone = threading.Event()

    def requests():
        yield message(np.full((1, 4), 200.0), request_id="slow")
        gone.wait(5)

    answers = stream(channel, requests())
    assert next(answers).infer_response.id == "slow"
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    gone.set()
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(ended.value.trailing_metadata())["market-code"] == "invalid-request"


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"])
async def test_a_grpc_connection_that_asks_for_nothing_is_closed(monkeypatch, said):
    monkeypatch.setattr(server, "_HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(server, "_IDLE_SECONDS", 1.0)

    def held(port):
        with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
            client.sendall(said)
            while client.recv(65_536):
                pass
        return False

    async with server.serve_grpc(Runtime()) as port:
        assert not await asyncio.to_thread(held, port), "it is kept"


class Unread:
    """Calls from an address of its own whose answers may not be sent: the window for them stays shut."""

    def __init__(self, port, calls):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=("127.0.0.2", 0))
        window = struct.pack(">HI", 4, 0)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(4, 0, 0, window))
        for number in range(calls):
            fields = {":method": "POST", ":scheme": "http", ":path": f"/{m.SERVICE}/ServerLive", ":authority": "x"}
            fields |= {"content-type": "application/grpc", "te": "trailers"}
            head = b"".join(
                bytes([0, len(name)]) + name.encode() + bytes([len(text)]) + text.encode()
                for name, text in fields.items()
            )
            stream_id = 1 + 2 * number
            self.socket.sendall(self._frame(1, 4, stream_id, head) + self._frame(0, 1, stream_id, bytes(5)))

    @staticmethod
    def _frame(kind, flags, stream_id, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload

    def read_until(self, words):
        found = b""
        while words not in found:
            found += self.socket.recv(65_536)


async def test_calls_whose_answers_nobody_reads_leave_room_for_other_addresses(monkeypatch):
    monkeypatch.setattr(server, "_CONCURRENT_CALLS", 3)
    joined = Runtime()
    joined.settings = MarketSettings(grpc_port=0, max_connections_by_address=2)
    async with server.serve_grpc(joined) as port:
        for _ in range(3):  # they count no more once their connection is gone
            unread = await asyncio.to_thread(Unread, port, 4)
            await asyncio.to_thread(unread.read_until, b"capacity-error")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as other:
                live = other.unary_unary(f"/{m.SERVICE}/ServerLive")
                assert await live(b"", timeout=5)
            unread.socket.close()
            await asyncio.sleep(0.3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, 400), st.integers(1, 255))
def test_no_bytes_break_the_grpc_server(channel, content, at, flip):
    good = bytearray(message().SerializeToString())
    good[at % len(good)] ^= flip
    for candidate in (content, bytes(good)):
        try:
            call(channel, "ModelInfer", candidate, m.ModelInferResponse)
        except grpc.RpcError as error:
            assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)  # noqa: PT017
