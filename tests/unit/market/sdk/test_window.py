"""Both clients, the same kernel: side by side within the window, again without paying twice, topped up within a budget."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from contracts.protocol.typed_data import Domain
from market.sdk.aio import AsyncMarket
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused, GatewayUnreachable, NoChannel, SpendingLimit, UnusableAddress
from market.sdk.httpx_auth import MarketAuth
from market.sdk.kernel import TopUp
from market.sdk.tritonclient import Payment
from market.sdk.wallet import Wallet

X = {"x": np.array([[1.5, 2.0]], dtype=np.float32)}
PRICE = 1_000
DOMAIN = Domain(31_337, b"\x05" * 20)


@pytest.fixture
def wallet(gateway):
    made = Wallet.generate()
    gateway.channel = made.new_channel(gateway.key.address)
    return made


@pytest.fixture
def open_sync(gateway, papers, wallet):
    def open_market(handle=gateway.handle, **options):
        market = Market("http://gateway", wallet, papers=papers, transport=httpx.MockTransport(handle), **options)
        market.use_channel(gateway.channel, DOMAIN)
        return market

    return open_market


@pytest.fixture
def open_async(gateway, papers, wallet):
    def open_market(handle=gateway.handle, **options):
        market = AsyncMarket("http://gateway", wallet, papers=papers, transport=httpx.MockTransport(handle), **options)
        market.use_channel(gateway.channel, DOMAIN)
        return market

    return open_market


class Crowd:
    """Counts requests under way, and how much was ever signed beyond what was charged."""

    def __init__(self, gateway, papers):
        self.gateway, self.papers = gateway, papers
        self.now = self.most = self.most_at_risk = 0
        self.lock = threading.Lock()

    def enter(self, request):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if "Market-Voucher" in request.headers:
                at_risk = int(request.headers["Market-Voucher"].split(";")[1]) - self.gateway.charged
                self.most_at_risk = max(self.most_at_risk, at_risk)

    def leave(self, request):
        with self.lock:
            answer = self.gateway.handle(request)
            self.now -= 1
            return answer

    async def handle(self, request):
        if not request.url.path.endswith("/infer"):
            return self.gateway.handle(request)
        self.enter(request)
        await asyncio.sleep(0.01)
        return self.leave(request)

    def handle_slowly(self, request):
        if not request.url.path.endswith("/infer"):
            return self.gateway.handle(request)
        self.enter(request)
        threading.Event().wait(0.01)
        return self.leave(request)


async def test_tasks_run_side_by_side_and_never_risk_more_than_the_window(gateway, papers, open_async):
    crowd = Crowd(gateway, papers)
    async with open_async(crowd.handle, window=4 * PRICE) as market:
        await asyncio.gather(*(market.infer("m", X) for _ in range(20)))
    assert gateway.charged == 20 * PRICE
    assert crowd.most == 4
    assert crowd.most_at_risk <= 4 * PRICE
    assert len(list(papers.receipts())) == 20


def test_threads_run_side_by_side_too(gateway, papers, open_sync):
    crowd = Crowd(gateway, papers)
    with open_sync(crowd.handle_slowly, window=3 * PRICE) as market, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: market.infer("m", X), range(12)))
    assert gateway.charged == 12 * PRICE
    assert 1 < crowd.most <= 3
    assert crowd.most_at_risk <= 3 * PRICE


async def test_prices_higher_than_expected_share_the_window_without_waiting_for_ever(gateway, papers, open_async):
    gateway.advertised = 10
    crowd = Crowd(gateway, papers)
    async with open_async(crowd.handle, window=3 * PRICE) as market:
        await asyncio.wait_for(asyncio.gather(*(market.infer("m", X) for _ in range(12))), 20)
    assert gateway.charged == 12 * PRICE
    assert crowd.most_at_risk <= 3 * PRICE


async def test_without_a_window_one_request_is_at_risk(gateway, papers, open_async):
    crowd = Crowd(gateway, papers)
    async with open_async(crowd.handle) as market:
        await asyncio.gather(*(market.infer("m", X) for _ in range(5)))
    assert (crowd.most, crowd.most_at_risk) == (1, PRICE)


async def test_a_request_that_costs_more_than_the_window_is_refused(open_async, gateway):
    async with open_async(window=PRICE - 1) as market:
        with pytest.raises(SpendingLimit) as caught:
            await market.infer("m", X)
    assert caught.value.field == "window"
    assert gateway.charged == 0


async def test_a_task_that_is_cancelled_gives_its_place_back(gateway, papers, open_async):
    crowd = Crowd(gateway, papers)
    async with open_async(crowd.handle) as market:
        first = asyncio.create_task(market.infer("m", X))
        await asyncio.sleep(0.005)
        first.cancel()
        assert (await asyncio.wait_for(market.infer("m", X), 5)).charged == PRICE


@pytest.mark.parametrize("fault", ["lost", 503, 429])
def test_what_is_sent_again_keeps_its_request_id(gateway, open_sync, fault):
    seen = []

    def handle(request):
        if request.url.path.endswith("/infer"):
            seen.append((request.headers["Market-Request-Id"], request.headers["Market-Voucher"]))
            if len(seen) < 3:
                if fault == "lost":
                    raise httpx.ReadError("gone")
                return httpx.Response(fault, json={"code": "no-capacity", "retry": "later"})
        return gateway.handle(request)

    with open_sync(handle) as market:
        assert market.infer("m", X).charged == PRICE
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_after_the_last_try_the_failure_is_told(gateway, open_sync):
    def handle(request):
        if request.url.path.endswith("/infer"):
            raise httpx.ConnectError("gone")
        return gateway.handle(request)

    with open_sync(handle, retries=1) as market, pytest.raises(GatewayUnreachable):
        market.infer("m", X)


class FakeChain:
    def __init__(self):
        self.deposits = []

    def check_domain(self, domain):
        assert domain == DOMAIN

    def deposit(self, wallet, channel, amount):
        self.deposits.append(amount)


def short_of(gateway, chain, price=PRICE):
    """A gateway whose channel holds what was deposited: 500 at first."""

    def handle(request):
        held = 500 + sum(chain.deposits)
        if request.url.path.startswith("/market/v1/channels/"):
            return httpx.Response(200, json={"charged": str(gateway.charged), "deposited": str(held)})
        if request.url.path.endswith("/infer") and gateway.charged + price > held:
            problem = {"code": "insufficient-deposit", "required": str(gateway.charged + price)}
            return httpx.Response(402, json=problem)
        return gateway.handle(request)

    return handle


async def test_a_short_channel_is_topped_up_within_the_budget(gateway, open_async):
    chain = FakeChain()
    async with open_async(short_of(gateway, chain), chain=chain, top_up=TopUp(1_500, 3_000)) as market:
        for _ in range(3):
            await market.infer("m", X)
        with pytest.raises(GatewayRefused) as caught:
            await market.infer("m", X)
    assert caught.value.code == "insufficient-deposit"
    assert chain.deposits == [1_500, 1_500]


async def test_what_the_channel_lacks_is_deposited_at_once_and_not_twice(gateway, open_async):
    """Ten requests side by side find the channel short of 9,500: seven times 1,500 in all, once each."""
    chain = FakeChain()
    handle = short_of(gateway, chain)
    async with open_async(handle, chain=chain, top_up=TopUp(1_500, 15_000), window=10 * PRICE) as market:
        await asyncio.gather(*(market.infer("m", X) for _ in range(10)))
    assert gateway.charged == 10 * PRICE
    assert 500 + sum(chain.deposits) == 11_000


def test_a_price_beyond_the_budget_deposits_nothing(gateway, open_sync):
    chain = FakeChain()
    gateway.unit_price = 5 * PRICE
    short = open_sync(short_of(gateway, chain, price=5 * PRICE), chain=chain, top_up=TopUp(1_500, 3_000))
    with short as market, pytest.raises(GatewayRefused) as caught:
        market.infer("m", X)
    assert caught.value.code == "insufficient-deposit"
    assert chain.deposits == []


# --- programs that speak HTTP by themselves -------------------------------------------------------------------------


def body():
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def test_httpx_pays_by_its_auth_up_to_the_budget(gateway, open_sync):
    with open_sync() as market:
        auth = MarketAuth(market, window=2 * PRICE, budget=5 * PRICE)
        with httpx.Client(
            base_url="http://gateway", auth=auth, transport=httpx.MockTransport(gateway.handle)
        ) as client:
            for _ in range(5):
                assert client.post("/v2/models/m/infer", json=body()).status_code == 200
            with pytest.raises(SpendingLimit):
                client.post("/v2/models/m/infer", json=body())
    assert gateway.charged == 5 * PRICE


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "url", ["http://elsewhere/v2/models/m/infer", "https://gateway/v2", "http://gateway:81/v2", "http://gateway.evil/"]
)
async def test_httpx_pays_at_the_gateway_and_nowhere_else(gateway, open_sync, asynchronous, url):
    """Who is sent a voucher with the channel's access can spend it."""
    asked = []

    def handle(request):
        asked.append(request)
        return httpx.Response(402, json={"code": "insufficient-voucher", "detail": "", "required": "9000000"})

    with open_sync() as market:
        auth = MarketAuth(market, window=PRICE, budget=9 * PRICE)
        signed = market.papers.channels()[0].signed
        made = httpx.AsyncClient if asynchronous else httpx.Client
        client = made(auth=auth, transport=httpx.MockTransport(handle))
        with pytest.raises(UnusableAddress, match="pays at http://gateway, not at"):
            await client.get(url) if asynchronous else client.get(url)
        assert (asked, market.papers.channels()[0].signed) == ([], signed)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_httpx_tops_a_short_channel_up_within_both_budgets(gateway, open_sync, asynchronous):
    chain = FakeChain()
    handle = short_of(gateway, chain)
    with open_sync(handle, chain=chain, top_up=TopUp(1_500, 3_000)) as market:
        auth = MarketAuth(market, window=PRICE, budget=9 * PRICE)
        assert chain.deposits == [], "nothing was refused yet"
        answers = []
        if asynchronous:
            async with httpx.AsyncClient(
                base_url="http://gateway", auth=auth, transport=httpx.MockTransport(handle)
            ) as client:
                answers = [await client.post("/v2/models/m/infer", json=body()) for _ in range(4)]
        else:
            with httpx.Client(base_url="http://gateway", auth=auth, transport=httpx.MockTransport(handle)) as client:
                answers = [client.post("/v2/models/m/infer", json=body()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 402]
    assert answers[-1].json()["code"] == "insufficient-deposit"
    assert chain.deposits == [1_500, 1_500]
    assert gateway.charged == 3 * PRICE


def test_httpx_without_a_top_up_hands_the_refusal_on(gateway, open_sync):
    handle = short_of(gateway, FakeChain())
    with open_sync() as market:
        auth = MarketAuth(market, window=PRICE, budget=PRICE)
        with httpx.Client(base_url="http://gateway", auth=auth, transport=httpx.MockTransport(handle)) as client:
            assert client.post("/v2/models/m/infer", json=body()).status_code == 402


def test_a_voucher_signed_ahead_is_covered_as_far_as_the_top_up_allows(gateway, open_sync):
    chain = FakeChain()
    with open_sync(short_of(gateway, chain), chain=chain, top_up=TopUp(1_500, 4_500)) as market:
        payment = Payment(market, budget=2 * PRICE)
        assert (payment.ceiling, chain.deposits) == (2_000, [1_500])
        payment.renew()
        assert chain.deposits == [1_500], "the channel holds it"
        payment.renew(9 * PRICE)
        assert (payment.ceiling, chain.deposits) == (9_000, [1_500, 3_000])


def test_no_voucher_is_signed_ahead_when_its_top_up_fails(gateway, open_sync, papers):
    short = open_sync(short_of(gateway, FakeChain()), top_up=TopUp(1_500, 3_000))
    with short as market, pytest.raises(NoChannel) as caught:
        Payment(market, budget=PRICE)
    assert caught.value.field == "chain"
    assert papers.channels()[0].signed == 0


async def test_async_httpx_pays_too(gateway, open_sync):
    with open_sync() as market:
        auth = MarketAuth(market, window=PRICE, budget=3 * PRICE)
        transport = httpx.MockTransport(gateway.handle)
        async with httpx.AsyncClient(base_url="http://gateway", auth=auth, transport=transport) as client:
            for _ in range(3):
                assert (await client.post("/v2/models/m/infer", json=body())).status_code == 200


def test_openai_takes_it_as_its_http_client(gateway, open_sync):
    seen = []

    def handle(request):
        seen.append(request.headers)
        return httpx.Response(
            200,
            json={
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}],
                "model": "m",
                "usage": {},
            },
        )

    with open_sync() as market:
        auth = MarketAuth(market, window=PRICE, budget=PRICE)
        http_client = httpx.Client(auth=auth, transport=httpx.MockTransport(handle))
        openai.OpenAI(base_url="http://gateway/v1", api_key="none", http_client=http_client).embeddings.create(
            model="m", input="a"
        )
    assert seen[0]["market-voucher"].split(";")[1] == str(PRICE)
    assert seen[0]["market-request-id"].startswith("0x")
