"""Lists that nobody pays for are written once for each view of the offers, and are as fresh as that."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.gateway.app import create_app
from market.gateway.grpc import messages
from market.gateway.grpc.service import InferenceServicer
from tests.support.gateway import runtime_of
from tests.support.money import World
from tests.unit.market.x402.payers import desk_of

PATHS = ["/market/v1/models", "/v1/models", "/.well-known/x402"]


@pytest.fixture
async def world():
    made = World()
    await made.add_worker("w1")
    return made


@pytest.fixture
async def http(world, tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    joined = runtime_of(world)
    joined.x402 = desk_of(DatabaseBook(engine))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(joined)), base_url="http://gateway"
    ) as client:
        yield client
    engine.dispose()


@pytest.mark.parametrize("path", PATHS)
async def test_a_list_is_written_once_however_often_it_is_asked_for(world, http, monkeypatch, path):
    looked = []
    listings = world.registry.listings
    monkeypatch.setattr(world.registry, "listings", lambda: looked.append(1) or listings())
    answers = await asyncio.gather(*(http.get(path) for _ in range(20)))
    assert len(looked) == 1
    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {(200, "application/json")}
    assert len({answer.content for answer in answers}) == 1
    assert "tiny" in answers[0].text


async def test_the_index_of_models_is_written_once_in_each_of_its_forms(world, http, monkeypatch):
    looked = []
    listings = world.registry.listings
    monkeypatch.setattr(world.registry, "listings", lambda: looked.append(1) or listings())
    world.registry.by_id[b"\x08" * 32] = replace(world.listing, model_id=b"\x08" * 32, name="unserved")
    servicer = InferenceServicer(runtime_of(world))
    for _ in range(5):
        every = (await http.post("/v2/repository/index")).json()
        ready = (await http.post("/v2/repository/index", json={"ready": True})).json()
        for is_ready, rows in ((False, every), (True, ready)):
            message = await servicer._index(messages.RepositoryIndexRequest(ready=is_ready))
            assert [row.name for row in message.models] == [row["name"] for row in rows]
    assert [row["name"] for row in ready] == ["tiny"]
    assert sorted((row["name"], row["state"]) for row in every) == [("tiny", "READY"), ("unserved", "UNAVAILABLE")]
    assert len(looked) == 4
    world.registry.by_id.pop(b"\x08" * 32)
    await world.offers.refresh()
    assert (await http.post("/v2/repository/index")).json() == ready
    assert len((await servicer._index(messages.RepositoryIndexRequest())).models) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_it_is_as_new_as_the_offers(world, http, path):
    before = (await http.get(path)).text
    world.registry.by_id = {world.listing.model_id: replace(world.listing, name="renamed")}
    await world.offers.refresh()
    after = (await http.get(path)).text
    assert after == before.replace("tiny", "renamed") != before


async def test_all_and_one_owners_models_are_described_alike(world, http):
    everybodys = (await http.get(PATHS[0])).json()
    assert everybodys == (await http.get(f"{PATHS[0]}?owner=0x{world.listing.owner.hex()}")).json()
    assert everybodys[0]["modelId"] == "0x" + world.listing.model_id.hex()
