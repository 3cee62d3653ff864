"""API keys on a whole market: made by command, used by stock clients over HTTP and gRPC, ended at once, never logged."""

import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import openai
import pytest
from typer.testing import CliRunner

from contracts.protocol.hexes import hex0x
from market.cli import app
from market.demo import minilm
from market.demo.network import UNIT_PRICE, LocalMarket, Options
from market.gateway.grpc import messages as m
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused
from market.sdk.keys import Keys
from market.sdk.papers import PaperStore
from market.sdk.wallet import Wallet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

NAMES = ("input_ids", "attention_mask", "token_type_ids")
INPUTS = [
    {"name": name, "datatype": "INT64", "shape": [1, 3], "data": data}
    for name, data in zip(NAMES, ([101, 7592, 102], [1, 1, 1], [0, 0, 0]), strict=True)
]
DOLLAR = 1_000_000


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0, grpc=True)) as found:
        found.start()
        found.save_network_file()
        yield found


@pytest.fixture(scope="module")
def market(local):
    def run(*arguments: str, code: int = 0):
        done = CliRunner().invoke(app, [*arguments, "--json", "--data-dir", str(local.data_dir)])
        assert done.exit_code == code, done.output
        return json.loads(done.output)

    run("channel", "open", "1.00")
    return run


@pytest.fixture(scope="module")
def made(market):
    return {"seen": []}


def create(market, made, *options: str):
    found = market("keys", "create", *options)
    made["seen"].append(found["key"])
    return found


def infer(local, secret, model=minilm.NAME, **headers):
    return httpx.post(
        f"{local.gateway_url}/v2/models/{model}/infer",
        json={"inputs": INPUTS},
        headers={"Authorization": f"Bearer {secret}", **headers},
        timeout=30,
    )


def state(market, found):
    return next(row for row in market("keys", "list") if row["keyHash"] == found["keyHash"])


def test_a_dry_run_makes_nothing(market):
    plan = market("keys", "create", "--limit", "0.01", "--dry-run")
    assert (plan["limit"], plan["voucher"], plan["deposited"]) == ("10000", "10000", str(DOLLAR))
    assert market("keys", "list") == []


def test_a_key_for_a_model_that_is_not_listed_is_not_made_by_mistake(market):
    before = market("keys", "list")
    for extra in ((), ("--dry-run",)):
        error = market("keys", "create", "--limit", "0.01", "--model", "minilmm", *extra, code=1)["error"]
        assert (error["code"], error["field"]) == ("unknown-model", "model")
        assert error["remedy"].startswith(f"Did you mean {minilm.NAME}?")
    assert market("keys", "list") == before


def test_a_key_may_name_its_model_by_id(local, market, made):
    listed = httpx.get(f"{local.gateway_url}/market/v1/models").json()
    model_id = next(one["modelId"] for one in listed if one["name"] == minilm.NAME)
    written = "0x" + model_id[2:].upper()
    found = create(market, made, "--limit", "0.01", "--model", written)
    assert found["models"] == [model_id]
    assert infer(local, found["key"]).status_code == 200


