"""`market deploy --network`: the known chains, tried on nodes that carry their chain ids."""

import json

import pytest
from typer.testing import CliRunner

from contracts.bindings.transactor import Transactor
from contracts.deployments import load
from contracts.deployments.networks import NETWORKS
from contracts.protocol.hexes import checksum
from market.cli import app
from market.devnet import keys, services
from market.devnet.process import Supervisor
from market.sdk.chain import Chain

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
def deployer(tmp_path):
    return keys.load_or_create(tmp_path, "deployer")


def start(supervisor, tmp_path, chain_id, account) -> str:
    url = services.start_chain(supervisor, tmp_path, keep_state=False, chain_id=chain_id)
    services.rpc(url, "anvil_setBalance", checksum(account.address), hex(10**20))
    return url


def run(*arguments: str, code: int = 0) -> dict:
    done = CliRunner().invoke(app, ["deploy", "--json", *arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.output)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_contracts_are_deployed_with_the_networks_token(tmp_path, deployer, name):
    network, output = NETWORKS[name], tmp_path / "deployment.json"
    with Supervisor(tmp_path / "logs", tmp_path) as supervisor:
        url = start(supervisor, tmp_path, network.chain_id, deployer)
        options = ["--network", name, "--rpc-url", url, "--keystore", str(deployer.keystore)]
        options += ["--password-file", str(keys.password_file(tmp_path)), "--output", str(output)]
        if network.token is not None:
            # No USDC stands on a fresh node: refused, until the token is there.
            assert run(*options, code=1)["error"]["field"] == "token"
            stand_in = Chain.deploy(url, _wallet(deployer), tmp_path / "other.json").deployment.token
            code = services.rpc(url, "eth_getCode", checksum(stand_in), "latest")
            services.rpc(url, "anvil_setCode", checksum(network.token), code)
        run(*options)
        found = load(network.chain_id, output)
        assert found.chain_id == network.chain_id
        if network.token is not None:
            assert found.token == network.token
        assert Chain.connect(url, output).min_stake() > 0
        assert run(*options, code=2)["error"]["field"] == "output"


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("dies_at", [1, 3, 7])
@pytest.mark.parametrize("when", ["before-broadcast", "after-broadcast"])
def test_a_deployment_cut_short_goes_on_where_it_was(tmp_path, deployer, monkeypatch, dies_at, when):
    output, real, seen = tmp_path / "deployment.json", Transactor._broadcast, []

    def deadly(transactor, outgoing, *, fresh=False):
        seen.append(outgoing.purpose)
        if len(seen) == dies_at and when == "before-broadcast":
            raise Crash
        real(transactor, outgoing, fresh=fresh)
        if len(seen) == dies_at:
            raise Crash

    with Supervisor(tmp_path / "logs", tmp_path) as supervisor:
        url = start(supervisor, tmp_path, 31337, deployer)
        with monkeypatch.context() as patched:
            patched.setattr(Transactor, "_broadcast", deadly)
            with pytest.raises(Crash):
                Chain.deploy(url, _wallet(deployer), output)
        assert not output.exists()
        made = Chain.deploy(url, _wallet(deployer), output)
        assert made.deployment == load(31337, output)
        assert int(services.rpc(url, "eth_getTransactionCount", checksum(deployer.address), "latest"), 16) == 7
        codes = [
            services.rpc(url, "eth_getCode", checksum(made.deployment.token), hex(made.deployment.block - before))
            for before in (1, 0)
        ]
        assert (codes[0], codes[1] != "0x") == ("0x", True), "the index starts at the first contract's block"
        assert sorted(path.name for path in tmp_path.glob("deployment*")) == ["deployment.json"]


def test_a_dry_run_says_what_a_deployment_costs_and_where_it_will_stand(tmp_path, deployer):
    output = tmp_path / "deployment.json"
    with Supervisor(tmp_path / "logs", tmp_path) as supervisor:
        url = start(supervisor, tmp_path, 31337, deployer)
        options = ["--rpc-url", url, "--keystore", str(deployer.keystore), "--output", str(output)]
        options += ["--password-file", str(keys.password_file(tmp_path))]
        planned = run(*options, "--dry-run")
        assert [row["what"].split()[0] for row in planned["transactions"]] == ["deploy"] * 5 + ["name"] * 2
        assert all(row["gas"] > 300_000 for row in planned["transactions"][:5])
        account = checksum(deployer.address)
        assert services.rpc(url, "eth_getTransactionCount", account, "pending") == "0x0"
        assert not output.exists()
        made = run(*options)
        assert [planned[name] for name in ("token", "escrow", "disputes")] == [
            made[name] for name in ("token", "escrow", "disputes")
        ]


def test_another_chain_than_the_one_named_is_refused(tmp_path, deployer):
    with Supervisor(tmp_path / "logs", tmp_path) as supervisor:
        url = start(supervisor, tmp_path, 31337, deployer)
        options = ["--rpc-url", url, "--keystore", str(deployer.keystore)]
        options += ["--password-file", str(keys.password_file(tmp_path)), "--output", str(tmp_path / "d.json")]
        assert run("--network", "sepolia", *options, code=1)["error"]["code"] == "wrong-chain"
        assert run("--network", "mainnet", *options, code=1)["error"]["field"] == "network"


def _wallet(account):
    from market.sdk.wallet import Wallet

    return Wallet(account.key)
