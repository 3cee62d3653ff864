"""What no model takes, sent to every door of a running market: a stable code, the client's fault, and nothing charged."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import pytest

from contracts.protocol.hexes import hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.demo import minilm
from market.demo.network import TOKEN_PRICE, LocalMarket, Options
from market.gateway.grpc import messages as m
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from tests.support import bad_requests, tiny_llm
from tests.support.bad_grpc import GRPC, message
from tests.support.bad_openai import CHAT, OPENAI, TEXT, whole
from tests.support.bad_requests import BINARY, JSON, Bad

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 50 * ATOMIC_PER_TOKEN
SLOW, ENDLESS, CONTEXT = "slow", "endless", 60_000


@dataclass
class Doors:
    """A running market, who pays, and the ways in."""

    local: LocalMarket
    market: Market
    http: httpx.Client
    grpc: grpc.Channel
    voucher: str

    def state(self) -> tuple[int, int]:
        """Return what is charged and what is set aside, atomic units."""
        found = self.market.get(f"/market/v1/channels/{hex0x(self.market.channel().channel_id)}")
        return int(found["charged"]), int(found["reserved"])

    def settled(self, seconds: float = 30.0) -> int:
        """Wait until nothing is set aside any more; return what is charged."""
        until = time.monotonic() + seconds
        while True:
            charged, reserved = self.state()
            if not reserved:
                return charged
            assert time.monotonic() < until, f"{reserved} stay set aside"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("bad")
    packages = bad_requests.lay_models(folder / "packages")
    for name, work in ((SLOW, 600), (ENDLESS, 0)):
        (folder / name).mkdir()
        contents = tiny_llm.files(context=CONTEXT) | {"model.onnx": tiny_llm.model(endless=True, work=work)}
        options = {"context_length": CONTEXT, "max_output_tokens": 40, "template_tokens": 8}
        tiny_llm.package(folder / name, contents, options=options)
        packages = (*packages, folder / name)
    with LocalMarket(Options(folder / "net", keep_state=False, packages=packages, grpc=True)) as local:
        local.start()
        wallet = local.wallet("client")
        with (
            Market(local.gateway_url, wallet, papers=PaperStore(None)) as market,
            httpx.Client(base_url=local.gateway_url, timeout=60) as http,
            grpc.insecure_channel(local.grpc_address) as channel,
        ):
            opened = local.chain.open_channel(wallet, local.accounts["gateway"].address, DEPOSIT)
            market.use_channel(opened, local.chain.domain)
            market.wait_for_channel(opened.digest(local.chain.domain), deposited=DEPOSIT)
            kept = market.channel()
            market.papers.signed(kept.channel_id, DEPOSIT)
            yield Doors(local, market, http, channel, wallet.voucher_header(opened, DEPOSIT, kept.domain))


@pytest.fixture
def before(doors: Doors) -> Iterator[int]:
    """What was charged before; holds that nothing was charged nor stays set aside."""
    charged = doors.settled()
    yield charged
    assert doors.state() == (charged, 0)


def post(doors: Doors, bad: Bad) -> httpx.Response:
    headers = {"Market-Voucher": doors.voucher, **bad.headers}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return doors.http.post(bad.path, content=bad.content, headers=raw)


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("bad", JSON, ids=str)
def test_json(doors, bad):
    answer = post(doors, bad)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("field")) == (bad.status, bad.code, bad.where), problem
    assert problem["detail"]


def test_inputs_that_no_graph_runs_keep_nobody_else_from_the_model(doors):
    def ask(token: int) -> httpx.Response:
        tensors = [
            {"name": name, "datatype": "INT64", "shape": [1, 1], "data": [value]}
            for name, value in (("input_ids", token), ("attention_mask", 1), ("token_type_ids", 0))
        ]
        headers = {"Market-Voucher": doors.voucher}
        return doors.http.post(f"/v2/models/{minilm.NAME}/infer", json={"inputs": tensors}, headers=headers)

    charged = doors.settled()
    for token in (-(10**9), 10**9) * 4:
        answer = ask(token)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (400, "inputs-refused", "inputs"), problem
    assert doors.state() == (charged, 0)
    assert ask(101).status_code == 200


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("bad", BINARY, ids=str)
def test_binary(doors, bad):
    answer = post(doors, bad)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (bad.status, bad.code), problem
    assert problem["field"] == (bad.where or problem["field"])


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("bad", GRPC, ids=str)
def test_grpc(doors, bad):
    sent = bad.message()
    stub = doors.grpc.unary_unary(f"/{m.SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        stub(
            sent if isinstance(sent, bytes) else sent.SerializeToString(),
            timeout=30,
            metadata=(("market-voucher", doors.voucher),),
        )
    trailing = dict(refused.value.trailing_metadata())
    problem = json.loads(trailing["market-problem-bin"])
    assert (problem["status"], trailing["market-code"]) == (bad.status, bad.code), problem
    assert problem["field"] == (bad.where or problem["field"])
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("bad", OPENAI, ids=str)
def test_openai(doors, bad):
    answer = post(doors, bad)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (bad.status, bad.code, bad.where), error
    assert error["type"] in ("invalid_request_error", "not_found_error")


def test_the_tables_models_serve_what_is_right(doors):
    """Else the refusals above would show nothing."""
    pay = {"Market-Voucher": doors.voucher}
    assert doors.http.post("/v2/models/mixed/infer", content=bad_requests.mixed(), headers=pay).status_code == 200
    head, rest = bad_requests.binary()
    told = pay | {bad_requests.HEADER_LENGTH: str(len(head))}
    assert doors.http.post("/v2/models/mixed/infer", content=head + rest, headers=told).status_code == 200
    stub = doors.grpc.unary_unary(f"/{m.SERVICE}/ModelInfer")
    stub(message().SerializeToString(), timeout=30, metadata=(("market-voucher", doors.voucher),))
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"):
        answer = doors.http.post(path, json=whole(path), headers=pay)
        assert answer.status_code == 200, answer.text


# --- readers that leave, or do not read -------------------------------------------------------------------------------


def ask(doors: Doors, path: str, body: dict, *, buffer: int | None = None) -> socket.socket:
    """Send a request over a connection of its own, with a receive buffer of so many bytes."""
    url = httpx.URL(doors.local.gateway_url)
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect((url.host, url.port))
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nMarket-Voucher: {doors.voucher}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def events(data: bytes) -> list[dict]:
    """Return the whole events in what came of a stream."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {") and line.endswith(b"}")]


