"""Settlement under crashes, thieves and restores: nothing is settled twice, nothing is lost."""

import contextlib
import random

import pytest

from contracts.protocol.hashing import keccak256
from market.settlement.settle import SettlementRefused
from tests.support.chain import key
from tests.support.settling import GATEWAY, OPERATOR, OWNER, Gateway, assert_money_adds_up

pytestmark = pytest.mark.integration


class Crash(BaseException):
    """The process dies here."""


STEPS = [
    ("book", "decide", "before"),
    ("book", "decide", "after"),
    ("transactor._outbox", "add", "before"),
    ("transactor._outbox", "add", "after"),
    ("transactor.web3.eth", "send_raw_transaction", "before"),
    ("transactor.web3.eth", "send_raw_transaction", "after"),
    ("transactor._outbox", "put", "before"),
    ("transactor._outbox", "put", "after"),
    ("book", "confirm", "before"),
    ("book", "confirm", "after"),
]


def arm(gateway: Gateway, step, monkeypatch) -> None:
    where, name, when = step
    target = gateway
    for part in where.split("."):
        target = getattr(target, part)
    real = getattr(target, name)

    def deadly(*arguments, **named):
        if when == "after":
            real(*arguments, **named)
        raise Crash

    monkeypatch.setattr(target, name, deadly)


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_a_crash_at_any_step_settles_each_receipt_once(chain, gateway, monkeypatch, step):
    channel = chain.deposit(100_000)
    gateway.record(*(chain.charge(channel, 100, 100 * (n + 1)) for n in range(5)))
    gateway.index()
    arm(gateway, step, monkeypatch)
    with pytest.raises(Crash):
        gateway.settle()
    monkeypatch.undo()

    gateway.restart()
    gateway.transactor.resume()
    for _ in range(3):
        gateway.settle()
    assert [(s.epoch, s.count) for s in gateway.view.settlements(GATEWAY)] == [(1, 5)]
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert_money_adds_up(chain, gateway.view)
    gateway.record(chain.charge(channel, 100, 600))
    gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 480
    assert_money_adds_up(chain, gateway.view)


def test_an_epoch_that_somebody_else_took_is_planned_anew(chain, gateway):
    channel = chain.deposit(100_000)
    gateway.record(chain.charge(channel, 100, 100))
    gateway.index()
    decided = gateway.settler._decide()
    chain.send("gateway", chain.escrow.address, chain.escrow.settle_batch(1, b"\x99" * 32, 1, [], []))
    with pytest.raises(SettlementRefused):
        gateway.settler.step()
    for _ in range(3):
        gateway.settle()
    assert decided.epoch == 1
    assert [s.epoch for s in gateway.view.settlements(GATEWAY)] == [1, 2]
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 100
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 80
    assert_money_adds_up(chain, gateway.view)


def test_a_batch_whose_outbox_was_lost_is_found_on_the_chain(chain, gateway):
    channel = chain.deposit(100_000)
    gateway.record(chain.charge(channel, 100, 100))
    gateway.index()
    batch = gateway.settler._decide()
    chain.send("gateway", chain.escrow.address, batch.call_data)
    gateway.settle()
    assert gateway.book.batch(GATEWAY, 1).tx_hash == gateway.view.settlements(GATEWAY)[0].tx_hash
    assert_money_adds_up(chain, gateway.view)


def test_a_bad_voucher_costs_the_gateway_and_nobody_else(chain, gateway):
    """One row is skipped on chain; every payee is paid as long as the batch and the reserve hold money."""
    good = chain.deposit(100_000)
    bad = chain.deposit(100_000, chain.channel(salt=1))
    chain.give_tokens("gateway", 1_000)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 1_000))
    gateway.record(chain.charge(good, 500, 500), chain.charge(bad, 500, 500, signer="somebody else"))
    gateway.settle()
    assert gateway.view.channel(bad.digest(chain.domain)).settled == 0
    assert gateway.view.channel(good.digest(chain.domain)).settled == 500
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 800
    assert gateway.view.credits(GATEWAY, OWNER).credited == 100
    assert gateway.view.reserve(GATEWAY).amount == 600
    assert_money_adds_up(chain, gateway.view)


def test_what_a_worker_claimed_itself_is_not_claimed_again(chain, gateway):
    channel = chain.deposit(100_000)
    charge = chain.charge(channel, 500, 500)
    gateway.record(charge)
    claim = chain.escrow.claim_with_receipt(
        channel,
        charge.voucher_amount,
        charge.voucher_signature,
        charge.receipt,
        charge.worker_signature,
        charge.gateway_signature,
    )
    chain.send("worker", chain.escrow.address, claim)
    gateway.settle()
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 500
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert gateway.view.reserve(GATEWAY).amount == 50
    assert_money_adds_up(chain, gateway.view)


def test_a_long_random_life_adds_up(chain, gateway, monkeypatch):
    """Charges, settlements, crashes, forks, defaults and refills in any order; at the end all is paid to the unit."""
    rng = random.Random(3)
    channels = [chain.deposit(rng.randint(1, 3_000), chain.channel(salt=n)) for n in range(3)]
    charged = [0, 0, 0]
    owed_operator = owed_owner = 0
    for turn in range(40):
        action = rng.random()
        if action < 0.45:
            at = rng.randrange(3)
            price = rng.randint(1, 400)
            charged[at] += price
            owed_operator += price * 8 // 10
            owed_owner += price // 10
            gateway.record(chain.charge(channels[at], price, charged[at]))
        elif action < 0.75:
            gateway.settle()
        elif action < 0.85:
            arm(gateway, rng.choice(STEPS), monkeypatch)
            with contextlib.suppress(Crash):
                gateway.settle()
            monkeypatch.undo()
            gateway.restart()
            gateway.transactor.resume()
        elif action < 0.92:
            chain.mine(2)
            chain.reorg(rng.randint(1, 3))
            chain.forget_senders()
        else:
            chain.deposit(rng.randint(1, 500), channels[rng.randrange(3)])
        if turn % 10 == 9:
            gateway.settle()
            assert_money_adds_up(chain, gateway.view)
    gateway.index()
    for at, channel in enumerate(channels):
        state = chain.escrow.channel(channel.digest(chain.domain))
        chain.deposit(max(1, charged[at] - state.deposited), channel)
    for _ in range(8):
        gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == owed_operator
    assert gateway.view.credits(GATEWAY, OWNER).credited == owed_owner
    for at, channel in enumerate(channels):
        assert gateway.view.channel(channel.digest(chain.domain)).settled == charged[at]
    assert gateway.book.backlog(GATEWAY).receipts == 0
    assert_money_adds_up(chain, gateway.view)


def test_the_root_of_a_batch_without_receipts_proves_nothing(chain):
    assert key("gateway").address == GATEWAY
    assert not chain.escrow.verify_receipt(GATEWAY, 1, keccak256(b"no receipts"), [])
