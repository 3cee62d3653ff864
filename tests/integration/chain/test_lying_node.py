"""A node that times out, lies behind, answers errors, repeats itself or answers nonsense: each is waited out, and the
money adds up to the last unit afterwards."""

import contextlib
import copy
import time

import pytest

from contracts.bindings.deploy import bind
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import FEE_CEILING, MOST_PRIORITY_FEE
from contracts.protocol.errors import CodedError
from market.settlement.settle import SettlementRefused
from tests.support.lying_node import GREEDY_FEE, LIES, LyingNode
from tests.support.settling import GATEWAY, OPERATOR, OWNER, Gateway, assert_money_adds_up

pytestmark = pytest.mark.integration

PRICE = 1_000


@pytest.fixture
def node(chain):
    made = LyingNode(chain.url)
    yield made
    made.close()


@pytest.fixture
def gateway(chain, node, tmp_path):
    """A gateway whose only node is the lying one; the chain itself is asked by the tests alone."""
    seen = copy.copy(chain)
    seen.web3 = connect(node.url, timeout_seconds=0.5)
    seen.contracts = bind(seen.web3, chain.deployment)
    seen.escrow = seen.contracts.escrow
    made = Gateway(seen, tmp_path)
    made.transactor._stuck_seconds = 1.0
    yield made
    made.close()


def look(gateway) -> None:
    """One beat of each job; what is wrong with the node is named, and is a matter for the next beat."""
    with contextlib.suppress(CodedError):
        gateway.index()
    with contextlib.suppress(CodedError):
        gateway.settler.step(force=True)


def settle_all(gateway, charges: int) -> None:
    """Look again and again, as the jobs do, until the chain has what was served."""
    deadline_at = time.monotonic() + 30
    while time.monotonic() < deadline_at:
        with contextlib.suppress(CodedError):  # what was sent on the word of a lying node can revert; it is sent anew
            gateway.settle()
        if gateway.view.credits(GATEWAY, OPERATOR).credited == charges * PRICE * 8 // 10:
            return
        gateway.chain.mine()


def assert_settled_once(chain, gateway, channel, charges: int) -> None:
    assert gateway.view.channel(channel.digest(chain.domain)).settled == charges * PRICE
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == charges * PRICE * 8 // 10
    assert gateway.view.credits(GATEWAY, OWNER).credited == charges * PRICE // 10
    assert gateway.view.reserve(GATEWAY).amount == charges * PRICE // 10
    settled = gateway.view.settlements(GATEWAY)
    assert [one.epoch for one in settled] == list(range(1, len(settled) + 1))
    assert sum(one.count for one in settled) == charges
    assert_money_adds_up(chain, gateway.view)


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_costs_time_and_nothing_else(chain, node, gateway, lie):
    channel = chain.deposit(10 * PRICE)
    node.lies, node.share = (lie,), 0.6
    for number in range(1, 4):
        gateway.record(chain.charge(channel, PRICE, number * PRICE))
        for _ in range(4):
            look(gateway)
        chain.mine()
    assert node.told[lie] > 0
    node.honest()
    settle_all(gateway, 3)
    assert_settled_once(chain, gateway, channel, 3)


def test_a_batch_that_was_planned_too_far_ahead_is_planned_anew(chain, node, gateway):
    """It can never be settled; while it was kept, nor could any after it, and nobody was paid."""
    channel = chain.deposit(10 * PRICE)
    gateway.record(chain.charge(channel, PRICE, PRICE))
    gateway.index()
    node.lies, node.share = ("ahead",), 1.0
    with pytest.raises(SettlementRefused):
        gateway.settler.step(force=True)
    assert gateway.book.open_batch(GATEWAY).epoch == 10
    node.honest()
    gateway.record(chain.charge(channel, PRICE, 2 * PRICE))
    settle_all(gateway, 2)
    assert_settled_once(chain, gateway, channel, 2)


def test_a_node_cannot_have_all_gas_money_given_away(chain, node, gateway):
    """What is offered on top is paid whole, whatever the block asks."""
    channel = chain.deposit(10 * PRICE)
    gateway.record(chain.charge(channel, PRICE, PRICE))
    node.lies, node.share = ("greedy",), 1.0
    gateway.transactor._stuck_seconds = 0.0
    before = chain.web3.eth.get_balance(GATEWAY)
    chain.rpc("evm_setAutomine", False)
    try:
        for _ in range(40):
            look(gateway)
        (sent,) = gateway.transactor._outbox.pending(GATEWAY)
        assert sent.priority_fee_per_gas <= FEE_CEILING * MOST_PRIORITY_FEE
    finally:
        chain.rpc("evm_setAutomine", True)
    settle_all(gateway, 1)
    gas = before - chain.web3.eth.get_balance(GATEWAY)
    assert 0 < gas < 300_000 * 2 * FEE_CEILING * MOST_PRIORITY_FEE < 300_000 * GREEDY_FEE


def test_a_node_that_only_lies_changes_nothing(chain, node, gateway):
    channel = chain.deposit(10 * PRICE)
    gateway.record(chain.charge(channel, PRICE, PRICE))
    nonce = chain.rpc("eth_getTransactionCount", "0x" + GATEWAY.hex(), "pending")
    node.share = 1.0
    for lie in sorted(set(LIES) - {"twice", "behind", "silent", "cut"}):
        node.lies = (lie,)
        look(gateway)
        assert gateway.store.cursor() is None, lie
        assert chain.rpc("eth_getTransactionCount", "0x" + GATEWAY.hex(), "pending") == nonce, lie
    node.honest()
    settle_all(gateway, 1)
    assert_settled_once(chain, gateway, channel, 1)


def test_all_lies_and_reorganisations_at_once_end_where_the_chain_stands(chain, node, gateway):
    channel = chain.deposit(100 * PRICE)
    gateway.index()
    chain.mine(10)
    node.lies, node.share = tuple(sorted(set(LIES) - {"silent"})), 0.25
    for number in range(1, 13):
        gateway.record(chain.charge(channel, PRICE, number * PRICE))
        look(gateway)
        look(gateway)
        if number % 4 == 0:
            chain.reorg(2)
            chain.forget_senders()
        else:
            chain.mine()
    node.honest()
    settle_all(gateway, 12)
    assert_settled_once(chain, gateway, channel, 12)
