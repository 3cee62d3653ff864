"""How deep a block must be before it counts is the known network's, unless the operator says otherwise."""

import pytest

from contracts.deployments.networks import NETWORKS
from market.settings import MarketSettings


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_a_known_network_has_its_depth(network, monkeypatch):
    monkeypatch.delenv("MARKET_CONFIRMATIONS", raising=False)
    assert MarketSettings(chain_id=network.chain_id).confirmations == network.confirmations


def test_an_unknown_chain_is_as_deep_as_the_deepest():
    assert MarketSettings(chain_id=1).confirmations == max(network.confirmations for network in NETWORKS.values())


def test_the_operator_has_the_last_word():
    assert MarketSettings(chain_id=84532, confirmations=9).confirmations == 9
