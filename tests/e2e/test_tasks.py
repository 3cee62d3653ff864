"""Texts, images and generated text through the whole market: packages that `market model init` made, tokens charged."""

import asyncio
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.protocol.money import split_price
from market.demo.network import ROYALTY_PPM, TOKEN_PRICE, UNIT_PRICE, LocalMarket, Options
from market.sdk import drafts
from market.sdk.aio import AsyncMarket
from market.sdk.errors import GatewayRefused
from market.sdk.papers import PaperStore
from market.sdk.verify import verify_receipt
from tests.support import models, tiny_llm

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEPOSIT = 5_000_000


class Distrusting(LocalMarket):
    """Every model runs in a process of its own, in a sandbox where the machine has one."""

    def worker_environment(self):
        return {**super().worker_environment(), "WORKER_ISOLATION": "always"}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    image = {"model.onnx": models.image_classifier(), "config.json": b'{"id2label": {"0": "a", "1": "b", "2": "c"}}'}
    contents = {
        "embedder": {"model.onnx": models.embedder(), "tokenizer.json": models.tokenizer_json()},
        "pictures": image,
        "writer": tiny_llm.files(),
    }
    for name, files in contents.items():
        (root / name).mkdir()
        for file, data in files.items():
            (root / name / file).write_bytes(data)
        drafts.draft(root / name, options={"max_tokens": 16} if name == "embedder" else None).write()
    folder = tmp_path_factory.mktemp("market")
    packages = tuple(root / name for name in contents)
    with Distrusting(Options(folder, keep_state=False, settle_interval_seconds=2.0, packages=packages)) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def market(local, tmp_path_factory):
    store = PaperStore(tmp_path_factory.mktemp("client") / "papers.db")
    with local.client(DEPOSIT, papers=store) as found:
        yield found
    store.close()


def texts(*items):
    return np.array(items, dtype=object)


def charged(market):
    channel = market.channel()
    return int(market.get(f"/market/v1/channels/0x{channel.channel_id.hex()}")["charged"])


def test_embeddings_are_charged_by_their_tokens(market):
    before = charged(market)
    outcome = market.infer("embedder", {"text": texts("the cat sat", "a dog")}, max_price=DEPOSIT)
    assert outcome.outputs["embedding"].shape == (2, models.HIDDEN)
    assert outcome.outputs["tokens"].tolist() == [5, 4]
    assert outcome.charged == 9 * TOKEN_PRICE
    assert charged(market) == before + outcome.charged
    receipt = outcome.paper.receipt
    assert receipt.owner_amount == split_price(outcome.charged, ROYALTY_PPM, 0).owner_amount


def test_images_are_charged_by_the_image(market):
    data = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 90, 200)).save(data, "JPEG")
    outcome = market.infer("pictures", {"image": texts(data.getvalue(), data.getvalue())}, max_price=DEPOSIT)
    assert outcome.outputs["scores"].shape == (2, 3)
    assert outcome.charged == 2 * UNIT_PRICE


def test_text_is_generated_charged_by_its_tokens_and_settled(market, local):
    outcome = market.infer(
        "writer", {"prompt": texts("A")}, parameters={"temperature": 0, "max_tokens": 5}, max_price=DEPOSIT
    )
    assert outcome.outputs["text"].tolist() == [b"BCDEF"]
    assert outcome.outputs["usage"].tolist() == [1, 5]
    assert outcome.charged == 6 * TOKEN_PRICE
    settled = market.wait_for_settlement(outcome.paper)
    verdict = verify_receipt(settled, local.chain, channel=market.channel().channel)
    assert verdict.valid, verdict.to_json()


def test_a_bad_image_costs_nothing(market):
    before = charged(market)
    with pytest.raises(Exception, match="cannot be read") as error:
        market.infer("pictures", {"image": texts(b"no image")}, max_price=DEPOSIT)
    assert error.value.status is None or error.value.status < 500
    assert charged(market) == before


def voucher(market, amount):
    wallet, kept = market.payer()
    market.papers.signed(kept.channel_id, amount)  # the papers hold every receipt against what was signed
    return {"Market-Voucher": wallet.voucher_header(kept.channel, amount, kept.domain)}