def said(found: list[dict]) -> str:
    return "".join(one["choices"][0].get("text") or "" for one in found if one.get("choices"))


def test_who_leaves_a_stream_ends_it_and_pays_for_what_was_sent(doors):
    before = doors.settled()
    most = 3_000
    connection, data = ask(doors, TEXT, whole(TEXT, model=SLOW, max_tokens=most, stream=True, temperature=0)), b""
    while len(events(data)) < 5:
        data += connection.recv(4096)
    connection.close()
    left = time.monotonic()
    charged = doors.settled() - before
    assert charged % TOKEN_PRICE == 0
    # One token of the prompt, those that were read, and what was on its way.
    assert 1 + 5 <= charged // TOKEN_PRICE < 1 + len(said(events(data)).encode()) + 200
    assert time.monotonic() - left < 10, "the generation went on"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_who_leaves_before_anything_was_sent_pays_nothing(doors, path, stream):
    before = doors.settled()
    long = {"messages": [{"role": "user", "content": "A" * 8_000}]} if path == CHAT else {"prompt": "A" * 8_000}
    connection = ask(doors, path, whole(path, model=SLOW, max_tokens=3_000, stream=stream, **long))
    until = time.monotonic() + 30
    while not doors.state()[1]:
        assert time.monotonic() < until, "nothing was set aside"
    connection.close()
    assert doors.settled() == before


def test_who_does_not_read_is_sent_no_more_and_pays_for_that(doors):
    before = doors.settled()
    most = CONTEXT - 100
    body = whole(TEXT, model=ENDLESS, max_tokens=most, stream=True, temperature=0)
    connection = ask(doors, TEXT, body, buffer=4_096)
    until = time.monotonic() + 30
    while not doors.state()[1]:
        assert time.monotonic() < until, "nothing was set aside"
    charged = doors.settled(seconds=100) - before
    data = b""
    while b"[DONE]" not in data[-200:]:
        data += connection.recv(1 << 16)
    connection.close()
    found = events(data)
    last = found[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert int(last["market"]["charged"]) == charged
    # What gateway and kernel hold of a stream is bounded, and so is what such a reader pays.
    assert len(said(found).encode()) == charged // TOKEN_PRICE - 1 < 4_000
