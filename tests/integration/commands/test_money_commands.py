"""The money commands against a whole local market: what they print is what the chain says, and dry runs send nothing."""

import json
import time

import pytest
from typer.testing import CliRunner

from contracts.protocol.hexes import checksum
from contracts.protocol.typed_data import CreditNote
from market.cli import app
from market.demo import minilm
from market.demo.network import UNIT_PRICE, LocalMarket, Options
from market.devnet import keys, services
from tests.support import models

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=1.0)) as found:
        found.start()
        found.save_network_file()
        yield found


@pytest.fixture(scope="module")
def market(local):
    def run(*arguments: str, code: int = 0):
        done = CliRunner().invoke(app, [*arguments, "--json", "--data-dir", str(local.data_dir)])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return json.loads(done.output)

    return run


def tokens(local, role: str) -> int:
    return local.chain.balance(local.accounts[role].address)


def test_a_channel_is_opened_in_dollars_and_topped_up_in_units(local, market):
    before = tokens(local, "client")
    plan = market("channel", "open", "0.5", "--dry-run")
    assert plan["dryRun"]
    assert [row["what"] for row in plan["transactions"]] == ["approve", "deposit"]
    assert plan["transactions"][0]["gas"] > 20_000
    assert tokens(local, "client") == before
    opened = market("channel", "open", "0.5")
    assert opened["deposited"] == "500000"
    assert market("channel", "topup", "250000u")["deposited"] == "750000"
    assert before - tokens(local, "client") == 750_000


def test_test_dollars_are_made_and_a_dry_run_makes_none(local, market):
    before = tokens(local, "client")
    (row,) = market("mint", "1.5", "--dry-run")["transactions"]
    assert (row["what"], row["contract"]) == ("mint", "token")
    assert tokens(local, "client") == before
    assert market("mint", "1.5")["minted"] == "1500000"
    assert tokens(local, "client") == before + 1_500_000


