"""What an endpoint says of its price to who has not paid, and that money comes back where nobody serves any more."""

from dataclasses import replace

import httpx
import pytest

from contracts.protocol.pricing import Unit
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.gateway.app import create_app
from market.gateway.x402 import terms
from market.gateway.x402.wire import PAYMENT_REQUIRED, decode
from tests.support.gateway import runtime_of
from tests.support.generation import add_generator, chat_manifest
from tests.support.money import World
from tests.unit.market.x402.payers import PRICE, Payer, desk_of, header_of

URL = "/v2/models/tiny/infer"


@pytest.fixture
def desk(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    yield desk_of(DatabaseBook(engine))
    engine.dispose()


def client_of(world, desk):
    joined = runtime_of(world)
    joined.x402 = desk
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(joined)), base_url="http://gateway")


async def test_a_price_by_the_million_tokens_is_told_beside_what_one_token_costs(desk):
    world = World(model=replace(chat_manifest(), unit=Unit.MILLION_TOKENS))
    await add_generator(world, "w1", length=3, price=10_000)
    async with client_of(world, desk) as http:
        [found] = (await http.get("/.well-known/x402")).json()["items"]
        asked = await http.get(URL)
    assert found["accepts"][0]["amount"] == "1", "rounded up"
    assert (found["metadata"]["unit"], found["metadata"]["unitPrice"]) == ("million_tokens", "10000")
    assert "the price of one token" in asked.json()["remedy"]
    assert asked.status_code == 402


async def test_where_nobody_serves_a_channel_is_still_left(desk):
    """The stock client asks for the terms first, and then for its money."""
    world, payer = World(), Payer()
    payment = payer.batch(desk, payer.channel())
    refund = {name: payment["payload"][name] for name in ("channelConfig", "voucher")} | {"type": "refund"}
    async with client_of(world, desk) as http:
        probe = await http.get(URL)
        answer = await http.get(URL, headers={"PAYMENT-SIGNATURE": header_of({**payment, "payload": refund})})
        unpaid = await http.post(URL, json={"inputs": []})
    assert probe.status_code == 402, probe.text
    offer = decode(probe.headers[PAYMENT_REQUIRED])["accepts"][0]
    assert offer["extra"] == terms.accepts(desk, PRICE)[0]["extra"] | {"minDeposit": offer["extra"]["minDeposit"]}
    assert answer.status_code == 402, answer.text
    assert decode(answer.headers[PAYMENT_REQUIRED])["error"] == "invalid_batch_settlement_evm_missing_channel"
    assert unpaid.json()["code"] == "no-capacity"
