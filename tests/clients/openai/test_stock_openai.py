"""The stock `openai` client, sync and async, by base URL and one header: embeddings, chats, streams, refusals."""

import asyncio
import base64
import json
import math
import time

import httpx
import numpy as np
import openai
import pydantic
import pytest

from market.demo.network import TOKEN_PRICE
from market.sdk.papers import SignedReceipt
from market.sdk.verify import verify_receipt
from tests.clients.openai.conftest import CHAT, EMBEDDER, TINY
from tests.support.tiny_llm import SCRIPT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
MESSAGES = [{"role": "user", "content": "A"}]
ALPHABET = SCRIPT[1:]


def settled(paying, *, seconds: float = 10.0) -> int:
    """Wait until nothing is reserved any more; return what is charged."""
    until = time.monotonic() + seconds
    while True:
        charged, reserved = paying.state()
        if not reserved or time.monotonic() > until:
            assert not reserved
            return charged
        time.sleep(0.02)


# --- embeddings ---------------------------------------------------------------------------------------------------


def test_embeddings_mean_something_and_cost_their_tokens(paying, client):
    before = settled(paying)
    answer = client.embeddings.create(model=EMBEDDER, input=SENTENCES)
    vectors = np.array([row.embedding for row in answer.data])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert 20 < answer.usage.prompt_tokens == answer.usage.total_tokens < 40
    assert settled(paying) == before + answer.usage.total_tokens * TOKEN_PRICE


def test_floats_and_base64_are_the_same(client):
    coded = client.embeddings.create(model=EMBEDDER, input=SENTENCES[0], encoding_format="base64").data[0].embedding
    plain = client.embeddings.create(model=EMBEDDER, input=SENTENCES[0], encoding_format="float").data[0].embedding
    assert np.allclose(np.frombuffer(base64.b64decode(coded), "<f4"), plain)


def test_the_receipt_of_an_answer_is_settled_and_verified_from_the_chain(paying, client):
    raw = client.embeddings.with_raw_response.create(model=EMBEDDER, input="settle me")
    paper = SignedReceipt.from_header(raw.headers["Market-Receipt"], model=EMBEDDER)
    settled_paper = paying.market.wait_for_settlement(paper)
    verdict = verify_receipt(settled_paper, paying.local.chain, channel=paying.market.channel().channel)
    assert verdict.valid, verdict.to_json()


# --- chats --------------------------------------------------------------------------------------------------------


def test_a_chat_whole(paying, client):
    before = settled(paying)
    answer = client.chat.completions.create(model=TINY, messages=MESSAGES, temperature=0, max_tokens=10)
    assert answer.choices[0].message.content == ALPHABET[:10]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 10
    assert settled(paying) == before + answer.usage.total_tokens * TOKEN_PRICE


def test_a_chat_streamed_is_the_same_text_and_price(paying, client):
    before = settled(paying)
    stream = client.chat.completions.create(
        model=TINY,
        messages=MESSAGES,
        temperature=0,
        max_completion_tokens=28,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, usage = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == ALPHABET.encode()[:28].decode(), "a token of this model is a byte"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert usage.usage.completion_tokens == 28
    told = chunks[-1].model_extra["market"]
    assert int(told["charged"]) == usage.usage.total_tokens * TOKEN_PRICE
    assert settled(paying) == before + int(told["charged"])
    assert SignedReceipt.from_header(told["receipt"], model=TINY).receipt.price == int(told["charged"])


def test_stop_and_logprobs(client):
    answer = client.chat.completions.create(
        model=TINY, messages=MESSAGES, temperature=0, max_tokens=30, stop=["H"], logprobs=True
    )
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("BCDEFG", "stop")
    content = choice.logprobs.content
    assert [row.token for row in content][:6] == list("BCDEFG")
    assert all(-1 < row.logprob <= 0 for row in content[:6])


def test_the_likeliest_tokens_of_each_place(client):
    asked = {"model": TINY, "temperature": 0, "max_tokens": 3}
    chat = client.chat.completions.create(**asked, messages=MESSAGES, logprobs=True, top_logprobs=4)
    for row, letter in zip(chat.choices[0].logprobs.content, "BCD", strict=True):
        assert (row.token, row.top_logprobs[0].token, len(row.top_logprobs)) == (letter, letter, 4)
        assert row.logprob == row.top_logprobs[0].logprob > row.top_logprobs[1].logprob
    text = client.completions.create(**asked, prompt="A", logprobs=4).choices[0].logprobs
    assert [next(iter(row)) for row in text.top_logprobs] == text.tokens == list("BCD")


def test_several_texts_whole_and_streamed_pay_their_prompt_once(paying, client):
    before = settled(paying)
    asked = {"model": TINY, "messages": MESSAGES, "temperature": 2, "seed": 3, "max_tokens": 6, "n": 3}
    whole = client.chat.completions.create(**asked, logprobs=True)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    alone = client.chat.completions.create(**{**asked, "n": 1}, logprobs=True)
    assert alone.choices[0].message.content == texts[0]
    assert whole.usage.prompt_tokens == alone.usage.prompt_tokens
    assert whole.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in whole.choices)
    spent = whole.usage.total_tokens + alone.usage.total_tokens
    assert settled(paying) == before + spent * TOKEN_PRICE
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert settled(paying) == before + (spent + whole.usage.total_tokens) * TOKEN_PRICE


