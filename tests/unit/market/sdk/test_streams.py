"""A streamed chat is believed only by its receipt: text, reason and counts must be those that the worker signed."""

import base64

import httpx
import numpy as np
import orjson
import pytest

from contracts.protocol.errors import TensorError
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.receipts import pack_receipt
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from contracts.protocol.typed_data import Domain, Receipt
from market.sdk.aio import AsyncMarket
from market.sdk.client import Market
from market.sdk.errors import GatewayMisbehaved, GatewayRefused, GatewayUnreachable, StreamOpen
from market.sdk.papers import PaperStore
from market.sdk.streams import EventReader
from market.sdk.tasks import chat_parameters
from market.sdk.wallet import Wallet

DOMAIN = Domain(31_337, b"\x05" * 20)
MODEL_ID = b"\x07" * 32
PRICE = 500
MESSAGES = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "é"}]
CONVERSATION = '[{"role":"system","content":"Be brief."},{"role":"user","content":"é"}]'
GIVEN = {"temperature": 0, "max_tokens": 4, "stop": ["x"], "seed": -1}
SENT = {"temperature": 0.0, "max_tokens": 4, "stop": '["x"]', "seed": (1 << 53) - 1, "format": "chat"}


def tensor(name, value):
    return Tensor.from_numpy(name, np.array([value.encode()], dtype=object))


class Streamer:
    """A gateway and its worker in memory; `said` is what the stream says, whatever was signed."""

    def __init__(self, key, worker, channel):
        self.key, self.worker, self.channel = key, worker, channel
        self.text, self.reason, self.said, self.cut, self.error = "añb", "stop", None, False, None
        self.stored = None

    def __call__(self, request):
        path = request.url.path
        if path.startswith("/market/v1/models/"):
            offers = [{"unitPrice": "100"}]
            row = {"name": "m", "modelId": hex0x(MODEL_ID), "unit": "request", "batchAxis": None, "offers": offers}
            return httpx.Response(200, json=row)
        if path.startswith("/market/v1/channels/"):
            return httpx.Response(200, json={"charged": "0", "deposited": "5000000"})
        if path.startswith("/market/v1/receipts/"):
            if self.stored is None:
                return httpx.Response(404, json={"code": "receipt-not-found", "detail": "no."})
            return httpx.Response(200, json=self.stored)
        assert path == "/v1/chat/completions"
        channel_id, amount, *_ = request.headers["Market-Voucher"].split(";")
        if int(amount) < PRICE:
            problem = {"error": {"code": "insufficient-voucher", "message": "less."}, "required": str(PRICE)}
            return httpx.Response(402, json=problem)
        receipt = self.receipt(from_hex(request.headers["Market-Request-Id"], 32, field="r"), channel_id)
        digest = receipt.digest(DOMAIN)
        signatures = self.worker.sign_digest(digest), self.key.sign_digest(digest)
        self.stored = {
            "receipt": receipt.to_json(),
            "workerSignature": hex0x(signatures[0]),
            "gatewaySignature": hex0x(signatures[1]),
        }
        paper = base64.urlsafe_b64encode(pack_receipt(receipt, *signatures)).rstrip(b"=").decode()
        data = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in self.events(paper)) + b"data: [DONE]\n\n"
        # In pieces that end in the middle of a character.
        return httpx.Response(200, content=(data[i : i + 7] for i in range(0, len(data), 7)))

    def receipt(self, request_id, channel_id):
        outputs = [
            tensor("text", self.text),
            tensor("finish_reason", self.reason),
            Tensor.from_numpy("usage", np.array([2, 3], np.int64)),
        ]
        return Receipt(
            request_id=request_id,
            channel_id=from_hex(channel_id, 32, field="c"),
            payer=self.channel.payer,
            gateway=self.key.address,
            seq=1,
            worker=self.worker.address,
            model_id=MODEL_ID,
            input_hash=content_hash(encode_tensors([tensor("prompt", CONVERSATION)], SENT)),
            output_hash=content_hash(encode_tensors(outputs)),
            price=PRICE,
            worker_amount=PRICE,
            owner_amount=0,
            cumulative=PRICE,
            served_at=1_700_000_000,
        )

    def events(self, paper):
        for character in self.text if self.said is None else self.said:
            yield {"choices": [{"index": 0, "delta": {"content": character}, "finish_reason": None}]}
        if self.error is not None:
            yield {"error": self.error}
            return
        if self.cut:
            return
        reason = "stop" if self.reason == "stop" else "length"
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "market": {"receipt": paper}}
        yield {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}


