"""What the bindings read is what was written, through every type the contracts return."""

from dataclasses import replace

import pytest
from web3.exceptions import Web3RPCError

from contracts.bindings.deploy import bind
from contracts.bindings.errors import DeploymentError, NodeUnreachable
from contracts.bindings.escrow import LEAST_SPAN, Escrow
from tests.support.chain import MIN_STAKE, key

pytestmark = pytest.mark.integration


def test_listing_and_worker(chain):
    model_id = chain.list_model()
    found = chain.contracts.models.model(model_id)
    assert (found.owner, found.name, found.uri, found.active) == (key("owner").address, "tiny", "file:///m", True)
    assert (found.min_price, found.max_price, found.royalty_ppm, found.unit) == (1, 10_000, 100_000, 1)
    assert chain.contracts.models.by_name("tiny") == model_id
    worker = chain.register_worker()
    state = chain.contracts.workers.worker(worker)
    assert (state.operator, state.stake, state.active) == (key("operator").address, MIN_STAKE, True)
    assert chain.contracts.workers.is_active(worker)


def test_the_contract_and_we_agree_on_digests(chain):
    channel = chain.deposit(1_000)
    charge = chain.charge(channel, 10, 10)
    assert chain.escrow.receipt_digest(charge.receipt) == charge.digest
    assert chain.escrow.channel(channel.digest(chain.domain)).deposited == 1_000


def test_another_contract_at_the_address_is_named(chain):
    with pytest.raises(DeploymentError):
        Escrow(chain.web3, chain.deployment.token).last_epoch(key("gateway").address)
    with pytest.raises(DeploymentError) as missing:
        bind(chain.web3, replace(chain.deployment, escrow=b"\x01" * 20))
    assert missing.value.field == "escrow"


def test_a_payers_channels_are_found_whatever_range_a_node_allows(chain, monkeypatch):
    opened = []
    for salt in range(3):
        opened.append(chain.deposit(10, chain.channel(salt=salt)))
        chain.mine(900)
    chain.deposit(10, chain.channel("somebody else"), payer="somebody else")
    chain.deposit(10, opened[1])
    newest, asked = chain.web3.eth.block_number, []
    real = chain.web3.eth.get_logs

    def narrow(query):
        asked.append(query["toBlock"] - query["fromBlock"] + 1)
        if asked[-1] > allowed:
            raise Web3RPCError("query exceeds max block range")
        return real(query)

    monkeypatch.setattr(chain.web3.eth, "get_logs", narrow)
    for most in (10**9, 1_500, LEAST_SPAN):
        allowed = most
        assert chain.escrow.channels_of(key("payer").address, chain.deployment.block, newest) == opened
        assert chain.escrow.channels_of(key("payer").address, newest, newest) == [opened[1]]
    allowed = LEAST_SPAN - 1
    with pytest.raises(NodeUnreachable, match="max block range"):
        chain.escrow.channels_of(key("payer").address, chain.deployment.block, newest)
    assert chain.escrow.channels_of(key("nobody").address, newest, newest) == []
