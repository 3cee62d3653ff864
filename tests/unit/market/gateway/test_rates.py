"""Limits on requests by address, payer and key; whose address counts behind a proxy; which pages may read answers."""

import asyncio

import httpx
import orjson
import pytest

from market.adapters import rates as module
from market.adapters.rates import MemoryRates
from market.errors import ConfigurationError, InvalidSignature, TooManyRequests
from market.gateway.cors import with_cors
from market.gateway.doorman import Doorman, doorman_of
from market.gateway.infer_http import InferPath
from market.gateway.plain_http import PlainHttp
from market.inference.rates import BURST_SECONDS, By, RateLimits
from market.payments.model import KeySpending
from market.settings import MarketSettings
from tests.support.gateway import app_of, payment, runtime_of
from tests.support.money import CHANNEL, PAYER, World, voucher
from tests.support.plain import put_lane_before

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def counted(rates, times, by=By.ADDRESS, name=b"a"):
    """How many of so many requests are admitted."""
    admitted = 0
    for _ in range(times):
        try:
            assert rates.admit(by, name) is None, "one process never waits"
            admitted += 1
        except TooManyRequests:
            pass
    return admitted


def test_ten_seconds_worth_at_once_then_as_many_as_the_limit_says():
    clock = Clock()
    rates = MemoryRates(RateLimits(address=5.0), clock=clock)
    assert counted(rates, 100) == 5 * BURST_SECONDS
    clock.now += 1.0
    assert counted(rates, 100) == 5
    clock.now += 1_000.0
    assert counted(rates, 100) == 5 * BURST_SECONDS
    assert counted(rates, 3, name=b"another") == 3
    assert counted(rates, 500, by=By.PAYER) == 500, "no limit is set"
    with pytest.raises(TooManyRequests) as refused:
        rates.admit(By.ADDRESS, b"a")
    assert refused.value.headers == {"Retry-After": "1"}


def test_a_slow_limit_tells_how_long_to_wait():
    rates = MemoryRates(RateLimits(key=0.01), clock=Clock())
    assert counted(rates, 1, By.KEY) == 1
    with pytest.raises(TooManyRequests) as refused:
        rates.admit(By.KEY, b"a")
    assert refused.value.headers == {"Retry-After": "100"}


def test_a_crowd_of_names_costs_bounded_memory(monkeypatch):
    monkeypatch.setattr(module, "NAMES_KEPT", 10)
    clock = Clock()
    rates = MemoryRates(RateLimits(address=1.0), clock=clock)
    for number in range(100):
        rates.admit(By.ADDRESS, bytes([number]))
    assert len(rates._due) == 10
    clock.now += 2.0
    rates.admit(By.ADDRESS, b"new")
    assert len(rates._due) == 1


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_only_a_trusted_proxy_says_whose_request_it_is(peer, forwarded, client):
    settings = MarketSettings(rate_by_address=1, trusted_proxies="10.0.0.0/8, ::1")
    assert doorman_of(MemoryRates(RateLimits()), settings).client(peer, forwarded) == client


def test_neighbours_of_one_ipv6_network_count_as_one_client():
    door = Doorman(MemoryRates(RateLimits(address=0.1)), ())
    door.admit("2001:db8:1:1::1", None)
    with pytest.raises(TooManyRequests):
        door.admit("2001:db8:1:1:ffff::2", None)
    door.admit("2001:db8:1:2::1", None)
    door.admit("192.0.2.1", None)
    with pytest.raises(TooManyRequests):
        door.admit("::ffff:192.0.2.1", None)


def test_trusted_proxies_that_are_no_networks_are_named():
    with pytest.raises(ConfigurationError) as refused:
        doorman_of(None, MarketSettings(trusted_proxies="nginx"))
    assert refused.value.field == "MARKET_TRUSTED_PROXIES"


@pytest.mark.parametrize("short_lane", [False, True])
async def test_payers_and_keys_are_counted_once_their_payment_is_genuine(short_lane):
    world = World(rates=MemoryRates(RateLimits(payer=0.2, key=0.1)))
    if short_lane:
        put_lane_before(world)
    await world.add_worker("w")
    forged = voucher(10**6, key=PAYER)
    for _ in range(5):
        with pytest.raises(InvalidSignature):
            await world.service.infer(world.request(voucher=forged))
    key = KeySpending(b"\x01" * 32, 10**6)
    await world.service.infer(world.request(key=key))
    with pytest.raises(TooManyRequests) as refused:
        await world.service.infer(world.request(key=key))
    assert "by one key" in refused.value.detail
    with pytest.raises(TooManyRequests) as refused:
        await world.service.infer(world.request())
    assert "by one payer" in refused.value.detail, "keys count for their payer too"
    await world.service.infer(world.request(payer=b"\x09" * 20))
    await world.service.close()
    account = await world.account()
    assert (account.charged, account.reserved) == (200, 0)
    assert CHANNEL.payer != b"\x09" * 20


