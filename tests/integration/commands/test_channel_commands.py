"""Channels by command, where something goes wrong: none is lost, and no money goes where the gateway cannot see it."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from contracts.bindings.transactor import Transactor
from contracts.protocol.typed_data import Channel
from market.cli import app
from market.demo.network import LocalMarket, Options
from market.devnet import keys, services
from market.sdk.papers import PaperStore
from workers.cli import app as worker_app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

DAY_SECONDS = 86_400


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=1.0)) as found:
        found.start()
        found.save_network_file()
        yield found


@pytest.fixture
def folder(local, tmp_path):
    """A person's own data folder, with papers of its own."""
    shutil.copy(local.data_dir / "network.json", tmp_path)
    return tmp_path


@pytest.fixture
def market(folder):
    def run(*arguments: str, code: int = 0):
        done = CliRunner().invoke(app, [*arguments, "--json", "--data-dir", str(folder)], catch_exceptions=True)
        assert done.exit_code == code, done.output
        return json.loads(done.output)

    return run


def tokens(local, role: str = "client") -> int:
    return local.chain.balance(local.accounts[role].address)


def deadly(monkeypatch, when, what="deposit"):
    """Let the process die about the transaction that a command is given for."""
    real = Transactor._broadcast

    def broadcast(transactor, outgoing, *, fresh=False):
        dies = outgoing.purpose.startswith(what)
        if dies and when == "before it is sent":
            raise Crash
        real(transactor, outgoing, fresh=fresh)
        if dies and when == "after it was sent":
            raise Crash

    def keep(*_, **__):
        raise Crash

    monkeypatch.setattr(Transactor, "_broadcast", broadcast)
    if when == "before it is written down":
        monkeypatch.setattr(PaperStore, "keep_channel", keep)


STEPS = ["before it is sent", "after it was sent", "before it is written down"]


@pytest.mark.parametrize("when", STEPS)
def test_an_opening_cut_short_and_given_again_is_one_channel(local, market, monkeypatch, when):
    before = tokens(local)
    with monkeypatch.context() as patched:
        deadly(patched, when)
        with pytest.raises(Crash):
            market("channel", "open", "0.2")
    opened = market("channel", "open", "0.2")
    assert opened["deposited"] == "200000"
    assert before - tokens(local) == 200_000
    assert [row["channelId"] for row in market("channel", "list")] == [opened["channelId"]]
    assert market("channel", "open", "0.2")["channelId"] != opened["channelId"], "the next is another one"
    assert before - tokens(local) == 400_000


@pytest.mark.parametrize("when", STEPS)
def test_an_opening_cut_short_is_kept_where_another_amount_is_asked_for_next(local, market, monkeypatch, when):
    before = tokens(local)
    with monkeypatch.context() as patched:
        deadly(patched, when)
        with pytest.raises(Crash):
            market("channel", "open", "0.2")
    refused = market("channel", "open", "0.3", code=1)["error"]
    assert (refused["code"], refused["field"]) == ("earlier-command", "command")
    (kept,) = market("channel", "list")
    assert kept["channelId"] in refused["detail"]
    assert (kept["deposited"], before - tokens(local)) == ("200000", 200_000)
    assert market("channel", "open", "0.3")["deposited"] == "300000"
    assert before - tokens(local) == 500_000


@pytest.mark.parametrize("when", STEPS[:2])
@pytest.mark.parametrize(("again", "code"), [("0.2", 0), ("0.3", 1)])
def test_a_top_up_cut_short_is_one_effect_too(local, market, monkeypatch, when, again, code):
    channel = market("channel", "open", "0.1")["channelId"]
    before = tokens(local)
    with monkeypatch.context() as patched:
        deadly(patched, when)
        with pytest.raises(Crash):
            market("channel", "topup", "0.2")
    seen = market("channel", "topup", again, code=code)
    assert code == 0 or seen["error"]["code"] == "earlier-command"
    assert before - tokens(local) == 200_000
    assert local.chain.channel_state(bytes.fromhex(channel[2:])).deposited == 300_000


