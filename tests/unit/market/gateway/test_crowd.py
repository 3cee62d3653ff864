"""While workers have enough waiting, the short lane refuses unread, in the long way's very words."""

import asyncio

import httpx
import orjson
import pytest

from market.gateway import plain_http
from market.gateway.infer_http import InferPath
from market.gateway.plain_http import PlainHttp
from tests.support.gateway import app_of, payment, runtime_of
from tests.support.money import World
from tests.support.plain import put_lane_before

BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})
WAITING = 16


def whole(body=BODY, amount=10**6):
    lines = [f"{name}: {value}" for name, value in {**payment(amount), "Content-Length": len(body)}.items()]
    return "\r\n".join(["POST /v2/models/tiny/infer HTTP/1.1", *lines, "", ""]).encode() + body


async def sent(plain, request):
    told = asyncio.get_running_loop().create_future()
    assert plain.begin(request, "192.0.2.1", lambda: b"date: today\r\n", told.set_result)
    return await told


@pytest.fixture
async def crowd():
    """A worker that answers five a second and has three seconds of one client's work waiting."""
    world = World()
    put_lane_before(world)
    worker = await world.add_worker("w", pause=0.2)
    for _ in range(2):
        await world.service.infer(world.request())
    worker.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.service.infer(world.request())) for _ in range(WAITING)]
    await asyncio.sleep(0.01)
    yield world, worker
    worker.gate.set()
    await asyncio.gather(*waiting)
    await world.service.close()


async def test_it_refuses_unread_and_in_the_same_words(crowd, monkeypatch):
    world, worker = crowd
    plain = PlainHttp(runtime_of(world), world.lane)
    served, looked = worker.served, 0
    look = world.lane.no_room

    def counted(*arguments, **named):
        nonlocal looked
        looked += 1
        return look(*arguments, **named)

    monkeypatch.setattr(world.lane, "no_room", counted)
    monkeypatch.setattr(plain_http, "_LOOK_SECONDS", 60.0)
    for body in (BODY, b"x" * len(BODY), BODY):
        refused = await sent(plain, whole(body))
        head, _, said = refused.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\ndate: today\r\n")
    assert looked == 1
    assert worker.served == served
    app = app_of(world)
    transport = httpx.ASGITransport(InferPath(app, app.state.runtime))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        other = await client.post("/v2/models/tiny/infer", content=BODY, headers=payment())
    assert (other.status_code, other.json()) == (429, orjson.loads(said))
    assert f"retry-after: {other.headers['retry-after']}".encode() in head.lower()
    assert int(other.headers["content-length"]) == len(said)
    assert (await world.account()).charged == 200


async def test_an_unknown_voucher_is_left_to_the_long_way(crowd):
    world, _ = crowd
    plain = PlainHttp(runtime_of(world), world.lane)
    forged = whole().replace(b";1000000;", b";1000001;")
    assert not plain.begin(forged, "192.0.2.1", bytes, lambda _: None)


async def test_once_there_is_room_it_serves_again(crowd):
    world, worker = crowd
    plain = PlainHttp(runtime_of(world), world.lane)
    assert b" 429 " in await sent(plain, whole())
    worker.gate.set()
    deadline = asyncio.get_running_loop().time() + 20
    while b" 200 " not in await sent(plain, whole()):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)