def test_a_key_pays_on_every_transport_and_its_spending_is_listed(local, market, made):
    found = create(market, made, "--limit", "0.01", "--name", "a program", "--expires", "30d", "--model", minilm.NAME)
    assert re.fullmatch(r"mk_[\w-]{43}", found["key"])
    answer = infer(local, found["key"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["market-charged"] == str(UNIT_PRICE)
    with grpc.insecure_channel(local.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{m.SERVICE}/ModelInfer",
            request_serializer=m.ModelInferRequest.SerializeToString,
            response_deserializer=m.ModelInferResponse.FromString,
        )
        request = m.ModelInferRequest(model_name=minilm.NAME)
        for row in INPUTS:
            tensor = request.inputs.add(name=row["name"], datatype="INT64", shape=row["shape"])
            tensor.contents.int64_contents.extend(row["data"])
        call(request, metadata=[("authorization", f"Bearer {found['key']}")], timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=[("authorization", "Bearer mk_" + "A" * 43)], timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    listed = state(market, found)
    assert (listed["spent"], listed["limit"], listed["state"]) == (str(2 * UNIT_PRICE), "10000", "open")
    own = httpx.get(f"{local.gateway_url}/market/v1/keys", headers={"Authorization": f"Bearer {found['key']}"}).json()
    assert [row["keyHash"] for row in own] == [found["keyHash"]]


def test_keys_and_owner_share_the_channel_and_the_sums_agree(local, market, made):
    other = create(market, made, "--limit", "0.01", "--name", "second")
    market("infer", minilm.NAME, json.dumps({row["name"]: [row["data"]] for row in INPUTS}))
    assert infer(local, other["key"]).status_code == 200
    channel = market("channel", "status")
    spent = sum(int(row["spent"]) for row in market("keys", "list"))
    assert int(channel["charged"]) == spent + UNIT_PRICE


def test_concurrent_requests_stop_at_the_limit(local, market, made):
    found = create(market, made, "--limit", f"{5 * UNIT_PRICE + UNIT_PRICE // 2}u")
    foreseen = market("keys", "fund", "--dry-run")
    assert foreseen.pop("dryRun") is True
    assert market("keys", "fund") == foreseen
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: infer(local, found["key"]), range(24)))
    refused = [answer.json() for answer in answers if answer.status_code == 403]
    assert sum(answer.status_code == 200 for answer in answers) == 5
    assert len(refused) == 19
    assert {problem["code"] for problem in refused} == {"key-limit"}
    assert state(market, found)["spent"] == str(5 * UNIT_PRICE)


def test_refusals_have_the_right_status_and_openai_reads_them(local, market, made):
    found = create(market, made, "--limit", "0.001", "--model", "another", "--unlisted")
    unknown = infer(local, "mk_" + "B" * 43)
    assert (unknown.status_code, unknown.json()["code"]) == (401, "invalid-key")
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert infer(local, found["key"]).json()["code"] == "key-model"
    base = f"{local.gateway_url}/v1"
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        openai.OpenAI(base_url=base, api_key=found["key"], max_retries=0).embeddings.create(
            model=minilm.NAME, input="a"
        )
    assert forbidden.value.code == "key-model"
    with pytest.raises(openai.AuthenticationError) as denied:
        openai.OpenAI(base_url=base, api_key="mk_" + "B" * 43, max_retries=0).embeddings.create(
            model=minilm.NAME, input="a"
        )
    assert denied.value.code == "invalid-key"


def test_a_revoked_key_opens_nothing_any_more(local, market, made):
    found = create(market, made, "--limit", "0.001", "--name", "to end")
    assert infer(local, found["key"]).status_code == 200
    assert market("keys", "revoke", "to end", "--dry-run")["revokedAt"] is None
    assert market("keys", "revoke", "to end")["revokedAt"]
    refused = infer(local, found["key"])
    assert (refused.status_code, refused.json()["code"]) == (401, "key-revoked")
    assert state(market, found)["state"] == "revoked"
    assert market("keys", "revoke", "nobody", code=1)["error"]["code"] == "key-not-found"


def test_the_voucher_behind_the_keys_serves_no_worker(local, market, made):
    """It goes with each job, and into the settlement's call data: who has it from there has no key."""
    found = create(market, made, "--limit", "0.01")
    assert infer(local, found["key"]).status_code == 200
    (papers,) = (local.data_dir / "worker").glob("papers-*.db")
    with sqlite3.connect(papers) as kept:
        rows = kept.execute("SELECT channel_id, voucher_amount, voucher_signature FROM channels").fetchall()
    channel, amount, signature = next(row for row in rows if hex0x(row[0]) == found["channelId"])
    before = market("channel", "status")
    assert int.from_bytes(amount, "big") > int(before["charged"])
    voucher = f"{hex0x(channel)};{int.from_bytes(amount, 'big')};{hex0x(signature)}"
    answer = httpx.post(
        f"{local.gateway_url}/v2/models/{minilm.NAME}/infer",
        json={"inputs": INPUTS},
        headers={"Market-Voucher": voucher},
    )
    assert (answer.status_code, answer.json()["code"]) == (402, "access-needed")
    assert market("channel", "status") == before


def owner_of(local):
    papers = PaperStore(local.data_dir / "client" / "papers.db")
    return Market(local.gateway_url, local.wallet("client"), papers=papers)


def test_a_stranger_neither_lists_nor_ends(local, market, made):
    found = create(market, made, "--limit", "0.001")
    with owner_of(local) as owner, Market(local.gateway_url, Wallet.generate()) as stranger:
        stranger.use_channel(owner.channel().channel, owner.channel().domain)
        for act in (Keys(stranger).all, lambda: Keys(stranger).revoke(bytes.fromhex(found["keyHash"][2:]))):
            with pytest.raises(GatewayRefused) as caught:
                act()
            assert (caught.value.code, caught.value.status) == ("key-signature", 403)


def test_what_keys_spent_is_settled(local, market):
    with owner_of(local) as owner:
        rows = owner.get(f"/market/v1/channels/{hex0x(owner.channel().channel_id)}/receipts")
    assert sum(int(row["receipt"]["price"]) for row in rows) == int(market("channel", "status")["charged"])


def test_no_key_stands_in_a_log_or_in_the_database(local, made):
    assert len(made["seen"]) >= 5
    searched = 0
    for path in local.data_dir.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            searched += 1
            for secret in made["seen"]:
                assert secret.encode() not in data, path
    assert searched > 5


def test_keys_of_an_earlier_channel_are_reached_by_its_id(market, made):
    earlier = market("channel", "status")["channelId"]
    found = create(market, made, "--limit", "0.001", "--name", "of the first")
    market("channel", "open", f"{UNIT_PRICE}u")
    assert market("keys", "list") == []
    listed = market("keys", "list", "--channel", earlier)
    assert found["keyHash"] in [row["keyHash"] for row in listed]
    assert market("keys", "fund", "--channel", earlier)["channelId"] == earlier
    assert market("keys", "revoke", "of the first", code=1)["error"]["code"] == "key-not-found"
    assert market("keys", "revoke", "of the first", "--channel", earlier)["revokedAt"]
    plan = market("keys", "create", "--limit", "0.001", "--channel", earlier, "--dry-run")
    assert plan["channelId"] == earlier
    before = int(market("channel", "status", "--channel", earlier)["charged"])
    market("infer", minilm.NAME, json.dumps({row["name"]: [row["data"]] for row in INPUTS}), "--channel", earlier)
    assert int(market("channel", "status", "--channel", earlier)["charged"]) == before + UNIT_PRICE
    assert market("channel", "status")["charged"] == "0"
    assert market("keys", "list", "--channel", "0x" + "00" * 32, code=1)["error"]["code"] == "no-channel"


def test_a_channel_that_holds_too_little_says_how_much_in_dollars(market):
    inputs = json.dumps({row["name"]: [row["data"]] * 2 for row in INPUTS})
    error = market("infer", minilm.NAME, inputs, code=1)["error"]
    assert error["code"] == "insufficient-deposit"
    assert error["detail"] == "The channel holds 0.001000 (1000u) in all and would need 0.002000 (2000u)."
    assert error["remedy"].startswith("Deposit at least 0.001000 (1000u) more")
