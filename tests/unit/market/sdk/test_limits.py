"""Whatever a client asks for, it may say what that may cost and which workers will do."""

import httpx
import numpy as np
import pytest

from market.sdk.aio import AsyncMarket
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused, SpendingLimit
from market.sdk.papers import PaperStore
from market.sdk.wallet import Wallet
from tests.unit.market.sdk.test_streams import DOMAIN, MESSAGES, PRICE, Streamer

LIMITS = {"worker": "0x" + "ab" * 20, "region": "eu", "min_stake": 7}
SAID = {"market-worker": LIMITS["worker"], "market-region": "eu", "market-min-stake": "7"}
ASKED = [
    ("infer", ({"x": np.ones((1, 2), "f4")},), {}),
    ("embed", (["a text"],), {}),
    ("chat", (MESSAGES,), {}),
    ("chat", (MESSAGES,), {"stream": True}),
]


@pytest.fixture
def doorway(gateway):
    """Answers what a client looks up, refuses what it pays for, and keeps what that said."""
    wallet = Wallet.generate()
    streamer = Streamer(gateway.key, gateway.worker, wallet.new_channel(gateway.key.address))
    said = []

    def answer(request):
        if request.method != "POST":
            return streamer(request)
        said.append({name: value for name, value in request.headers.items() if name in {*SAID, "market-hedge"}})
        return httpx.Response(400, json={"code": "no", "detail": "no.", "retry": "never"})

    return wallet, streamer.channel, httpx.MockTransport(answer), said


@pytest.mark.parametrize(("name", "given", "more"), ASKED)
def test_limits_are_sent(doorway, name, given, more):
    wallet, channel, transport, said = doorway
    with Market("http://gateway", wallet, papers=PaperStore(None), transport=transport, retries=0) as market:
        market.use_channel(channel, DOMAIN)
        for limits in ({}, LIMITS):
            with pytest.raises(GatewayRefused):
                list(getattr(market, name)("m", *given, max_price=PRICE, **more, **limits))
        with pytest.raises(SpendingLimit):
            list(getattr(market, name)("m", *given, max_price=1, **more, **LIMITS))
    assert said == [{}, SAID]


@pytest.mark.parametrize(("name", "given", "more"), ASKED[:2])
def test_a_limit_that_is_misspelt_is_refused_before_anything_is_sent(doorway, name, given, more):
    wallet, channel, transport, said = doorway
    with Market("http://gateway", wallet, papers=PaperStore(None), transport=transport, retries=0) as market:
        market.use_channel(channel, DOMAIN)
        with pytest.raises(TypeError, match="max_prise"):
            getattr(market, name)("m", *given, max_prise=1, **more)
    assert said == []


@pytest.mark.parametrize(("name", "given", "more"), ASKED)
async def test_limits_are_sent_from_asyncio(doorway, name, given, more):
    wallet, channel, transport, said = doorway
    async with AsyncMarket("http://gateway", wallet, papers=PaperStore(None), transport=transport, retries=0) as market:
        market.use_channel(channel, DOMAIN)

        async def ask(**limits):
            found = await getattr(market, name)("m", *given, **more, **limits)
            return [piece async for piece in found]

        for limits in ({}, LIMITS):
            with pytest.raises(GatewayRefused):
                await ask(max_price=PRICE, **limits)
        with pytest.raises(SpendingLimit):
            await ask(max_price=1, **LIMITS)
    assert said == [{}, SAID]


def test_a_second_worker_may_be_allowed_for_vectors(doorway):
    wallet, channel, transport, said = doorway
    with Market("http://gateway", wallet, papers=PaperStore(None), transport=transport, retries=0) as market:
        market.use_channel(channel, DOMAIN)
        with pytest.raises(GatewayRefused):
            market.embed("m", ["a text"], hedge=True)
    assert said == [{"market-hedge": "true"}]
