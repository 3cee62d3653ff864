"""A request sent again under its id, because its answer was lost, is answered whether or not it could be bought now."""

from dataclasses import replace

import httpx
import pytest

from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import FileEntry
from tests.support.gateway import app_of, payment
from tests.support.money import World

RID, OTHER = hex0x(b"\x77" * 32), hex0x(b"\x78" * 32)
URL = "/v2/models/tiny/infer"


def body(value=1.0):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}]}


class Shop:
    def __init__(self, world):
        self.world = world
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app_of(world)), base_url="http://gateway")

    async def ask(self, request_id=RID, url=URL, **inputs):
        headers = payment() | ({"Market-Request-Id": request_id} if request_id else {})
        return await self._http.post(url, json=body(**inputs), headers=headers)

    async def is_repeated(self, first, **how):
        again = await self.ask(**how)
        assert again.status_code == 200, again.text
        assert again.json()["outputs"] == first.json()["outputs"]
        assert (again.headers["market-receipt"], again.headers["market-repeated"]) == (
            first.headers["market-receipt"],
            "true",
        )
        assert ((await self.world.account()).charged, len(self.world.ledger.stored)) == (100, 1)

    async def refuses(self, status, code, **how):
        refused = await self.ask(**how)
        assert (refused.status_code, refused.json()["code"]) == (status, code)


@pytest.fixture
async def shop():
    world = World()
    await world.add_worker("w1")
    return Shop(world)


async def test_after_its_model_was_taken_off(shop):
    first = await shop.ask()
    world = shop.world
    world.registry.by_id = {world.listing.model_id: replace(world.listing, active=False)}
    await world.offers.refresh()
    await shop.is_repeated(first)
    await shop.is_repeated(first, url=f"/v2/models/{hex0x(world.listing.model_id)}/infer")
    await shop.refuses(409, "request-id-reused", value=2.0)
    for other in (OTHER, None):
        await shop.refuses(404, "unknown-model", request_id=other)
    await shop.refuses(404, "unknown-model", url="/v2/models/nobody/infer")


async def test_while_nobody_serves_its_model(shop):
    first = await shop.ask()
    shop.world.announcements.current = []
    shop.world.offers._seen.clear()
    await shop.world.offers.refresh()
    await shop.is_repeated(first)
    await shop.refuses(503, "no-capacity", request_id=OTHER)


async def test_while_nobody_serves_the_version_that_has_the_name_now(shop):
    first = await shop.ask()
    world, before = shop.world, shop.world.listing
    versions = [
        before.model_id,
        *(replace(world.model, files={"m": FileEntry(bytes([n]) * 32, 1)}).model_id for n in (1, 2)),
    ]
    chain = [
        replace(before, model_id=one, superseded_by=newer)
        for one, newer in zip(versions, [*versions[1:], b""], strict=True)
    ]
    world.registry.by_id = {one.model_id: one for one in reversed(chain)}
    await shop.is_repeated(first)
    await shop.refuses(503, "no-capacity", request_id=OTHER)
    await shop.refuses(503, "no-capacity", request_id=RID, url=f"/v2/models/{hex0x(versions[2])}/infer")
