"""The HTTP surface around a played use case: every answer is data or a problem, and nothing else."""

import re
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from contracts.protocol.typed_data import Domain, Receipt
from market import errors
from market.adapters.database.statistics import BatchFacts, Bucket, Past
from market.gateway.app import create_app
from market.inference.activity import Activity
from market.payments.model import Account, Earning, StoredReceipt
from market.registry.model import ChannelRecord, Listing, PayeeCredit, ReserveRecord, SettlementRecord, WorkerRecord
from market.registry.offers import Quote
from market.settings import MarketSettings
from market.settlement.ports import Backlog

GATEWAY, OWNER, WORKER, PAYER = (bytes([n]) * 20 for n in (1, 2, 3, 4))
CHANNEL_ID = b"\xcc" * 32
MANIFEST = Manifest(
    task="tensor",
    entry="model.onnx",
    files={"model.onnx": FileEntry(sha256(b"x"), 1)},
    inputs=(TensorSpec("x", "FP32", (-1,)),),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
    unit=Unit.ROW,
    batch_axis=0,
)
LISTING = Listing(MANIFEST.model_id, "m", OWNER, 100_000, 1, 100, int(Unit.ROW), "file:///m", active=True)
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}


class Registry:
    def __init__(self) -> None:
        self.block: int | None = 7
        self.all = [LISTING]

    def cursor(self):
        return self.block

    def listing(self, model_id):
        return next((found for found in self.all if found.model_id == model_id), None)

    def listing_by_name(self, name):
        return next((found for found in self.all if found.name == name), None)

    def listings(self):
        return self.all

    def predecessor(self, model_id):
        return next((found for found in self.all if found.superseded_by == model_id), None)

    def workers(self):
        return [WorkerRecord(WORKER, OWNER, 5, True, "eu", "cpu", "")]

    def worker(self, worker):
        return next((found for found in self.workers() if found.worker == worker), None)

    def reserve(self, gateway):
        return ReserveRecord(gateway, 70, 0, 0, 9)

    def channel(self, channel_id):
        return ChannelRecord(CHANNEL_ID, PAYER, PAYER, GATEWAY, 9, 1_000, 100) if channel_id == CHANNEL_ID else None

    def credits(self, gateway, payee):
        return PayeeCredit(gateway, payee, 40, 10)

    def settlements(self, gateway):
        return [SettlementRecord(gateway, 1, b"\xaa" * 32, 1, 3, b"\xbb" * 32, 5)]


class Offers:
    def __init__(self) -> None:
        self.live = True

    @property
    def view(self):
        return object()

    def quotes(self, model_id):
        return [Quote(model_id, WORKER, Unit.ROW, 10, 2_000_000_000)] if self.live else []

    def manifest(self, model_id):
        return MANIFEST if self.live else None

    def announcement(self, worker):
        return None

    def workers(self):
        return [WORKER]


class Ledger:
    async def receipt(self, request_id, channel_id=None):
        return None

    async def receipts(self, channel_id, *, after=0, limit=100):
        return []

    async def earned(self, payee):
        return 55

    async def earnings(self, payee):
        return [Earning(payee, "owner", LISTING.model_id, 3, 30), Earning(payee, "worker", LISTING.model_id, 1, 7)]


class Reservations:
    async def account(self, channel_id):
        return Account(charged=300, reserved=20, ceiling=400)


class Inference:
    def __init__(self) -> None:
        self.error: Exception = errors.NoPayment()
        self.activity = Activity()
        self.seen = None

    async def infer(self, request):
        self.seen = request
        raise self.error


class Statistics:
    def __init__(self) -> None:
        self.asked = None

    def past(self, who, *, since, step_seconds):
        self.asked = (who, since, step_seconds)
        return Past(since, step_seconds, True, (Bucket(since, LISTING.model_id, 2, 20, 17, 2),))

    def batches(self):
        return {1: BatchFacts(30, 28, 90_000)}

    def backlog(self):
        return Backlog(4, 40, 1)


