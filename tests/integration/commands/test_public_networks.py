"""Each money command on nodes with the chain ids of the public networks, as people use it there: USDC's address, keystores
of their own, amounts in dollars and in units. A dry run says what it would send, and sends nothing."""

import json
import time

import httpx
import pytest
from typer.testing import CliRunner

from contracts import artifacts, deployments
from contracts.bindings.keystore import load_keystore, save_keystore
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Transactor
from contracts.deployments.networks import NETWORKS
from contracts.protocol.hexes import checksum
from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.cli import app as market_app
from market.commands import owner
from market.demo import minilm
from market.demo.network import GAS_MONEY_WEI, MINTED, STAKE, UNIT_PRICE, LocalMarket, Options
from market.devnet import keys, services, x402
from market.sdk.chain import Chain
from tests.support import models
from workers.cli import app as worker_app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

DAY_SECONDS = 86_400
PUBLIC = sorted(name for name, network in NETWORKS.items() if network.token is not None)


class PublicMarket(LocalMarket):
    """A market on a node with a public network's chain id, its USDC (test dollars at that address) and its depth."""

    def __init__(self, folder, name):
        self.network = NETWORKS[name]
        super().__init__(Options(folder, keep_state=False, settle_interval_seconds=1.0))

    @property
    def deployment_file(self):
        return self.data_dir / f"{self.network.chain_id}.json"

    def start_services(self):
        self.redis_url = services.start_redis(self.supervisor, self.data_dir)
        self.rpc_url = services.start_chain(
            self.supervisor, self.data_dir, keep_state=False, chain_id=self.network.chain_id
        )
        self.database_url = services.database_url(self.data_dir)

    def deploy(self):
        """Place the token, and let `market deploy` do the rest; it writes its file where it does by itself."""
        for role in keys.ROLES:
            self.accounts[role] = keys.load_or_create(self.data_dir, role)
            self.give_gas(self.accounts[role].address)
        deployer = Transactor(connect(self.rpc_url), self.accounts["deployer"].key)
        made = deployer.run("token", None, artifacts.load("TestUSD").bytecode).contract
        code = services.rpc(self.rpc_url, "eth_getCode", checksum(made), "latest")
        services.rpc(self.rpc_url, "anvil_setCode", checksum(self.network.token), code)
        for slot in map(hex, range(8)):  # its name and symbol
            value = services.rpc(self.rpc_url, "eth_getStorageAt", checksum(made), slot, "latest")
            place = f"0x{int(slot, 16):064x}"
            services.rpc(self.rpc_url, "anvil_setStorageAt", checksum(self.network.token), place, value)
        options = ["--network", self.network.name, "--rpc-url", self.rpc_url, *self.key_of("deployer")]
        done = CliRunner().invoke(market_app, ["deploy", *options])
        assert done.exit_code == 0, done.output
        self._chain = Chain.connect(self.rpc_url, chain_id=self.network.chain_id)
        for role, amount in MINTED.items():
            self.chain.mint(self.wallet("deployer"), self.accounts[role].address, amount)
        x402.install(self.rpc_url, self.accounts["deployer"].key)

    def gateway_environment(self):
        """As an operator sets it: how deep a block must be is the network's."""
        environment = super().gateway_environment()
        del environment["MARKET_CONFIRMATIONS"]
        return environment

    def give_gas(self, address):
        services.rpc(self.rpc_url, "anvil_setBalance", checksum(address), hex(GAS_MONEY_WEI))

    def key_of(self, role):
        return [
            "--keystore",
            str(self.accounts[role].keystore),
            "--password-file",
            str(keys.password_file(self.data_dir)),
        ]

    def sent(self, address) -> int:
        return int(services.rpc(self.rpc_url, "eth_getTransactionCount", checksum(address), "pending"), 16)


