"""The plan of a batch: pure, so every rule of it is tried without a chain."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.commitments import MerkleTree
from market.settlement.plan import (
    CREDIT_GAS,
    DEBIT_GAS,
    FIRST_CREDIT_GAS,
    MAX_RECEIPTS,
    MAX_ROWS_GAS,
    NO_RECEIPTS_ROOT,
    makes_good,
    paid,
    plan,
)
from market.settlement.ports import Due, DueChannel, DueReceipt

OPERATOR, OWNER = b"\x0a" * 20, b"\x0b" * 20


@dataclass
class Chain:
    """What the chain says, as `Standing`."""

    channels: dict = field(default_factory=dict)
    credits: dict = field(default_factory=dict)
    reserve: int = 0

    def channel(self, channel_id):
        return self.channels.get(channel_id, (0, 0))

    def credited(self, payee):
        return self.credits.get(payee, 0)

    def free_reserve(self):
        return self.reserve


def name(n: int, width: int = 32) -> bytes:
    return n.to_bytes(width, "big")


def receipt(position, price=10, *, channel=1, operator=OPERATOR, owner=OWNER) -> DueReceipt:
    share = price * 8 // 10
    digest = name(position + 10**6)
    return DueReceipt(position, digest, name(channel), price, operator, share, owner, price // 10)


def channel(n=1, *, voucher=10**9, claimed=0) -> DueChannel:
    return DueChannel(name(n), b"\x01" * 20, b"\x02" * 20, n, voucher, b"\x03" * 65, claimed)


def due(receipts, channels=None, promised=None, unpaid=()) -> Due:
    channels = channels or {r.channel_id: channel(int.from_bytes(r.channel_id, "big")) for r in receipts}
    return Due(receipts, channels, promised or {}, frozenset(unpaid))


RICH = Chain({name(n): (10**9, 0) for n in range(5_000)})


def test_nothing_due_is_no_batch():
    assert plan(due([]), RICH) is None


def test_a_batch_claims_and_credits_totals():
    found = plan(
        due([receipt(1), receipt(2), receipt(3, 100)], {name(1): channel(claimed=500)}, {OPERATOR: 1_000}), RICH
    )
    assert found.debits == ((channel(claimed=500), 620),)
    assert dict(found.credits) == {OPERATOR: 1_096, OWNER: 12}
    assert (found.debited, found.credited) == (120, 108)
    assert found.root == MerkleTree([r.digest for r in found.receipts]).root
    assert found.totals == {name(1): 620, OPERATOR: 1_096, OWNER: 12}


def test_a_claim_never_exceeds_its_voucher():
    found = plan(due([receipt(1, 100)], {name(1): channel(voucher=60)}), RICH)
    assert found.debits[0][1] == 60


def test_an_owner_who_is_the_operator_has_one_row():
    found = plan(due([receipt(1, 100, owner=OPERATOR)]), RICH)
    assert found.credits == ((OPERATOR, 90),)


def test_the_smallest_sum_is_paid_first():
    found = plan(due([receipt(1, 1_000)], promised={OPERATOR: 100, OWNER: 5_000}), RICH)
    assert [payee for payee, _ in found.credits] == [OPERATOR, OWNER]
    poor = Chain(credits={OWNER: 5_000})
    assert [payee for payee, _ in plan(due([receipt(1, 1_000)], promised={OWNER: 5_000}), poor).credits] == [
        OWNER,
        OPERATOR,
    ]


def test_no_payee_gets_a_row_for_nothing():
    free = DueReceipt(1, name(7), name(1), 0, OPERATOR, 0, OWNER, 0)
    assert plan(due([free]), RICH).credits == ()


def gas_of(found, chain) -> int:
    first = sum(not chain.credited(payee) for payee, _ in found.credits)
    known = len(found.credits) - first
    return len(found.debits) * DEBIT_GAS + known * CREDIT_GAS + first * FIRST_CREDIT_GAS


def test_a_batch_stops_at_its_limits_and_the_rest_waits():
    paid_before = Chain(RICH.channels, {OPERATOR: 1, OWNER: 1})
    many = [receipt(n, channel=n + 1) for n in range(1_100)]
    found = plan(due(many), paid_before)
    assert MAX_ROWS_GAS - DEBIT_GAS < gas_of(found, paid_before) <= MAX_ROWS_GAS
    assert found.receipts == tuple(many[: len(found.debits)])
    assert len(plan(due([receipt(n) for n in range(MAX_RECEIPTS + 5)]), RICH).receipts) == MAX_RECEIPTS


def test_payees_never_paid_before_take_more_room():
    """A batch above the gas that a transaction may have could never be sent, and nobody in it would be paid."""
    receipts = [receipt(n, channel=n % 2_000 + 1, operator=name(n + 1, 20)) for n in range(MAX_RECEIPTS)]
    found = plan(due(receipts), RICH)
    assert MAX_ROWS_GAS - DEBIT_GAS - 2 * FIRST_CREDIT_GAS < gas_of(found, RICH) <= MAX_ROWS_GAS
    assert found.receipts == tuple(receipts[: len(found.debits)])
    unpaid = {name(n + 1, 20) for n in range(1_000)}
    rest = plan(due([], {}, dict.fromkeys(unpaid, 5), unpaid), Chain(reserve=1))
    assert gas_of(rest, Chain()) <= MAX_ROWS_GAS


def test_what_was_short_is_claimed_when_there_is_a_deposit():
    unpaid = {name(1), OPERATOR}
    state = due([], {name(1): channel(claimed=100)}, {OPERATOR: 80}, unpaid)
    broke = Chain({name(1): (30, 30)}, {OPERATOR: 30})
    assert plan(state, broke) is None
    assert not makes_good(state, broke)
    refilled = Chain({name(1): (200, 30)}, {OPERATOR: 30})
    assert makes_good(state, refilled)
    found = plan(state, refilled)
    assert found.root == NO_RECEIPTS_ROOT
    assert found.debits == ((channel(claimed=100), 100),)
    assert found.credits == ((OPERATOR, 80),)
    assert found.totals == {}


def test_what_was_short_is_paid_from_the_reserve():
    state = due([], {}, {OPERATOR: 80}, {OPERATOR})
    assert makes_good(state, Chain(reserve=1))
    assert plan(state, Chain(reserve=1)).credits == ((OPERATOR, 80),)
    assert plan(state, Chain()) is None


def test_what_is_paid_by_now_is_done_with():
    state = due([], {name(1): channel(claimed=100)}, {OPERATOR: 80}, {name(1), OPERATOR})
    done = Chain({name(1): (200, 100)}, {OPERATOR: 80}, reserve=10)
    assert paid(state, done) == {name(1), OPERATOR}
    assert plan(state, done) is None
    assert not makes_good(state, done)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3)), max_size=60))
def test_rows_add_up_to_the_receipts(made):
    receipts = [
        receipt(n, price, channel=channel_number, operator=name(operator, 20), owner=name(owner + 100, 20))
        for n, (price, channel_number, operator, owner) in enumerate(made)
    ]
    found = plan(due(receipts), RICH)
    if found is None:
        assert not receipts
        return
    assert sum(claim for _, claim in found.debits) == found.debited == sum(r.price for r in receipts)
    assert sum(total for _, total in found.credits) == found.credited
    assert found.credited <= found.debited
    assert plan(due(receipts), RICH) == found
