"""A worker's papers against the chain: a gateway that paid passes, one that left receipts out is caught by one of them."""

import time

import pytest

from contracts.bindings.dispute_manager import DisputeManager, Status
from contracts.bindings.errors import TransactionReverted
from contracts.protocol.messages import Papers
from tests.support.settling import GATEWAY, OPERATOR
from workers import audit
from workers.errors import NothingToChallenge
from workers.papers import Journal, SignedWork

pytestmark = pytest.mark.integration

RESERVE = 50_000_000


@pytest.fixture
def disputes(chain):
    return DisputeManager(chain.web3, chain.deployment.disputes)


@pytest.fixture
def journal(chain, tmp_path):
    made = Journal(tmp_path / "papers.db", domain=chain.domain, operator=OPERATOR)
    yield made
    made.close()


def now_of(chain) -> int:
    return int(chain.web3.eth.get_block("latest")["timestamp"])


def serve(chain, journal, channel, count: int, *, countersigned: bool = True):
    """The worker's side of `count` requests at 100."""
    charges = [
        chain.charge(channel, 100, 100 * (n + 1), ceiling=100_000, served_at=now_of(chain)) for n in range(count)
    ]
    journal.keep(
        [SignedWork(c.receipt, c.worker_signature, c.channel, c.voucher_amount, c.voucher_signature) for c in charges]
    )
    if countersigned:
        note = chain.credit_note("operator", 80 * count)
        journal.keep((), Papers(tuple((c.receipt.request_id, c.gateway_signature) for c in charges), *note))
    return charges


def standing(chain, disputes, journal) -> audit.Standing:
    (one,) = audit.add_up(chain.contracts, disputes, [journal], OPERATOR, now=now_of(chain))
    return one


def test_a_gateway_that_settled_everything_is_not_short(chain, gateway, disputes, journal):
    channel = chain.deposit(100_000)
    gateway.record(*serve(chain, journal, channel, 5))
    gateway.settle()
    chain.pass_seconds(disputes.window() + 1)
    one = standing(chain, disputes, journal)
    assert (one.gateway, one.receipts, one.countersigned) == (GATEWAY, 5, 5)
    assert (one.earned, one.promised, one.credited, one.overdue, one.short) == (400, 400, 400, 400, 0)


def test_what_may_still_be_settled_is_not_overdue(chain, disputes, journal):
    serve(chain, journal, chain.deposit(100_000), 3)
    one = standing(chain, disputes, journal)
    assert (one.earned, one.overdue, one.short) == (240, 0, 0)


def test_what_was_never_countersigned_is_earned_but_owed_by_nobody(chain, disputes, journal):
    serve(chain, journal, chain.deposit(100_000), 3, countersigned=False)
    chain.pass_seconds(disputes.window() + 1)
    one = standing(chain, disputes, journal)
    assert (one.receipts, one.countersigned, one.earned, one.short) == (3, 0, 240, 0)


def test_a_gateway_that_left_receipts_out_loses_its_reserve(chain, gateway, disputes, journal):
    chain.give_tokens("gateway", RESERVE)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, RESERVE))
    served = serve(chain, journal, chain.deposit(100_000), 5)
    gateway.record(*served[:3])  # two are kept back
    gateway.settle()
    hidden = served[4].receipt
    signed = audit.find([journal], hidden.request_id)
    operator = chain.sender("operator")
    chain.give_tokens("operator", disputes.bond())
    with pytest.raises(TransactionReverted, match="TooEarly"):
        audit.challenge(chain.contracts, disputes, operator, signed, chain.domain)

    chain.pass_seconds(disputes.window() + 1)
    one = standing(chain, disputes, journal)
    assert (one.overdue, one.credited, one.short) == (400, 240, 160)
    assert hidden.request_id in [receipt.request_id for receipt in one.newest_overdue]

    audit.challenge(chain.contracts, disputes, operator, signed, chain.domain)
    digest = hidden.digest(chain.domain)
    assert disputes.challenge_of(digest).status == Status.OPEN
    with pytest.raises(TransactionReverted, match="TooEarly"):
        audit.uphold(disputes, operator, hidden, chain.domain)
    chain.pass_seconds(disputes.window() + 1)
    before = chain.contracts.token.balance_of(OPERATOR)
    audit.uphold(disputes, operator, hidden, chain.domain)

    assert disputes.challenge_of(digest).status == Status.UPHELD
    gained = chain.contracts.token.balance_of(OPERATOR) - before
    assert gained > disputes.bond()  # the bond came back, and half of what was slashed
    gateway.index()
    assert gateway.view.reserve(GATEWAY).amount < RESERVE
    with pytest.raises(NothingToChallenge):
        audit.uphold(disputes, operator, hidden, chain.domain)


def test_only_countersigned_receipts_can_be_challenged(chain, journal):
    (charge,) = serve(chain, journal, chain.deposit(100_000), 1, countersigned=False)
    with pytest.raises(NothingToChallenge, match="countersigned"):
        audit.find([journal], charge.receipt.request_id)
    with pytest.raises(NothingToChallenge, match="no receipt"):
        audit.find([journal], b"\x07" * 32)


def test_papers_of_two_workers_are_added(chain, gateway, disputes, journal, tmp_path):
    other = Journal(tmp_path / "other.db", domain=chain.domain, operator=OPERATOR)
    gateway.record(*serve(chain, journal, chain.deposit(100_000), 2))
    gateway.record(*serve(chain, other, chain.deposit(100_000, chain.channel(salt=1)), 3))
    gateway.settle()
    chain.pass_seconds(disputes.window() + 1)
    (one,) = audit.add_up(chain.contracts, disputes, [journal, other], OPERATOR, now=time.time() + 10**9)
    assert (one.receipts, one.overdue, one.credited, one.short) == (5, 400, 400, 0)
    other.close()
