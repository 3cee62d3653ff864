"""The whole market as real processes: paid, receipted, settled, verified; the money checked to the last unit.

The tests run in order on one market: what is paid in the first ones is settled and verified in the last.
"""

import secrets
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import split_price
from contracts.protocol.typed_data import Channel
from market.demo import minilm
from market.demo.network import ROYALTY_PPM, STAKE, UNIT_PRICE, LocalMarket, Options
from market.sdk.errors import GatewayRefused
from market.sdk.verify import verify_receipt
from market.sdk.wallet import Wallet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

FEE_PPM = 50_000
SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
TOKENS = {
    "inputs": [
        {"name": name, "datatype": "INT64", "shape": [1, 3], "data": data}
        for name, data in (
            ("input_ids", [101, 7592, 102]),
            ("attention_mask", [1, 1, 1]),
            ("token_type_ids", [0, 0, 0]),
        )
    ]
}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A market of its own: the tests below count every unit in it."""
    folder = tmp_path_factory.mktemp("paid")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def http(local):
    with httpx.Client(base_url=local.gateway_url, timeout=30) as client:
        yield client


def state(http, market) -> dict:
    return http.get(f"/market/v1/channels/{hex0x(market.channel().channel_id)}").json()


def voucher_header(market, cumulative: int, *, by: Wallet | None = None, channel: Channel | None = None) -> dict:
    kept = market.channel()
    if by is None and channel is None:
        market.papers.signed(kept.channel_id, cumulative)
    header = (by or market.wallet).voucher_header(channel or kept.channel, cumulative, kept.domain)
    return {"Market-Voucher": header}


def changed(tensor: str, /, **changes: object) -> dict:
    return {"inputs": [{**row, **changes} if row["name"] == tensor else row for row in TOKENS["inputs"]]}


# --- paid -----------------------------------------------------------------------------------------------------------


def test_sentences_are_embedded_paid_and_receipted(market, papers):
    tensors = minilm.tokenize(minilm.load_tokenizer(), SENTENCES)
    outcome = market.infer(minilm.NAME, tensors)
    vectors = minilm.pool(outcome.outputs["last_hidden_state"], tensors["attention_mask"])
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.5 > far
    receipt = outcome.paper.receipt
    split = split_price(3 * UNIT_PRICE, ROYALTY_PPM, FEE_PPM)
    assert (receipt.price, receipt.worker_amount, receipt.owner_amount) == (
        3 * UNIT_PRICE,
        split.worker_amount,
        split.owner_amount,
    )
    assert outcome.cumulative == 3 * UNIT_PRICE
    assert next(papers.receipts()) == outcome.paper


def test_a_stock_http_client_pays_with_one_header(http, market):
    charged = int(state(http, market)["charged"])
    url = f"/v2/models/{minilm.NAME}/infer"
    refused = http.post(url, json=TOKENS)
    assert refused.status_code == 402
    terms = refused.json()
    assert refused.headers["content-type"] == "application/problem+json"
    assert terms["code"] == "payment-required"
    assert [offer["price"] for offer in terms["offers"]] == [str(UNIT_PRICE)]
    paid = http.post(url, json={**TOKENS, "id": "mine"}, headers=voucher_header(market, charged + UNIT_PRICE))
    assert paid.status_code == 200, paid.text
    answer = paid.json()
    assert (answer["id"], answer["model_name"]) == ("mine", minilm.NAME)
    assert answer["outputs"][0]["shape"] == [1, 3, 384]
    assert paid.headers["Market-Charged"] == str(UNIT_PRICE)
    assert int(paid.headers["Market-Cumulative"]) == charged + UNIT_PRICE == int(state(http, market)["charged"])


def test_a_repeated_request_id_is_charged_once(http, market):
    charged = int(state(http, market)["charged"])
    headers = {**voucher_header(market, charged + UNIT_PRICE), "Market-Request-Id": hex0x(secrets.token_bytes(32))}
    url = f"/v2/models/{minilm.NAME}/infer"
    first, second = (http.post(url, json=TOKENS, headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 200, second.text
    assert first.headers["Market-Receipt"] == second.headers["Market-Receipt"]
    assert np.array_equal(first.json()["outputs"][0]["data"], second.json()["outputs"][0]["data"])
    assert int(state(http, market)["charged"]) == charged + UNIT_PRICE
    other = http.post(url, json=changed("input_ids", data=[101, 1, 102]), headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "request-id-reused")


def test_what_workers_and_the_chain_show_of_a_voucher_pays_for_nothing(http, market):
    before = state(http, market)
    whole = voucher_header(market, int(before["charged"]) + UNIT_PRICE)["Market-Voucher"]
    seen, _, access = whole.rpartition(";")
    channel, amount, signature = seen.split(";")
    url = f"/v2/models/{minilm.NAME}/infer"
    named = {"Market-Request-Id": hex0x(secrets.token_bytes(32))}
    for voucher, code in ((seen, "access-needed"), (f"{seen};{signature}", "invalid-signature")):
        for more in ({}, named, {"Market-Hedge": "true"}):
            refused = http.post(url, json=TOKENS, headers={"Market-Voucher": voucher, **more})
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (402, code), refused.text
            assert (problem["field"], "ChannelAccess(channelId)" in problem["remedy"]) == ("Market-Voucher", True)
    assert state(http, market) == before
    assert before["needsAccess"] is True
    paid = http.post(url, json=TOKENS, headers={"Market-Voucher": f"{channel};{amount};{signature};{access}"})
    assert paid.status_code == 200, paid.text


def test_metadata_and_health_follow_the_protocol(http, local):
    assert http.get("/v2/health/live").status_code == http.get("/v2/health/ready").status_code == 200
    for name in (minilm.NAME, hex0x(local.manifest.model_id)):
        found = http.get(f"/v2/models/{name}").json()
        assert [tensor["name"] for tensor in found["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
        assert http.get(f"/v2/models/{name}/ready").status_code == 200
    assert http.get("/market/v1/workers").json()[0]["stake"] == str(STAKE)


# --- refused: a clear code, nothing charged ---------------------------------------------------------------------------

BODIES = {
    "tensor-name": changed("input_ids", name="ids"),
    "tensor-shape": changed("input_ids", shape=[3]),
    "tensor-datatype": changed("input_ids", datatype="INT32"),
    "tensor-data": changed("input_ids", data=[101, 7592]),
    "invalid-request": {"inputs": 3},
    "payload-too-large": {
        "inputs": [
            {**row, "shape": [65, 3], "data": row["data"] * 65} for row in TOKENS["inputs"]
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("code", BODIES)
def test_a_wrong_body_is_named_and_not_charged(http, market, code):
    before = state(http, market)
    headers = voucher_header(market, int(before["charged"]) + 100 * UNIT_PRICE)
    answer = http.post(f"/v2/models/{minilm.NAME}/infer", json=BODIES[code], headers=headers)
    problem = answer.json()
    assert (problem["code"], problem["error"] != "") == (code, True)
    assert answer.status_code == (413 if code == "payload-too-large" else 400)
    assert problem["field"]
    after = state(http, market)
    assert (after["charged"], after["reserved"]) == (before["charged"], "0")


def test_an_unknown_model_is_named(http, market):
    answer = http.post("/v2/models/nobody/infer", json=TOKENS, headers=voucher_header(market, 10**6))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-model")


def test_a_wrong_voucher_is_named_and_not_charged(http, market):
    before = state(http, market)
    charged = int(before["charged"])
    stranger = Wallet.generate()
    cases = {
        "invalid-voucher": ({"Market-Voucher": "0x12;1;0x34"}, 400),
        "invalid-signature": (voucher_header(market, charged + UNIT_PRICE, by=stranger), 402),
        "stale-voucher": (voucher_header(market, 1), 402),
        "insufficient-voucher": (voucher_header(market, charged + UNIT_PRICE - 1), 402),
        "unknown-channel": (voucher_header(market, 10**6, channel=market.wallet.new_channel(bytes(20))), 402),
    }
    for code, (headers, status) in cases.items():
        answer = http.post(f"/v2/models/{minilm.NAME}/infer", json=TOKENS, headers=headers)
        assert (answer.json()["code"], answer.status_code) == (code, status), answer.text
        if code in ("stale-voucher", "insufficient-voucher"):
            assert answer.json()["required"] == str(charged + UNIT_PRICE)
    after = state(http, market)
    assert (after["charged"], after["reserved"]) == (before["charged"], "0")


def test_a_price_above_the_callers_limit_is_refused(http, market):
    charged = int(state(http, market)["charged"])
    headers = {**voucher_header(market, charged + UNIT_PRICE), "Market-Max-Price": str(UNIT_PRICE - 1)}
    answer = http.post(f"/v2/models/{minilm.NAME}/infer", json=TOKENS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "price-above-limit")


def test_an_exiting_channel_pays_nothing_more(local, market, http):
    wallet = local.wallet("client")
    channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, 50_000)
    channel_id = channel.digest(local.chain.domain)
    market.wait_for_channel(channel_id, deposited=50_000)
    local.chain.initiate_exit(wallet, channel, 50_000)
    deadline = time.monotonic() + 20
    while http.get(f"/market/v1/channels/{hex0x(channel_id)}").json()["exitAt"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    headers = voucher_header(market, UNIT_PRICE, channel=channel)
    answer = http.post(f"/v2/models/{minilm.NAME}/infer", json=TOKENS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (402, "channel-exiting")


def test_a_channel_cannot_pay_more_than_it_holds(local, market, http):
    wallet = local.wallet("client")
    channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, UNIT_PRICE - 1)
    channel_id = channel.digest(local.chain.domain)
    market.wait_for_channel(channel_id, deposited=UNIT_PRICE - 1)
    headers = voucher_header(market, UNIT_PRICE, channel=channel)
    answer = http.post(f"/v2/models/{minilm.NAME}/infer", json=TOKENS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (402, "insufficient-deposit")


# --- settled and verified -------------------------------------------------------------------------------------------


def test_every_unit_is_settled_where_it_belongs(local, market, http):
    gateway = local.accounts["gateway"].address
    for _ in range(3):
        market.infer(minilm.NAME, minilm.tokenize(minilm.load_tokenizer(), SENTENCES[:1]))
    channel_id = market.channel().channel_id
    charged = int(state(http, market)["charged"])
    deadline = time.monotonic() + 60
    while local.chain.channel_settled(channel_id) < charged:
        assert time.monotonic() < deadline, "not settled"
        time.sleep(0.2)
    assert local.chain.channel_settled(channel_id) == charged
    receipts = [row["receipt"] for row in http.get(f"/market/v1/channels/{hex0x(channel_id)}/receipts").json()]
    assert sum(int(receipt["price"]) for receipt in receipts) == charged
    worker = sum(int(receipt["workerAmount"]) for receipt in receipts)
    owner = sum(int(receipt["ownerAmount"]) for receipt in receipts)
    accounts = local.accounts
    assert local.chain.credited(gateway, accounts["operator"].address) == worker
    assert local.chain.credited(gateway, accounts["owner"].address) == owner
    assert local.chain.credited(gateway, gateway) in (0, charged - worker - owner)
    before = local.chain.balance(accounts["owner"].address)
    local.chain.withdraw(local.wallet("owner"), gateway, owner)
    assert local.chain.balance(accounts["owner"].address) == before + owner
    payee = http.get(f"/market/v1/payees/{checksum(accounts['operator'].address)}").json()
    assert payee["earned"] == str(worker)


def test_kept_receipts_are_verified_from_the_chain(local, market, papers):
    kept = list(papers.receipts())
    assert len(kept) >= 4
    for paper in kept:
        settled = market.wait_for_settlement(paper)
        verdict = verify_receipt(settled, local.chain, channel=market.channel().channel)
        assert verdict.valid, verdict.to_json()
    lie = replace(settled, receipt=replace(settled.receipt, price=settled.receipt.price + 1))
    failed = {check.name for check in verify_receipt(lie, local.chain).checks if not check.holds}
    assert {"worker signature", "gateway signature", "proof", "contract agrees"} <= failed


def test_the_client_is_told_what_a_refusal_was(market):
    with pytest.raises(GatewayRefused) as raised:
        market.infer("nobody", {"x": np.zeros(1)})
    assert (raised.value.code, raised.value.status) == ("unknown-model", 404)