@pytest.fixture(scope="module", params=PUBLIC)
def public(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patched, PublicMarket(folder, request.param) as found:
        # `market deploy` writes into the package, and every command reads there: for this test, into a folder.
        patched.setattr(owner, "files", lambda _: folder)
        patched.setattr(deployments, "files", lambda _: folder)
        found.start()
        yield found


@pytest.fixture(scope="module")
def person(public, tmp_path_factory):
    """Runs a command with a key, as somebody with a folder of their own does; `None` acts without a key."""
    folder = tmp_path_factory.mktemp("person")
    network = {
        "MARKET_RPC_URL": public.rpc_url,
        "MARKET_CHAIN_ID": str(public.network.chain_id),
        "MARKET_URL": public.gateway_url,
    }

    def run(*arguments, key=(), as_json=True, code=0):
        words = [*map(str, arguments), *key, "--data-dir", str(folder), *(["--json"] if as_json else [])]
        done = CliRunner().invoke(market_app, words, env=network)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return json.loads(done.output) if as_json else done.output

    return run


@pytest.fixture(scope="module")
def client(public, tmp_path_factory):
    """The options of a key that `market wallet new` drew, with gas money and 100 dollars."""
    folder = tmp_path_factory.mktemp("client")
    keystore, password = folder / "client.json", folder / "password"
    done = CliRunner().invoke(market_app, ["wallet", "new", str(keystore), "--password-file", str(password), "--json"])
    address = bytes.fromhex(json.loads(done.output)["address"][2:])
    assert json.loads(keystore.read_text())["version"] == 3
    # The same key, quick to open: two dozen commands follow, and each would take a second for it.
    quick = folder / "quick.json"
    save_keystore(quick, load_keystore(keystore, password), password.read_bytes().strip(), light=True)
    public.give_gas(address)
    public.chain.mint(public.wallet("deployer"), address, 100 * ATOMIC_PER_TOKEN)
    return address, ["--keystore", str(quick), "--password-file", str(password)]


def assert_dry(public, address, plan, *whats):
    """It says what it would sign and what each costs, and the account has sent nothing."""
    assert plan["dryRun"]
    assert [row["what"] for row in plan["transactions"]] == list(whats)
    first = plan["transactions"][0]
    assert first["from"] == checksum(address)
    assert first["gas"] > 21_000
    assert int(first["feeWei"]) > 0


def test_the_contracts_stand_where_every_command_looks(public):
    found = deployments.load(public.network.chain_id)
    assert found.token == public.network.token
    assert public.deployment_file.name == f"{public.network.chain_id}.json"
    status = httpx.get(f"{public.gateway_url}/market/v1/status").json()
    assert (status["chainId"], status["confirmations"]) == (public.network.chain_id, public.network.confirmations)


def test_what_was_earned_is_shown_and_drawn(public, person):
    buyer, operator = public.key_of("client"), public.key_of("operator")
    account = public.accounts["operator"].address
    person("channel", "open", "1", key=buyer)
    person("infer", minilm.NAME, "--text", "One sentence.", key=buyer)
    due = UNIT_PRICE * 85 // 100
    deadline_at = time.monotonic() + 90
    while (seen := person("earnings", key=operator))["available"] != str(due) and time.monotonic() < deadline_at:
        time.sleep(0.5)
    assert (seen["earned"], seen["available"], seen["unsettled"]) == (str(due), str(due), "0")
    assert f"0.000850 ({due}u)" in person("earnings", key=operator, as_json=False)
    before, sent = public.chain.balance(account), public.sent(account)
    assert_dry(public, account, person("withdraw", "0.0001", "--dry-run", key=operator), "withdraw")
    assert "0.000100 (100u)" in person("withdraw", "100u", "--dry-run", key=operator, as_json=False)
    assert (public.chain.balance(account), public.sent(account)) == (before, sent)
    assert person("withdraw", "0.0001", key=operator)["withdrawn"] == "100"
    assert person("withdraw", f"{due - 100}u", key=operator)["withdrawn"] == str(due - 100)
    assert public.chain.balance(account) - before == due


def test_a_model_is_published_changed_and_taken_down(public, person, tmp_path):
    key, account = public.key_of("owner"), public.accounts["owner"].address
    (tmp_path / "wide-net.onnx").write_bytes(models.wide())
    publish = ("model", "publish", tmp_path / "wide-net.onnx", "--royalty-ppm", "50000")
    publish += ("--min-price", "0.00001", "--max-price", "20u")
    sent = public.sent(account)
    plan = person(*publish, "--into", tmp_path / "plan", "--dry-run", key=key)
    assert_dry(public, account, plan, "list")
    assert (plan["minPrice"], plan["maxPrice"]) == ("10", "20")
    assert public.sent(account) == sent
    person(*publish, "--into", tmp_path / "package", key=key)
    assert public.chain.model_by_name("wide-net")[1].min_price == 10

    update = ("model", "update", "wide-net", "--max-price", "0.00003")
    assert_dry(public, account, person(*update, "--dry-run", key=key), "update")
    assert public.chain.model_by_name("wide-net")[1].max_price == 20
    assert "0.000030 (30u)" in person(*update, key=key, as_json=False)
    assert public.chain.model_by_name("wide-net")[1].max_price == 30

    assert_dry(public, account, person("model", "delist", "wide-net", "--dry-run", key=key), "delist")
    assert public.chain.model_by_name("wide-net")[1].active
    person("model", "delist", "wide-net", key=key)
    assert not public.chain.model_by_name("wide-net")[1].active


def test_a_clients_channel_from_the_first_dollar_to_the_last(public, person, client):
    address, key = client
    assert person("wallet", "show", key=key)["tokens"] == str(100 * ATOMIC_PER_TOKEN)
    assert "100.000000 (100000000u)" in person("wallet", "show", key=key, as_json=False)

    sent = public.sent(address)
    assert_dry(public, address, person("channel", "open", "0.5", "--dry-run", key=key), "approve", "deposit")
    text = person("channel", "open", "500000u", "--dry-run", key=key, as_json=False)
    assert "0.500000 (500000u)" in text
    assert public.sent(address) == sent
    opened = person("channel", "open", "0.5", key=key)
    assert (opened["deposited"], public.sent(address)) == ("500000", sent + 2)

    assert_dry(public, address, person("channel", "topup", "0.25", "--dry-run", key=key), "approve", "deposit")
    assert person("channel", "topup", "250000u", key=key)["deposited"] == "750000"
    assert "0.750000 (750000u)" in person("channel", "status", key=key, as_json=False)
    assert public.chain.balance(address) == 99_250_000

    sent = public.sent(address)
    (planned,) = person("channel", "refund", "0.05", "--dry-run", key=key)["transactions"]
    assert (planned["what"], planned["gas"]) == ("refund", None), "its gas is known once the gateway has signed"
    assert person("channel", "status", key=key)["refundPromised"] == "0"
    assert_dry(public, address, person("channel", "exit", "0.1", "--dry-run", key=key), "exit")
    assert public.sent(address) == sent
    assert person("channel", "exit", "100000u", key=key)["amount"] == "100000"
    assert_dry(public, address, person("channel", "cancel-exit", "--dry-run", key=key), "cancel")
    person("channel", "cancel-exit", key=key)
    left = person("channel", "exit", key=key)
    assert left["amount"] == "750000"
    assert "ExitNotReady" in person("channel", "withdraw", "--dry-run", key=key, code=1)["error"]["detail"]
    services.rpc(public.rpc_url, "evm_increaseTime", DAY_SECONDS + 1)
    services.rpc(public.rpc_url, "evm_mine")
    assert_dry(public, address, person("channel", "withdraw", "--dry-run", key=key), "draw")
    assert person("channel", "withdraw", key=key)["paid"] == "750000"
    assert public.chain.balance(address) == 100 * ATOMIC_PER_TOKEN, "to the last unit"


def test_stake_goes_in_and_comes_out(public):
    account = public.accounts["operator"].address
    key = ["--operator-keystore", str(public.accounts["operator"].keystore)]
    key += ["--operator-password-file", str(keys.password_file(public.data_dir))]

    def worker(*arguments, as_json=True, code=0):
        words = [*arguments, *key, *(["--json"] if as_json else [])]
        done = CliRunner().invoke(worker_app, words, env=public.worker_environment())
        assert done.exit_code == code, done.output
        return json.loads(done.output) if as_json else done.output

    sent = public.sent(account)
    plan = worker("stake", "1.5", "--dry-run")
    assert_dry(public, account, plan, "approve", "stake")
    assert "1000.000000 (1000000000u)" in worker("stake", "1500000u", "--dry-run", as_json=False)
    assert public.sent(account) == sent
    assert worker("stake", "1.5")["stake"] == str(STAKE + 1_500_000)
    assert_dry(public, account, worker("unstake", "1500000u", "--dry-run"), "thaw")
    assert worker("unstake", "1500000u")["thawing"] == "1500000"
    assert "NotThawed" in worker("withdraw", "--json", as_json=False, code=1)
    services.rpc(public.rpc_url, "evm_increaseTime", 22 * DAY_SECONDS)
    services.rpc(public.rpc_url, "evm_mine")
    before = public.chain.balance(account)
    assert_dry(public, account, worker("withdraw", "--dry-run"), "withdraw")
    assert worker("withdraw")["stake"] == str(STAKE)
    assert public.chain.balance(account) - before == 1_500_000


def test_a_command_for_another_chain_sends_nothing(public, person, client):
    address, key = client
    sent = public.sent(address)
    refused = person("channel", "open", "1", "--chain-id", "8453", key=key, code=1)["error"]
    assert refused["code"] == "wrong-chain"
    assert public.sent(address) == sent