@pytest.mark.parametrize("when", STEPS[:2])
@pytest.mark.parametrize(("again", "code"), [("2", 0), ("3", 1)])
def test_a_stake_cut_short_is_one_effect_too(local, monkeypatch, when, again, code):
    key = ["--operator-keystore", str(local.accounts["operator"].keystore)]
    key += ["--operator-password-file", str(keys.password_file(local.data_dir))]

    def stake(amount):
        return CliRunner().invoke(worker_app, ["stake", amount, *key, "--json"], env=local.worker_environment())

    before = tokens(local, "operator")
    with monkeypatch.context() as patched:
        deadly(patched, when, "stake")
        with pytest.raises(Crash):
            stake("2")
    done = stake(again)
    assert done.exit_code == code, done.output
    assert code == 0 or json.loads(done.output)["error"]["code"] == "earlier-command"
    assert before - tokens(local, "operator") == 2_000_000


def test_an_older_channel_is_left_by_its_name(local, market):
    older, newer = (market("channel", "open", amount)["channelId"] for amount in ("0.1", "0.2"))
    before = tokens(local)
    assert market("channel", "status")["channelId"] == newer
    assert market("channel", "status", "--channel", older)["deposited"] == "100000"
    assert market("channel", "topup", "0.05", "--channel", older)["deposited"] == "150000"
    assert market("channel", "exit", "--channel", older)["amount"] == "150000"
    market("channel", "cancel-exit", "--channel", older)
    market("channel", "exit", "--channel", older)
    rows = {row["channelId"]: row for row in market("channel", "list")}
    assert (rows[older]["leaving"], rows[newer]["leaving"]) == ("150000", "0")
    services.rpc(local.rpc_url, "evm_increaseTime", DAY_SECONDS + 1)
    services.rpc(local.rpc_url, "evm_mine")
    assert market("channel", "withdraw", "--channel", older)["paid"] == "150000"
    assert tokens(local) - before == 100_000
    empty = market("channel", "exit", "--channel", older, code=1)["error"]
    assert (empty["code"], empty["field"]) == ("invalid-amount", "amount")


def test_an_older_channel_is_given_back_by_its_name(local, market):
    older, newer = (market("channel", "open", amount)["channelId"] for amount in ("0.1", "0.2"))
    before = tokens(local)
    assert market("channel", "refund", "0.04", "--channel", older)["channelId"] == older
    assert tokens(local) - before == 40_000
    rows = {row["channelId"]: row for row in market("channel", "list")}
    assert (rows[older]["deposited"], rows[newer]["deposited"]) == ("60000", "200000")
    assert market("channel", "status")["channelId"] == newer
    unknown = market("channel", "refund", "--channel", "0x" + "11" * 32, code=1)["error"]
    assert (unknown["code"], unknown["field"]) == ("no-channel", "channel")


def test_who_lost_the_papers_finds_the_channels_on_the_chain_and_leaves_them(local, market, folder):
    opened = market("channel", "open", "0.1")["channelId"]
    shutil.rmtree(folder / "client")
    assert market("channel", "list") == []
    missing = market("channel", "exit", code=1)["error"]
    assert (missing["code"], missing["field"]) == ("no-channel", "channel")
    assert "--find" in missing["remedy"]
    found = market("channel", "list", "--find")
    assert found[0]["channelId"] == opened, "the newest first"
    assert market("channel", "exit", "--channel", opened)["amount"] == "100000"
    client = local.accounts["client"].address
    assert {Channel.digest(one, local.chain.domain).hex() for one in local.chain.channels_of(client)} == {
        row["channelId"][2:] for row in found
    }