def test_a_chat_is_streamed_as_openais_clients_read_it(market, local):
    before = charged(market)
    request = {
        "model": "writer",
        "messages": [{"role": "user", "content": "X"}],
        "temperature": 0,
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces, usage = [], None
    with httpx.stream(
        "POST",
        f"{local.gateway_url}/v1/chat/completions",
        json=request,
        headers=voucher(market, before + 400 * TOKEN_PRICE),
        timeout=30,
    ) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                pieces += [choice["delta"].get("content") or "" for choice in event["choices"]]
                usage = event.get("usage") or usage
    assert "".join(pieces) == "YZ é"  # and two bytes of the next character
    assert usage["completion_tokens"] == 6
    deadline = time.monotonic() + 10
    while charged(market) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert charged(market) == before + (usage["prompt_tokens"] + 6) * TOKEN_PRICE


MESSAGES = [{"role": "user", "content": "A"}]


def test_the_sdk_streams_a_chat_and_keeps_its_checked_receipt(market):
    with market.chat("writer", MESSAGES, stream=True, temperature=0, max_tokens=9, stop=["I"]) as stream:
        pieces = list(stream)
    answer = stream.answer
    assert "".join(pieces) == answer.text == "BCDEFGH"
    assert answer.finish_reason == "stop"
    assert answer.outcome.charged == (answer.prompt_tokens + answer.completion_tokens) * TOKEN_PRICE
    [kept] = market.papers.receipts(request_id=answer.outcome.paper.receipt.request_id)
    assert kept.worker_signature == answer.outcome.paper.worker_signature
    whole = market.chat("writer", MESSAGES, temperature=0, max_tokens=9, stop="I")
    assert (whole.text, whole.finish_reason) == (answer.text, answer.finish_reason)


def test_leaving_a_stream_ends_it_and_keeps_the_receipt_of_what_was_sent(market):
    before, known = charged(market), len(list(market.papers.receipts()))
    with market.chat("writer", MESSAGES, stream=True, temperature=0, max_tokens=64) as stream:
        assert next(stream) == "B"
    with pytest.raises(Exception, match="not read to its end"):
        _ = stream.answer
    fresh = len(list(market.papers.receipts())) - known
    assert fresh == (charged(market) > before), "what was charged has its receipt"
    again = market.chat("writer", MESSAGES, temperature=0, max_tokens=4)
    assert again.text == "BCDE", "the channel is free again"


async def test_streams_go_side_by_side_within_a_window(market, local):
    wallet, kept = market.payer()
    async with AsyncMarket(local.gateway_url, wallet, papers=market.papers, window=2_000_000) as many:
        many.use_channel(kept.channel, kept.domain)

        async def ask(prompt):
            messages = [{"role": "user", "content": prompt}]
            stream = await many.chat("writer", messages, stream=True, temperature=0, max_tokens=8)
            async with stream:
                return "".join([piece async for piece in stream]), stream.answer.outcome

        answers = await asyncio.gather(*(ask(prompt) for prompt in "ABab"))
    assert [text for text, _ in answers] == [tiny_llm.SCRIPT.split(c, 1)[1].encode()[:8].decode() for c in "ABab"]
    ids = {outcome.paper.receipt.request_id for _, outcome in answers}
    assert len(ids) == 4
    assert ids <= {paper.receipt.request_id for paper in market.papers.receipts()}


def test_a_refusal_comes_before_the_first_piece(market):
    with pytest.raises(GatewayRefused) as refused:
        next(market.chat("writer", MESSAGES, stream=True, temperature=9))
    assert (refused.value.code, refused.value.field) == ("invalid-request", "temperature")


def test_many_generations_at_once_are_each_charged_for_themselves(market, local):
    before = charged(market)
    headers = voucher(market, before + 24 * 100 * TOKEN_PRICE)
    wanted = ["A", "K", "a", "X"] * 6

    def ask(prompt):
        request = {"model": "writer", "prompt": prompt, "temperature": 0, "max_tokens": 10}
        answer = httpx.post(f"{local.gateway_url}/v1/completions", json=request, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"], answer.json()["usage"]["total_tokens"]

    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(ask, wanted))
    for prompt, (text, _) in zip(wanted, answers, strict=True):
        assert tiny_llm.SCRIPT.split(prompt, 1)[1].startswith(text)
    deadline = time.monotonic() + 10
    total = sum(tokens for _, tokens in answers) * TOKEN_PRICE
    while charged(market) != before + total and time.monotonic() < deadline:
        time.sleep(0.1)
    assert charged(market) == before + total