@pytest.fixture
def wallet():
    return Wallet.generate()


@pytest.fixture
def streamer(gateway, wallet):
    return Streamer(gateway.key, gateway.worker, wallet.new_channel(gateway.key.address))


@pytest.fixture
def market(streamer, wallet):
    with Market("http://gateway", wallet, papers=PaperStore(None), transport=httpx.MockTransport(streamer)) as found:
        found.use_channel(streamer.channel, DOMAIN)
        yield found


def test_pieces_come_whole_and_the_receipt_is_kept(market):
    with market.chat("m", MESSAGES, stream=True, **GIVEN) as stream:
        assert list(stream) == ["a", "ñ", "b"]
    assert (stream.answer.text, stream.answer.completion_tokens) == ("añb", 3)
    assert stream.answer.outcome.charged == PRICE
    assert len(list(market.papers.receipts())) == 1


async def test_the_same_for_asyncio(streamer, wallet):
    async with AsyncMarket(
        "http://gateway", wallet, papers=PaperStore(None), transport=httpx.MockTransport(asynchronous(streamer))
    ) as market:
        market.use_channel(streamer.channel, DOMAIN)
        async with await market.chat("m", MESSAGES, stream=True, **GIVEN) as stream:
            assert [piece async for piece in stream] == ["a", "ñ", "b"]
        async with await market.chat("m", MESSAGES, stream=True, **GIVEN) as left:
            assert await anext(left) == "a"
        assert len(list(market.papers.receipts())) == 2


def asynchronous(streamer):
    async def handle(request):
        answer = streamer(request)
        if not isinstance(answer.stream, httpx.SyncByteStream) or isinstance(answer.stream, httpx.AsyncByteStream):
            return answer
        return httpx.Response(answer.status_code, content=pieces(b"".join(answer.stream)))

    async def pieces(data):
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    return handle


def test_a_text_that_the_worker_did_not_sign_is_refused(market, streamer):
    streamer.said = "axb"
    with pytest.raises(GatewayMisbehaved) as refused:
        list(market.chat("m", MESSAGES, stream=True, **GIVEN))
    assert refused.value.field == "outputHash"
    assert list(market.papers.receipts()) == []


def test_a_generation_that_was_stopped_reads_as_cut_in_its_length(market, streamer):
    streamer.reason = "cancelled"
    stream = market.chat("m", MESSAGES, stream=True, **GIVEN)
    assert "".join(stream) == "añb"
    assert stream.answer.finish_reason == "length"


def test_whoever_leaves_keeps_the_receipt_and_frees_the_channel(market):
    with market.chat("m", MESSAGES, stream=True, **GIVEN) as stream:
        assert next(stream) == "a"
    with pytest.raises(StreamOpen):
        _ = stream.answer
    assert len(list(market.papers.receipts())) == 1
    assert "".join(market.chat("m", MESSAGES, stream=True, **GIVEN)) == "añb"


def test_a_stream_that_breaks_off_says_so_and_keeps_what_was_charged(market, streamer):
    streamer.cut = True
    with pytest.raises(GatewayUnreachable):
        list(market.chat("m", MESSAGES, stream=True, **GIVEN))
    assert len(list(market.papers.receipts())) == 1


def test_a_failure_on_the_way_has_the_gateways_code(market, streamer):
    streamer.error = {"code": "worker-failed", "message": "it stumbled.", "retry": "other_worker"}
    with pytest.raises(GatewayRefused) as refused:
        list(market.chat("m", MESSAGES, stream=True, **GIVEN))
    assert (refused.value.code, refused.value.detail) == ("worker-failed", "it stumbled.")


def test_a_stream_that_is_forgotten_frees_the_channel(market):
    next(market.chat("m", MESSAGES, stream=True, **GIVEN))
    assert "".join(market.chat("m", MESSAGES, stream=True, **GIVEN)) == "añb"


def test_events_are_found_however_they_are_cut():
    data = b': hello\n\ndata: {"a": 1}\r\n\r\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    reader = EventReader()
    assert [one for i in range(len(data)) for one in reader.feed(data[i : i + 1])] == [{"a": 1}, {"b": 2}]
    with pytest.raises(GatewayMisbehaved):
        list(EventReader().feed(b"data: {\n\n"))


def test_several_texts_are_refused_before_anything_is_paid():
    assert chat_parameters({"n": 1, "seed": 2}) == {"seed": 2, "format": "chat"}
    with pytest.raises(TensorError) as error:
        chat_parameters({"n": 2})
    assert error.value.field == "n"