def test_money_never_goes_to_other_contracts_than_the_gateways(local, market, tmp_path):
    """Another escrow on the same chain, as after a new deployment; on another chain it would be the same."""
    other = tmp_path / "other.json"
    key = ["--keystore", str(local.accounts["deployer"].keystore)]
    key += ["--password-file", str(keys.password_file(local.data_dir))]
    made = CliRunner().invoke(app, ["deploy", "--rpc-url", local.rpc_url, *key, "--output", str(other)])
    assert made.exit_code == 0, made.output
    market("channel", "open", "0.1")
    before, sent = tokens(local), sent_by(local, "client")
    for command in (
        ("channel", "open", "1"),
        ("channel", "open", "1", "--dry-run"),
        ("channel", "topup", "1"),
        ("channel", "refund"),
        ("earnings",),
        ("withdraw",),
        ("audit",),
    ):
        refused = market(*command, "--deployment", str(other), code=1)["error"]
        assert (refused["code"], refused["field"]) == ("wrong-chain", "rpc_url"), command
        assert refused["remedy"]
    for command in (("channel", "exit"), ("channel", "withdraw"), ("channel", "cancel-exit")):
        assert market(*command, "--deployment", str(other), code=1)["error"]["code"] == "no-channel"
    assert (tokens(local), sent_by(local, "client")) == (before, sent)


@pytest.mark.parametrize(
    "command",
    [("channel", "open"), ("channel", "topup"), ("channel", "exit"), ("channel", "refund"), ("withdraw",), ("mint",)],
)
@pytest.mark.parametrize("amount", ["0", "0u", "0.000000"])
def test_no_amount_is_no_payment(market, command, amount):
    error = market(*command, amount, code=1)["error"]
    assert (error["code"], error["field"]) == ("invalid-amount", "amount")
    assert error["remedy"] == "Name an amount above 0."


def test_terms_that_nothing_can_be_listed_by_are_named(market, tmp_path):
    publish = ("model", "publish", str(tmp_path / "nothing.onnx"))
    for terms, field in (
        (("--min-price", "2", "--max-price", "1", "--royalty-ppm", "0"), "min-price"),
        (("--min-price", "1", "--max-price", "2", "--royalty-ppm", "-1"), "royalty-ppm"),
        (("--min-price", "1", "--max-price", "2", "--royalty-ppm", "500001"), "royalty-ppm"),
        (("--min-price", "1", "--max-price", "2", "--royalty-ppm", str(2**40)), "royalty-ppm"),
    ):
        error = market(*publish, *terms, code=1)["error"]
        assert (error["code"], error["field"]) == ("invalid-amount", field)
        assert error["remedy"]
    error = market("model", "update", "minilm", "--royalty-ppm", "-1", code=1)["error"]
    assert (error["code"], error["field"]) == ("invalid-amount", "royalty-ppm")


def test_an_account_that_is_none_and_an_address_that_is_no_gateway_are_named(local, market):
    unknown = market("wallet", "show", "--role", "nobody", code=2)["error"]
    assert (unknown["field"], "client" in unknown["remedy"]) == ("role", True)
    for url, remedy in ((local.rpc_url, "Check"), ("http://127.0.0.1:1", "Check"), ("gateway", "http://host:port")):
        refused = market("channel", "open", "1", "--url", url, code=1)["error"]
        assert refused["field"] == "url"
        assert remedy in refused["remedy"]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_real_dollars_cannot_be_made(local, market, dry):
    token = "0x" + local.chain.deployment.token.hex()
    code = services.rpc(local.rpc_url, "eth_getCode", token, "latest")
    services.rpc(local.rpc_url, "anvil_setCode", token, "0x5f5ffd")  # revert(0, 0)
    try:
        refused = market("mint", "1", *dry, code=1)["error"]
    finally:
        services.rpc(local.rpc_url, "anvil_setCode", token, code)
    assert (refused["code"], refused["field"]) == ("deployment", "token")
    assert "TestUSD" in refused["remedy"]


def sent_by(local, role: str) -> int:
    account = "0x" + local.accounts[role].address.hex()
    return int(services.rpc(local.rpc_url, "eth_getTransactionCount", account, "pending"), 16)