class ChainWindow:
    def __init__(self) -> None:
        self.block: int | None = 12

    async def head(self):
        if self.block is None:
            raise errors.ChainUnreachable
        return self.block

    async def ask(self, method, params):
        return {"result": [method, params]}


@pytest.fixture
def joined():
    async def nothing() -> None:
        return None

    return SimpleNamespace(
        settings=MarketSettings(max_body_bytes=2_000, exposure_cap=500),
        gateway=GATEWAY,
        domain=Domain(31_337, b"\xee" * 20),
        contracts={"token": b"\xdd" * 20, "escrow": b"\xee" * 20},
        registry=Registry(),
        offers=Offers(),
        inference=Inference(),
        promises=SimpleNamespace(outstanding=lambda channel_id, nonce: 0),
        x402=None,
        rates=None,
        ledger=Ledger(),
        reservations=Reservations(),
        statistics=Statistics(),
        chain_window=ChainWindow(),
        start=nothing,
        close=nothing,
    )


@pytest.fixture
async def http(joined):
    transport = httpx.ASGITransport(create_app(joined), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def problem(answer: httpx.Response, code: str, status: int) -> dict:
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["code"], body["status"], answer.status_code) == (code, status, status), body
    assert body["type"] == f"/errors/{code}"
    assert body["error"].endswith(body["detail"])
    return body


async def test_a_402_says_what_to_pay_to_whom(http):
    body = problem(await http.post("/v2/models/m/infer", json=BODY), "payment-required", 402)
    assert body["gateway"] == checksum(GATEWAY)
    assert (body["chainId"], body["offers"][0]["unitPrice"], body["offers"][0]["price"]) == (31_337, "10", "20")
    assert body["remedy"]


async def test_required_travels_with_the_refusal(http, joined):
    joined.inference.error = errors.InsufficientVoucher(required=320)
    body = problem(await http.post("/v2/models/m/infer", json=BODY), "insufficient-voucher", 402)
    assert body["required"] == "320"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Overloaded(), 429),
        (errors.NoCapacity(), 503),
        (errors.WorkerFailed(), 502),
        (errors.DeadlineExceeded(), 504),
        (errors.RequestIdReused(), 409),
        (errors.RedisUnreachable(), 503),
        (errors.PriceAboveLimit(), 400),
    ],
)
async def test_refusals_keep_their_code(http, joined, error, status):
    joined.inference.error = error
    answer = await http.post("/v2/models/m/infer", json=BODY)
    problem(answer, error.code, status)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def test_a_fault_of_ours_is_500_without_a_trace(http, joined):
    joined.inference.error = ZeroDivisionError("secret detail")
    answer = await http.post("/v2/models/m/infer", json=BODY)
    problem(answer, "internal-error", 500)
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Market-Voucher": "x"}, "invalid-voucher"),
        ({"Market-Request-Id": "0x12"}, "invalid-request"),
        ({"Market-Max-Price": "-1"}, "invalid-request"),
        ({"Market-Max-Price": "9" * 40}, "invalid-request"),
        ({"Market-Worker": "0x12"}, "invalid-request"),
    ],
)
async def test_malformed_headers_are_named(http, joined, headers, code):
    body = problem(await http.post("/v2/models/m/infer", json=BODY, headers=headers), code, 400)
    assert body["field"].startswith(next(iter(headers)))
    assert joined.inference.seen is None


async def test_headers_reach_the_use_case(http, joined):
    headers = {
        "Market-Voucher": f"{hex0x(CHANNEL_ID)};77;{hex0x(bytes(65))}",
        "Market-Request-Id": hex0x(b"\x01" * 32),
        "Market-Max-Price": "9",
        "Market-Worker": checksum(WORKER),
    }
    await http.post("/v2/models/m/versions/1/infer", json=BODY, headers=headers)
    seen = joined.inference.seen
    assert (seen.voucher.cumulative_amount, seen.voucher.channel_id) == (77, CHANNEL_ID)
    assert (seen.request_id, seen.max_price, seen.worker) == (b"\x01" * 32, 9, WORKER)


