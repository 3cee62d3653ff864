"""A model priced by the million tokens: ceilings, charges, limits and quotes are of the tokens that there are."""

from dataclasses import replace

import pytest

from contracts.protocol.pricing import Unit
from market.sdk.exchange import ModelInfo
from market.sdk.papers import SignedReceipt
from tests.support.gateway import payment
from tests.support.generation import PROMPT_TOKENS, add_embedder, add_generator, chat_manifest, embedding_manifest
from tests.support.money import World
from tests.unit.market.gateway.test_openai_completions import CHAT, client_of, events
from tests.unit.market.gateway.test_openai_embeddings import free, refused

PRICE = 10_000  # for a million: a hundredth of a unit for each token
SERVED, AT_MOST = 1, 2  # of 8 tokens, and of the 131 that there may be


@pytest.fixture
async def world():
    world = World(model=replace(chat_manifest(), unit=Unit.MILLION_TOKENS))
    world.generator = await add_generator(world, "w1", length=3, price=PRICE)
    return world


async def test_what_is_served_is_charged_rounded_up(world):
    async with client_of(world) as http:
        whole = await http.post("/v1/chat/completions", json=CHAT)
        streamed = events(await http.post("/v1/chat/completions", json={**CHAT, "stream": True}))
    assert whole.json()["usage"]["total_tokens"] == PROMPT_TOKENS + 3
    assert whole.headers["Market-Charged"] == streamed[-1]["market"]["charged"] == str(SERVED)
    paper = SignedReceipt.from_header(whole.headers["Market-Receipt"], model="tiny")
    assert (paper.receipt.price, paper.receipt.cumulative) == (SERVED, SERVED)
    account = await world.account()
    assert (account.charged, account.reserved) == (2 * SERVED, 0)


async def test_the_most_that_it_can_cost_is_asked_first(world):
    async with client_of(world, payment(AT_MOST - 1)) as http:
        error = await http.post("/v1/chat/completions", json=CHAT)
        refused(error, "insufficient-voucher", 402, "Market-Voucher")
        assert [offer["price"] for offer in error.json()["offers"]] == [str(AT_MOST)]
    assert await free(world)


@pytest.mark.parametrize(("limit", "status"), [(AT_MOST - 1, 400), (AT_MOST, 200)])
async def test_a_limit_is_of_the_whole_request(world, limit, status):
    async with client_of(world, payment() | {"Market-Max-Price": str(limit)}) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert f"asks 0.00000{AT_MOST} ({AT_MOST}u)" in answer.json()["error"]["message"]


async def test_a_long_text_costs_what_its_tokens_do(world):
    world = World(model=replace(embedding_manifest(max_tokens=10_000), unit=Unit.MILLION_TOKENS))
    world.embedder = await add_embedder(world, "w1", price=PRICE)
    async with client_of(world) as http:
        answer = await http.post("/v1/embeddings", json={"model": "tiny", "input": "w " * 1_234})
        described = (await http.get("/market/v1/models/tiny")).json()
    tokens = answer.json()["usage"]["total_tokens"]
    assert answer.headers["Market-Charged"] == str(-(-tokens * PRICE // 1_000_000))
    assert int(answer.headers["Market-Charged"]) > 10
    assert (described["unit"], described["offers"][0]["unitPrice"]) == ("million_tokens", str(PRICE))
    info = ModelInfo.from_json(described)
    assert (info.unit, info.is_metered) == (Unit.MILLION_TOKENS, True)