@pytest.fixture
async def world():
    found = World()
    await found.add_worker("w")
    return found


def client_of(world, address, rates=None, **settings):
    app = app_of(world, **settings)
    app.state.runtime.rates = rates
    path = with_cors(InferPath(app, app.state.runtime), app.state.runtime.settings)
    transport = httpx.ASGITransport(path, client=(address, 5_000))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_an_address_that_asks_too_much_hears_429_on_every_route(world):
    rates = MemoryRates(RateLimits(address=0.2))
    async with client_of(world, "192.0.2.1", rates, rate_by_address=0.2) as client:
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.post("/v2/models/tiny/infer", json=BODY, headers=payment())).status_code == 200
        for answer in (
            await client.get("/v2", headers={"X-Forwarded-For": "192.0.2.77"}),
            await client.post("/v2/models/tiny/infer", json=BODY, headers=payment()),
            await client.get("/no-such-route"),
        ):
            assert answer.status_code == 429
            assert answer.json()["code"] == "too-many-requests"
            assert int(answer.headers["retry-after"]) >= 1
    async with client_of(world, "192.0.2.2", rates, rate_by_address=0.2) as other:
        assert (await other.get("/v2/health/live")).status_code == 200


async def test_what_a_client_writes_before_its_proxy_does_not_count(world):
    rates = MemoryRates(RateLimits(address=0.1))
    async with client_of(world, "10.0.0.1", rates, rate_by_address=0.1, trusted_proxies="10.0.0.1") as client:
        forged = [("X-Forwarded-For", f"192.0.2.{n}") for n in range(3)]
        codes = [
            (await client.get("/v2/health/live", headers=[one, ("X-Forwarded-For", "198.51.100.1")])).status_code
            for one in forged
        ]
    assert codes == [200, 429, 429]


async def test_no_page_reads_answers_unless_its_origin_is_allowed(world):
    origin = {"Origin": "https://app.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "market-voucher"}
    for allowed in ("", "https://other.example"):
        async with client_of(world, "192.0.2.1", cors_origins=allowed) as client:
            for answer in (
                await client.options("/v2/models/tiny/infer", headers=asked),
                await client.get("/v2", headers=origin),
                await client.post("/v2/models/tiny/infer", json=BODY, headers={**payment(), **origin}),
            ):
                assert "access-control-allow-origin" not in answer.headers
    async with client_of(world, "192.0.2.1", cors_origins="https://other.example, https://app.example") as client:
        preflight = await client.options("/v2/models/tiny/infer", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert preflight.headers["access-control-allow-headers"] == "market-voucher"
        answer = await client.post("/v2/models/tiny/infer", json=BODY, headers={**payment(), **origin})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Market-Receipt" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        refused = await client.post("/v2/models/tiny/infer", json=BODY, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (402, "https://app.example")


async def test_the_short_lane_counts_at_the_door_once(world):
    """A request that the short lane cannot take is not counted by it; one that it takes is counted as on the long way."""
    put_lane_before(world)
    await world.service.infer(world.request())  # the channel is known from now on
    rates = MemoryRates(RateLimits(address=0.2))
    joined = runtime_of(world, rate_by_address=0.2)
    joined.rates = rates
    plain = PlainHttp(joined, world.lane)
    done = asyncio.Event()
    body = orjson.dumps(BODY)
    lines = [f"{name}: {value}" for name, value in {**payment(), "Content-Length": len(body)}.items()]
    whole = "\r\n".join(["POST /v2/models/tiny/infer HTTP/1.1", *lines, "", ""]).encode() + body
    assert not plain.begin(whole.replace(b"tiny", b"nope"), "192.0.2.1", bytes, lambda _: done.set())
    assert plain.begin(whole, "192.0.2.1", bytes, lambda _: done.set())
    assert plain.begin(whole, "192.0.2.1", bytes, lambda _: done.set())
    assert not plain.begin(whole, "192.0.2.1", bytes, lambda _: done.set()), "the long way says why"
    assert plain.begin(whole, "192.0.2.2", bytes, lambda _: done.set())
    await done.wait()
    await world.lane.close()
    assert (await world.account()).reserved == 0