async def test_a_large_body_is_refused_by_length_and_by_count(http):
    problem(await http.post("/v2/models/m/infer", content=b"x" * 2_001), "payload-too-large", 413)

    async def chunks():
        for _ in range(3):
            yield b"x" * 1_000

    problem(await http.post("/v2/models/m/infer", content=chunks()), "payload-too-large", 413)


async def test_models_are_found_by_name_and_id_in_version_1_only(http, joined):
    for ref in ("m", hex0x(MANIFEST.model_id)):
        assert (await http.get(f"/v2/models/{ref}")).json()["inputs"][0]["name"] == "x"
    problem(await http.get("/v2/models/other"), "unknown-model", 404)
    problem(await http.get("/v2/models/0x12"), "unknown-model", 404)
    problem(await http.get("/v2/models/m/versions/2"), "unknown-model", 404)
    joined.offers.live = False
    problem(await http.get("/v2/models/m"), "no-capacity", 503)
    assert (await http.get("/v2/models/m/ready")).status_code == 503


async def test_ready_means_the_chain_was_read(http, joined):
    assert (await http.get("/v2/health/ready")).status_code == 200
    joined.registry.block = None
    assert (await http.get("/v2/health/ready")).status_code == 503
    assert (await http.get("/v2/health/live")).status_code == 200


async def test_a_channel_shows_what_may_still_be_spent(http):
    found = (await http.get(f"/market/v1/channels/{hex0x(CHANNEL_ID)}")).json()
    assert (found["charged"], found["reserved"], found["required"]) == ("300", "20", "320")
    assert found["available"] == str(100 + 500 - 320), "settled and exposure bound it before the deposit does"
    problem(await http.get(f"/market/v1/channels/{hex0x(bytes(32))}"), "channel-not-found", 404)
    problem(await http.get("/market/v1/channels/0x12"), "invalid-request", 400)


async def test_money_and_settlements_are_read(http):
    payee = (await http.get(f"/market/v1/payees/{checksum(OWNER)}")).json()
    assert payee == {"payee": checksum(OWNER), "earned": "55", "credited": "40", "withdrawn": "10"}
    earnings = (await http.get(f"/market/v1/owners/{checksum(OWNER)}/earnings")).json()
    assert (earnings["total"], len(earnings["models"])) == ("30", 1)
    assert (await http.get("/market/v1/settlements/1")).json()["root"] == "0x" + "aa" * 32
    problem(await http.get("/market/v1/settlements/2"), "receipt-not-found", 404)
    problem(await http.get(f"/market/v1/receipts/{hex0x(bytes(32))}"), "receipt-not-found", 404)
    problem(await http.get("/market/v1/payees/0x12"), "invalid-request", 400)


