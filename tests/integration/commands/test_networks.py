"""`market deploy --network`: the known chains, tried on nodes that carry their chain ids."""

import json

import pytest
from typer.testing import CliRunner

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
