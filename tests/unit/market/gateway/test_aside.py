"""Whoever looks at the past, or sends large bodies, unpaid, keeps nobody waiting whose money is at stake."""

import asyncio
import gzip
import threading

import httpx
import pytest

from market.adapters.database.statistics import Past
from market.gateway import serving
from market.gateway.app import create_app
from tests.support.gateway import payment, runtime_of
from tests.support.money import World

CROWD = 64
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}]}


class Market:
    """A gateway whose channels are looked up in one of asyncio's own threads, as in a database."""

    def __init__(self, world):
        self.gate = threading.Event()
        joined = runtime_of(world, max_body_bytes=2_000_000)
        joined.statistics = self
        account = world.ledger.account

        async def in_a_thread(channel_id):
            return await asyncio.to_thread(asyncio.run, account(channel_id))

        world.ledger.account = in_a_thread
        transport = httpx.ASGITransport(create_app(joined), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60)

    def past(self, who, since, step_seconds):
        self.gate.wait()
        return Past(since, step_seconds, True, ())

    def batches(self):
        self.gate.wait()
        return {}

    async def crowd(self, ask):
        asked = [asyncio.create_task(ask()) for _ in range(CROWD)]
        await asyncio.sleep(0.3)
        return asked

    async def is_paid_for(self):
        answer = await asyncio.wait_for(self.http.post("/v2/models/tiny/infer", json=BODY, headers=payment()), 5)
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def market():
    world = World()
    await world.add_worker("w1")
    world.registry.settlements = lambda _: []
    made = Market(world)
    yield made
    made.gate.set()
    await made.http.aclose()


@pytest.mark.parametrize("path", ["activity", "settlements"])
async def test_who_looks_at_the_past(market, path):
    asked = await market.crowd(lambda: market.http.get(f"/market/v1/{path}"))
    await market.is_paid_for()
    assert not any(one.done() for one in asked)
    market.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


@pytest.mark.parametrize("packed", [False, True])
async def test_who_sends_large_bodies(market, monkeypatch, packed):
    decode = serving.InferenceBody

    def slowly(manifest):
        market.gate.wait()
        return decode((), (), {}, None)

    check = serving._check
    monkeypatch.setattr(
        serving, "_check", lambda *given: check(*given[:4], slowly if given[5] > 1_000_000 else given[4], given[5])
    )
    body = b" " * 1_500_000
    headers = {"content-encoding": "gzip"} if packed else {}
    content = gzip.compress(body) if packed else body
    asked = await market.crowd(lambda: market.http.post("/v2/models/tiny/infer", content=content, headers=headers))
    await market.is_paid_for()
    market.gate.set()
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {402}