async def test_a_page_of_receipts_proves_a_bounded_number_of_batches(http, joined):
    """Each proof takes a tree over its whole batch, and nobody pays for it."""
    receipt = Receipt(CHANNEL_ID, bytes(32), WORKER, GATEWAY, 1, OWNER, bytes(32), bytes(32), bytes(32), 1, 0, 0, 1, 1)
    all_of_it = [
        StoredReceipt(receipt, bytes(32), b"", b"", WORKER, OWNER, (n + 1) // 2 or None, 0, n) for n in range(1_000)
    ]
    proven = []

    async def receipts(channel_id, *, after=0, limit=100):
        return [one for one in all_of_it if one.position > after or not after][:limit]

    async def settlement_of(stored):
        proven.append(stored.epoch)

    joined.ledger.receipts, joined.settlement_of = receipts, settlement_of
    found, after = [], 0
    while page := (await http.get(f"/market/v1/channels/{hex0x(CHANNEL_ID)}/receipts?limit=1000&after={after}")).json():
        found += [row["position"] for row in page]
        after = found[-1]
        assert len({one for one in proven if one}) <= 64
        proven.clear()
    assert found == list(range(1_000))
    for limit in (1, 50, 64):
        page = (await http.get(f"/market/v1/channels/{hex0x(CHANNEL_ID)}/receipts?limit={limit}&after=300")).json()
        assert len(page) == limit, "as many as are asked for"


async def test_a_description_too_long_for_a_list_stands_with_the_model_alone(http, joined):
    long = replace(MANIFEST, options={"labels": [f"label {number}" for number in range(8_000)]})
    joined.offers.manifest = lambda _: Manifest.parse(long.to_bytes())
    (row,) = (await http.get("/market/v1/models")).json()
    assert (row["inputs"], row["outputs"], row["options"], row["task"]) == (None, None, None, "tensor")
    assert (await http.get(f"/market/v1/models?owner={checksum(OWNER)}")).json() == [row]
    whole = (await http.get("/market/v1/models/m")).json()
    assert (len(whole["options"]["labels"]), len(whole["inputs"])) == (8_000, 1)


async def test_texts_from_the_chain_are_cut_in_lists(http, joined):
    """Whoever lists a model or registers a worker pays for them once, and everybody else each time."""
    joined.registry.all = [replace(LISTING, uri="https://" + "a" * 100_000)]
    long = WorkerRecord(WORKER, OWNER, 5, True, "e" * 100_000, "c" * 100_000, "h" * 100_000)
    joined.registry.workers = lambda: [long]
    assert len((await http.get("/market/v1/models")).content) < 10_000
    assert len((await http.get("/market/v1/workers")).content) < 10_000
    assert len((await http.get("/market/v1/models/m")).json()["uri"]) == 100_008


async def test_query_mistakes_and_unknown_routes_are_problems(http):
    body = problem(await http.get(f"/market/v1/channels/{hex0x(CHANNEL_ID)}/receipts?limit=0"), "invalid-request", 400)
    assert body["field"] == "limit"
    problem(await http.get("/nowhere"), "no-route", 404)
    refused = await http.delete("/v2")
    problem(refused, "no-route", 405)
    assert refused.headers["allow"] == "GET, HEAD"
    refused = await http.put("/v2/models/m/infer")
    assert set(refused.headers["allow"].split(", ")) >= {"GET", "POST"}


@pytest.mark.parametrize("path", ["/v2/", "/v2/models/m/infer/", "/market/v1/models/"])
async def test_a_slash_too_many_is_refused_and_sends_nobody_elsewhere(http, path):
    refused = await http.post(path, headers={"Host": "market.example"})
    assert "slash" in problem(refused, "no-route", 404)["remedy"]
    assert "location" not in refused.headers


async def test_an_openai_client_without_v1_is_told_so(http):
    assert "/v1/chat/completions" in problem(await http.post("/chat/completions"), "no-route", 404)["remedy"]


async def test_codes_metrics_and_openapi_are_served(http):
    assert (await http.get("/errors/stale-voucher")).json()["status"] == 402
    problem(await http.get("/errors/nonsense"), "invalid-request", 400)
    assert "market_requests_total" in (await http.get("/metrics")).text
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert "/v2/models/{model}/infer" in paths
    assert (await http.get("/market/v1/status")).json()["lastEpoch"] == 1
    assert (await http.get("/market/v1/models")).json()[0]["offers"][0]["unitPrice"] == "10"
    assert (await http.get("/market/v1/workers")).json()[0]["live"] is False


async def test_a_worker_that_says_no_region_adds_none(http, joined, monkeypatch):
    silent = replace(joined.registry.worker(WORKER), region="")
    monkeypatch.setattr(joined.registry, "worker", lambda _: silent)
    (listed,) = (await http.get("/market/v1/models")).json()
    assert (listed["regions"], len(listed["offers"])) == ([], 1)


async def test_performance_is_told_by_worker_and_by_model(http, joined):
    clear = (await http.get("/market/v1/models")).json()[0]["performance"]
    assert (clear["served"], clear["successRate"], clear["p50Ms"]) == (0, None, None)
    for seconds, code in ((0.01, None), (0.03, None), (0.5, "worker-failed")):
        joined.inference.activity.record(WORKER, LISTING.model_id, seconds, code)
    model = (await http.get("/market/v1/models/m")).json()
    assert (model["performance"]["served"], model["performance"]["errors"]) == (2, {"worker-failed": 1})
    assert (model["regions"], model["inputs"][0]["name"], model["options"]) == (["eu"], "x", {})
    (serving,) = (await http.get("/market/v1/models/m/performance")).json()["servedBy"]
    assert (serving["worker"], serving["region"], serving["unitPrice"]) == (checksum(WORKER), "eu", "10")
    found = (await http.get(f"/market/v1/workers/{checksum(WORKER)}")).json()
    assert found["performance"]["successRate"] == pytest.approx(2 / 3)
    assert found["history"][0]["meanMs"] == pytest.approx(20)
    problem(await http.get(f"/market/v1/workers/{checksum(PAYER)}"), "invalid-request", 400)
    assert len((await http.get(f"/market/v1/workers?operator={checksum(OWNER)}")).json()) == 1
    assert (await http.get(f"/market/v1/workers?operator={checksum(PAYER)}")).json() == []
    assert (await http.get(f"/market/v1/models?owner={checksum(PAYER)}")).json() == []


async def test_the_past_is_asked_by_whom_and_in_whole_steps(http, joined):
    query = {"operator": checksum(OWNER), "model": "m", "hours": 2, "stepSeconds": 600}
    past = (await http.get("/market/v1/activity", params=query)).json()
    who, since, step = joined.statistics.asked
    assert (who, since % 600, step) == ({"operator": OWNER, "model_id": LISTING.model_id}, 0, 600)
    assert past["buckets"][0]["workerAmount"] == "17"
    problem(await http.get("/market/v1/activity?hours=100&stepSeconds=60"), "invalid-request", 400)
    problem(await http.get("/market/v1/activity?owner=0x12"), "invalid-request", 400)


async def test_standing_counts_only_confirmed_blocks_as_behind(http, joined):
    found = (await http.get("/market/v1/standing")).json()
    assert (found["headBlock"], found["indexedBlock"], found["blocksBehind"]) == (12, 7, 4)
    assert (found["unsettledReceipts"], found["unsettledValue"], found["arrears"]) == (4, "40", "9")
    joined.chain_window.block = None
    assert (await http.get("/market/v1/standing")).json()["blocksBehind"] is None
    (settled,) = (await http.get("/market/v1/settlements")).json()
    assert (settled["gasUsed"], settled["gasPerReceipt"], settled["debited"]) == (90_000, 30_000, "30")


async def test_chain_reads_are_passed_on_unless_switched_off(http, joined):
    asked = {"jsonrpc": "2.0", "id": 5, "method": "eth_blockNumber", "params": []}
    answer = (await http.post("/market/v1/chain", json=asked)).json()
    assert (answer["id"], answer["result"]) == (5, ["eth_blockNumber", []])
    joined.settings = joined.settings.model_copy(update={"chain_reads": False})
    problem(await http.post("/market/v1/chain", json=asked), "chain-read-refused", 403)


async def test_the_console_is_served_under_a_policy_of_its_own_origin(http):
    page = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    names = re.findall(r'(?:src|href)="/console/([^"]+)"', page.text)
    assert names
    for name in names:
        file = await http.get(f"/console/{name}")
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"
    problem(await http.get("/console/nothing.js"), "unknown-page", 404)
    problem(await http.get("/console/index.html"), "unknown-page", 404)


async def test_a_gateway_can_do_without_the_console(joined):
    joined.settings = joined.settings.model_copy(update={"console": False})
    transport = httpx.ASGITransport(create_app(joined))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        problem(await client.get("/"), "no-route", 404)


async def test_a_quote_tells_the_price_of_a_request_and_runs_nothing(http, joined):
    terms = (await http.post("/market/v1/models/m/quote", json=BODY)).json()
    assert [offer["price"] for offer in terms["offers"]] == ["20"], "two rows of 10"
    assert terms["gateway"] == checksum(GATEWAY)
    assert joined.inference.seen is None
    wrong = {"inputs": [{**BODY["inputs"][0], "datatype": "INT8"}]}
    problem(await http.post("/market/v1/models/m/quote", json=wrong), "tensor-datatype", 400)
    problem(await http.post("/market/v1/models/m/quote", content=b"x" * 2_001), "payload-too-large", 413)