def test_a_text_keeps_to_the_schema_that_was_asked_for(client):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked = {"model": TINY, "messages": MESSAGES, "seed": 1, "max_tokens": 60}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**asked, response_format=form)
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content) in ({"a": True}, {"a": False})
    loose = client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert loose.choices[0].message.content.lstrip().startswith("{")
    plain = client.chat.completions.create(**{**asked, "temperature": 0}, response_format={"type": "text"})
    assert plain.choices[0].message.content.startswith("BCD")


def test_the_clients_own_parsing_of_a_schema(client):
    """`parse` sends the schema of a pydantic model and reads the answer back into one."""

    class Verdict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        good: bool

    answer = client.chat.completions.parse(
        model=TINY, messages=MESSAGES, seed=2, max_tokens=60, response_format=Verdict
    )
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_a_text_completion_whole_and_streamed(client):
    asked = {"model": TINY, "prompt": "C", "temperature": 0, "max_tokens": 5}
    assert client.completions.create(**asked).choices[0].text == "DEFGH"
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == "DEFGH"


def test_the_same_seed_gives_the_same_text(client):
    asked = {"model": TINY, "prompt": "hello", "temperature": 2, "max_tokens": 20}
    one, same, other = (client.completions.create(**asked, seed=seed).choices[0].text for seed in (1, 1, 2))
    assert one == same != other


async def test_many_chats_side_by_side(paying):
    before = settled(paying)
    client = paying.async_client()

    async def ask() -> tuple[str, int]:
        stream = await client.chat.completions.create(
            model=TINY, messages=MESSAGES, temperature=0, max_tokens=20, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        text, spent = "", 0
        async for chunk in stream:
            spent = chunk.usage.total_tokens if chunk.usage else spent
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text, spent

    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert {text for text, _ in answers} == {ALPHABET[:20]}
    assert settled(paying) == before + sum(spent for _, spent in answers) * TOKEN_PRICE


async def test_leaving_a_stream_costs_what_was_sent_and_ends_it(paying):
    before = settled(paying)
    model, asked = (CHAT, "Count from one to five hundred in words.") if paying.has_chat else (TINY, "A")
    stream = await paying.async_client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": asked}],
        stream=True,
        max_tokens=600 if paying.has_chat else 60,
    )
    taken = 0
    async for _ in stream:
        taken += 1
        if taken == 5:
            break
    await stream.response.aclose()
    charged = settled(paying) - before
    assert charged % TOKEN_PRICE == 0
    tokens = charged // TOKEN_PRICE
    if paying.has_chat:
        # The prompt, the pieces read, and what was on its way when the connection closed.
        assert 5 < tokens < 250
    else:
        assert 0 <= tokens <= 70


# --- refusals -----------------------------------------------------------------------------------------------------


def test_refusals_are_the_clients_own_errors_and_free(paying, client):
    before = settled(paying)
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="nobody", input="x")
    assert missing.value.code == "unknown-model"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=EMBEDDER, messages=MESSAGES)
    assert (wrong.value.code, wrong.value.param) == ("wrong-task", "model")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model=TINY, messages=MESSAGES, extra_body={"nonsense": 1})
    assert unknown.value.param == "nonsense"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=TINY, messages=[{"role": "user", "content": "x" * 2_000}])
    assert (long.value.code, long.value.param) == ("inputs-refused", "messages")
    with pytest.raises(openai.BadRequestError) as schema:
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
        client.chat.completions.create(model=TINY, messages=MESSAGES, response_format=form)
    assert schema.value.param == "response_format.json_schema.schema"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=TINY, messages=[{"role": "user", "content": "x" * 2_000}], stream=True)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=EMBEDDER, input=[[1, 2, 3]])
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=EMBEDDER, input="x", dimensions=12)
    assert settled(paying) == before


def test_without_payment_the_client_hears_402_with_the_offers(paying):
    client = paying.client(default_headers={})
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model=TINY, messages=MESSAGES, stream=stream)
        assert refused.value.status_code == 402
        assert refused.value.code == "payment-required"
        body = refused.value.response.json()
        assert int(body["offers"][0]["price"]) > 0
    # The same door as on the other routes: x402 clients are told what to sign.
    assert "PAYMENT-REQUIRED" in refused.value.response.headers


def test_models_are_listed(client):
    found = {model.id: model for model in client.models.list()}
    assert found[EMBEDDER].model_extra["task"] == "text-embedding"
    assert client.models.retrieve(TINY).model_extra["ready"] is True


def test_the_chat_model_answers_by_the_open_inference_protocol_too(paying):
    body = {
        "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["A"]}],
        "parameters": {"max_tokens": 6, "temperature": 0, "stop": '["F"]'},
    }
    answer = httpx.post(
        f"{paying.local.gateway_url}/v2/models/{TINY}/infer", json=body, headers=paying.header(), timeout=30
    )
    outputs = {row["name"]: row["data"] for row in answer.json()["outputs"]}
    assert (outputs["text"], outputs["finish_reason"]) == (["BCDE"], ["stop"])
    assert int(answer.headers["Market-Charged"]) == sum(outputs["usage"]) * TOKEN_PRICE


def test_a_real_chat_model_talks(paying, client):
    if not paying.has_chat:
        pytest.skip("no real language model here: set MARKET_TEST_LLM to its folder")
    asked = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked, max_tokens=30)
    assert "Paris" in whole.choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**asked, max_tokens=30, stream=True)
    ]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 5
    assert math.isclose(sum(map(len, pieces)), len(whole.choices[0].message.content))
