"""API keys on the short lane: taken once they are known here, left to the long way where they must be asked about."""

import asyncio

import orjson
import pytest

from contracts.protocol.capability import key_hash, new_key
from market.adapters.memory_keys import MemoryKeyBook
from market.gateway.plain_http import PlainHttp
from market.inference.channel_facts import RegistryChannels
from market.payments.capabilities import Capabilities
from market.payments.model import KeySpending
from tests.support.gateway import runtime_of
from tests.support.keys import grant_of
from tests.support.money import DOMAIN, GATEWAY, World, claim, voucher
from tests.support.plain import put_lane_before

SECRET = new_key()
BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})


@pytest.fixture
async def world():
    world = World()
    put_lane_before(world)
    await world.add_worker("w", price=100)
    await world.service.infer(world.request())  # the channel's account is loaded
    yield world
    await world.service.close()


@pytest.fixture
async def desk(world):
    desk = Capabilities(
        domain=DOMAIN,
        gateway=GATEWAY.address,
        channels=RegistryChannels(world.registry),
        reservations=world.reservations,
        book=MemoryKeyBook(world.ledger),
    )
    await desk.create(grant_of(SECRET, limit=250, models=("tiny",)), voucher(1_000))
    return desk


@pytest.fixture
def plain(world, desk):
    runtime = runtime_of(world)
    runtime.capabilities = desk
    return PlainHttp(runtime, world.lane)


def whole(secret=SECRET, **headers):
    given = {"Host": "gateway", "Authorization": f"Bearer {secret}", "Content-Length": len(BODY), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return "\r\n".join(["POST /v2/models/tiny/infer HTTP/1.1", *lines, "", ""]).encode() + BODY


def takes(plain, request):
    return plain.begin(request, "192.0.2.1", bytes, lambda _: None)


async def sent(plain, request):
    told = asyncio.get_running_loop().create_future()
    assert plain.begin(request, "192.0.2.1", lambda: b"date: today\r\n", told.set_result)
    return await told


async def spends_once(world):
    """What the key spent before is known to the reservations from its first request on, which goes the long way."""
    held = await world.reservations.reserve(claim(1, 1_000, request=1, key=KeySpending(key_hash(SECRET), 250)))
    await world.reservations.release(held)


async def test_a_known_key_pays_and_is_charged(plain, world):
    assert not takes(plain, whole()), "its spending is not known yet"
    await spends_once(world)
    for total in (200, 300):
        answer = await sent(plain, whole())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\n")
        assert b"market-charged: 100\r\n" in answer
        assert b"market-cumulative: %d\r\n" % total in answer
    assert world.ledger.spent == {key_hash(SECRET): 200}
    assert not takes(plain, whole()), "that its limit is reached is for the long way to say"
    assert (await world.account()).reserved == 0


async def test_what_must_be_asked_or_refused_is_left(plain, world, desk):
    await spends_once(world)
    assert not takes(plain, whole(new_key())), "unknown"
    assert not takes(plain, whole(SECRET[:-1])), "no key"
    assert not takes(plain, whole(PAYMENT_SIGNATURE="e30=")), "pays by x402"
    assert not takes(plain, whole(Market_Hedge="true"))
    await desk.revoke(key_hash(SECRET), None, SECRET)
    assert not takes(plain, whole()), "revoked"
    assert world.ledger.spent == {}


async def test_a_voucher_counts_where_both_are_there(plain, world):
    paper = voucher(10**6)
    both = whole(Market_Voucher=f"0x{paper.channel_id.hex()};{paper.cumulative_amount};0x{paper.signature.hex()}")
    assert b" 200 OK\r\n" in await sent(plain, both)
    assert world.ledger.spent == {}


async def test_two_keys_with_like_heads_do_not_pay_for_each_other(plain, world, desk):
    other = new_key()
    await desk.create(grant_of(other, limit=100, name="other"), voucher(1_000))
    await spends_once(world)
    await sent(plain, whole())
    assert not takes(plain, whole(other)), "its spending is not known yet"
    assert world.ledger.spent == {key_hash(SECRET): 100}