def test_what_was_earned_is_settled_shown_and_withdrawn(local, market):
    broken = market("infer", minilm.NAME, "--text", "half a \udcff", code=1)["error"]
    assert (broken["code"], broken["field"]) == ("tensor", "text")
    paid = market("infer", minilm.NAME, "--text", "One sentence.")
    assert paid["charged"] == str(UNIT_PRICE)
    deadline_at = time.monotonic() + 60
    while (seen := market("earnings"))["available"] == "0" and time.monotonic() < deadline_at:
        time.sleep(0.5)
    due = UNIT_PRICE * 85 // 100
    assert (seen["earned"], seen["credited"], seen["available"], seen["unsettled"]) == (
        str(due),
        str(due),
        str(due),
        "0",
    )
    before = tokens(local, "operator")
    assert market("withdraw", "--dry-run")["transactions"][0]["what"] == "withdraw"
    assert tokens(local, "operator") == before
    assert market("withdraw", "100u")["withdrawn"] == "100"
    assert market("withdraw")["withdrawn"] == str(due - 100)
    assert tokens(local, "operator") - before == due
    refused = market("withdraw", "1u", code=1)["error"]
    assert refused["code"] == "transaction-reverted"
    assert "InferenceEscrowInsufficientCredit" in refused["detail"]
    (model,) = market("model", "earnings")["models"]
    assert (model["model"], model["requests"], model["earned"]) == (minilm.NAME, 1, str(UNIT_PRICE // 10))
    royalty = market("withdraw", "--role", "owner")
    assert royalty["withdrawn"] == str(UNIT_PRICE // 10)


def test_every_payee_adds_up_its_receipts_from_the_roots_on_chain(local, market, tmp_path):
    for role, paid in (("owner", UNIT_PRICE // 10), ("operator", UNIT_PRICE * 85 // 100)):
        file = tmp_path / f"{role}.json"
        found = market("audit", "--role", role, "--proof", str(file))
        assert (found["due"], found["credited"], found["short"]) == (str(paid), str(paid), "0")
        assert (found["receipts"], found["withheld"]) == (1, [])
        (row,) = json.loads(file.read_text())["receipts"]
        digest, *proof = (bytes.fromhex(text[2:]) for text in (row["digest"], *row["proof"]))
        gateway = local.accounts["gateway"].address
        assert local.chain.receipt_is_included(gateway, int(row["epoch"]), digest, proof)


def test_a_listing_is_changed_taken_down_and_put_up_again(local, market):
    changed = market("model", "update", minilm.NAME, "--max-price", "0.02")
    assert (changed["minPrice"], changed["maxPrice"]) == ("100", "20000")
    market("model", "delist", minilm.NAME, "--dry-run")
    assert local.chain.model_by_name(minilm.NAME)[1].active
    market("model", "delist", minilm.NAME)
    assert not local.chain.model_by_name(minilm.NAME)[1].active
    market("model", "relist", minilm.NAME)
    assert local.chain.model_by_name(minilm.NAME)[1].active
    assert market("model", "delist", "nobody", code=2)["error"]["field"] == "name"


def test_a_downloaded_model_is_packed_made_smaller_tried_and_listed_by_one_command(local, market, tmp_path):
    (tmp_path / "My Wide Net.onnx").write_bytes(models.wide())
    terms = ("--min-price", "10u", "--max-price", "20u", "--royalty-ppm", "50000")
    publish = ("model", "publish", str(tmp_path / "My Wide Net.onnx"), *terms)
    plan = market(*publish, "--into", str(tmp_path / "plain"), "--dry-run")
    assert [row["what"] for row in plan["transactions"]] == ["list"]
    assert not any(local.chain.model_by_name("my-wide-net")[0])
    done = market(*publish, "--int8", "--into", str(tmp_path / "small"), "--unit", "row")
    model_id, listing = local.chain.model_by_name("my-wide-net")
    assert done["modelId"] == "0x" + model_id.hex() != plan["modelId"]
    assert (listing.min_price, listing.max_price, listing.royalty_ppm) == (10, 20, 50_000)
    assert listing.uri == (tmp_path / "small").as_uri()
    assert done["quantised"]["bytes"]["after"] < done["quantised"]["bytes"]["before"] / 3
    taken = market("model", "publish", str(tmp_path / "small"), "my-wide-net", *terms, code=1)["error"]
    assert taken["code"] == "transaction-reverted"
    assert "`market model update`" in taken["remedy"]
    worker = (
        "--keystore",
        str(local.accounts["worker"].keystore),
        "--password-file",
        str(keys.password_file(local.data_dir)),
    )
    foreign = market("model", "publish", str(tmp_path / "small"), "my-wide-net", *terms, *worker, code=2)["error"]
    assert (foreign["code"], foreign["field"]) == ("configuration", "name")
    assert checksum(listing.owner) in foreign["detail"]


def test_what_cannot_be_published_is_told_before_anything_is_listed(local, market, tmp_path):
    terms = ("--min-price", "10u", "--max-price", "20u", "--royalty-ppm", "0")
    (tmp_path / "net.onnx").write_bytes(models.wide())

    def refused(*arguments: str, code: int = 1):
        return market("model", "publish", *arguments, *terms, code=code)["error"]["field"]

    assert refused(str(tmp_path / "net.onnx"), "--int8", "--int4", code=2) == "int4"
    far = ("--int4", "--most-difference", "0.001", "--into", str(tmp_path / "small"))
    assert refused(str(tmp_path / "net.onnx"), *far) == "most-difference"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"], "nothing is left behind"
    assert refused(str(tmp_path / "nothing")) == "package"
    CliRunner().invoke(app, ["model", "init", str(tmp_path / "net.onnx")])
    assert refused(str(tmp_path / "net"), "--task", "text-embedding", code=2) == "path"
    (tmp_path / "net" / "model.onnx").write_bytes(b"other")
    assert refused(str(tmp_path / "net")) == "files.model.onnx"
    assert not any(local.chain.model_by_name("net")[0])


def test_free_money_comes_back_at_once_with_the_gateways_consent(local, market):
    before = tokens(local, "client")
    market("channel", "refund", "0.05", "--dry-run")
    assert market("channel", "status")["refundPromised"] == "0"
    assert market("channel", "refund", "0.05")["amount"] == "50000"
    assert tokens(local, "client") - before == 50_000
    deadline_at = time.monotonic() + 30
    while (seen := market("channel", "status"))["refundNonce"] == 0 and time.monotonic() < deadline_at:
        time.sleep(0.3)
    assert (seen["deposited"], seen["refundPromised"]) == ("700000", "0")
    assert market("channel", "refund", "1", code=1)["error"]["code"] == "refund-not-free"


def test_a_payer_leaves_without_the_gateways_help(local, market):
    before = tokens(local, "client")
    left = market("channel", "exit")
    assert int(left["amount"]) == 700_000 - UNIT_PRICE
    market("channel", "cancel-exit")
    left = market("channel", "exit", "0.1")
    early = market("channel", "withdraw", code=1)["error"]
    assert "InferenceEscrowExitNotReady" in early["detail"]
    services.rpc(local.rpc_url, "evm_increaseTime", DAY_SECONDS + 1)
    services.rpc(local.rpc_url, "evm_mine")
    assert market("channel", "withdraw")["paid"] == left["amount"] == "100000"
    assert tokens(local, "client") - before == 100_000


@pytest.mark.parametrize("amount", ["", "abc", "0.0000001", "1e3", "12.5u", "u"])
def test_amounts_that_are_none_are_refused_by_name(market, amount):
    error = market("channel", "topup", amount, code=1)["error"]
    assert (error["code"], error["field"]) == ("invalid-amount", "amount")


def test_a_deposit_above_what_is_held_is_refused(market):
    error = market("channel", "topup", "1000000", code=1)["error"]
    assert error["code"] == "not-enough-tokens"


def test_arrears_are_shown_and_drawn_once_the_reserve_can_pay_them(local, market):
    """A note that the reserve could not pay stays a claim; `withdraw` presents it again, without its signature."""
    chain, escrow = local.chain, local.chain._bound.escrow
    gateway, operator = local.accounts["gateway"], local.wallet("operator")
    credited = escrow.credits(gateway.address, operator.address)[0]
    reserve = escrow.reserve(gateway.address)[0]
    note = CreditNote(gateway.address, operator.address, credited + reserve + 500)
    signature = gateway.key.sign_digest(note.digest(chain.domain))
    chain._send(operator, "redeem", escrow.address, escrow.redeem_credit_note(note, signature))
    assert market("earnings")["arrears"] == "500"
    deployer = local.wallet("deployer")
    chain.mint(deployer, deployer.address, 500)
    chain._allow(deployer, escrow.address, 500, "fund")
    chain._send(deployer, "fund", escrow.address, escrow.fund_reserve(gateway.address, 500))
    (row, _) = market("withdraw", "1u", "--dry-run")["transactions"]
    assert row["what"] == "redeem"
    assert market("earnings")["arrears"] == "500"
    available = int(market("earnings")["available"])
    drawn = market("withdraw")
    assert (drawn["arrears"], drawn["withdrawn"]) == ("500", str(available + 500))
    assert market("earnings")["arrears"] == "0"
