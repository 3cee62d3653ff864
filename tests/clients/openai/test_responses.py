"""The stock `openai` client's `responses`: whole, streamed, parsed, and refused."""

import asyncio
import json

import openai
import pydantic
import pytest

from market.demo.network import TOKEN_PRICE
from market.sdk.papers import SignedReceipt
from tests.clients.openai.conftest import CHAT, TINY
from tests.clients.openai.test_stock_openai import ALPHABET, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


def test_a_response_whole(paying, client):
    before = settled(paying)
    answer = client.responses.create(model=TINY, input="A", temperature=0, max_output_tokens=10)
    assert answer.output_text == ALPHABET[:10]
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.output_tokens == 10
    assert settled(paying) == before + answer.usage.total_tokens * TOKEN_PRICE


def test_a_response_streamed_is_the_same_text_and_price(paying, client):
    before = settled(paying)
    with client.responses.stream(model=TINY, input="A", temperature=0, max_output_tokens=28) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == ALPHABET.encode()[:28].decode(), "a token of this model is a byte"
    *_, last = client.responses.create(model=TINY, input="A", temperature=0, max_output_tokens=28, stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", text)
    told = last.response.model_extra["market"]
    assert int(told["charged"]) == last.response.usage.total_tokens * TOKEN_PRICE
    assert settled(paying) == before + 2 * int(told["charged"])
    assert SignedReceipt.from_header(told["receipt"], model=TINY).receipt.price == int(told["charged"])


def test_a_stream_that_ends_by_itself_is_completed(client):
    asked = {"model": TINY, "input": "A", "temperature": 0, "max_output_tokens": 30, "extra_body": {"stop": ["H"]}}
    with client.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    assert (final.status, final.output_text) == ("completed", "BCDEFG")


def test_a_client_that_leaves_pays_for_what_was_sent(paying, client):
    before = settled(paying)
    with client.responses.create(model=TINY, input="A", temperature=0, max_output_tokens=40, stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
    charged = settled(paying) - before
    assert charged > 0


def test_an_asynchronous_client(paying):
    async def ask() -> str:
        async with paying.async_client() as client:
            answer = await client.responses.create(model=TINY, input="A", temperature=0, max_output_tokens=6)
            return answer.output_text

    assert asyncio.run(ask()) == ALPHABET[:6]


def test_refusals_are_the_clients_own_exceptions(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nobody's", input="A")
    assert (unknown.value.code, unknown.value.param) == ("unknown-model", "model")
    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(model=TINY, input="A", previous_response_id="resp_1")
    assert (stored.value.code, stored.value.param) == ("invalid-request", "previous_response_id")
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model=TINY, input="A" * 100_000)
    assert long.value.param == "input"


class Capital(pydantic.BaseModel):
    """An answer with a form."""

    city: str
    inhabitants: int


def test_a_real_model_talks_and_keeps_to_a_form(paying, client):
    if not paying.has_chat:
        pytest.skip("needs the shared LLM")
    first = client.responses.create(
        model=CHAT, instructions="Answer in one word.", input="What is the capital of France?", temperature=0,
        max_output_tokens=20,
    )  # fmt: skip
    assert "Paris" in first.output_text
    talk = [{"role": "user", "content": "What is the capital of France?"}, *first.output]
    talk.append({"role": "user", "content": "And how many people live there?"})
    parsed = client.responses.parse(
        model=CHAT, input=talk, text_format=Capital, temperature=0, max_output_tokens=200, extra_body={"seed": 1}
    )
    assert isinstance(parsed.output_parsed, Capital)
    assert json.loads(parsed.output_text).keys() == {"city", "inhabitants"}
