"""A gateway refuses to open its x402 door where it could not settle: said at the start, with what to do."""

import pytest

from market.adapters.x402_facilitator import token_domain
from market.devnet import x402
from market.devnet.services import rpc
from market.errors import ConfigurationError
from tests.support.chain import Chain, key, running_anvil


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    with running_anvil(tmp_path_factory.mktemp("bare")) as url:
        yield Chain(url)


def test_a_chain_without_x402s_contracts_is_named(bare):
    deployment = bare.deployment
    for missing in (x402.CHANNELS, x402.DEPOSIT_COLLECTOR, x402.MULTICALL3):
        with pytest.raises(ConfigurationError) as refused:
            token_domain(bare.web3, deployment.token, deployment.chain_id)
        assert missing.hex() in refused.value.detail.lower()
        assert refused.value.field == "MARKET_X402_KEYSTORE"
        rpc(bare.url, "anvil_setCode", "0x" + missing.hex(), "0x00")
    assert token_domain(bare.web3, deployment.token, deployment.chain_id) == ("TestUSD", "1")


def test_a_token_without_eip_3009_is_named(bare):
    deployment = bare.deployment
    for unfit, why in ((deployment.escrow, "domain"), (deployment.model_registry, "domain")):
        with pytest.raises(ConfigurationError, match=why):
            token_domain(bare.web3, unfit, deployment.chain_id)
    with pytest.raises(ConfigurationError, match="not made of its name and version"):
        token_domain(bare.web3, deployment.token, deployment.chain_id + 1)


def test_what_stands_already_is_left_alone(shop):
    before = rpc(shop.chain.url, "eth_blockNumber")
    x402.install(shop.chain.url, key("deployer"))
    assert rpc(shop.chain.url, "eth_blockNumber") == before
