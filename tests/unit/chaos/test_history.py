"""The judge of `make chaos` judged itself: an honest history passes, and each way to cheat in it is found."""

from dataclasses import replace

import pytest

from tests.chaos.books import Account, AuditBooks, Key, X402Channel, X402Credit, X402Payment
from tests.chaos.history import Seen
from tests.support.forged import (
    AUDITOR,
    BUYER,
    CHANNEL,
    DEPOSIT,
    DEPOSITOR,
    GATEWAY,
    HOUSE,
    HOUSE_ACCOUNT,
    KEY,
    OPERATOR,
    OTHER,
    OWNER,
    OWNER_PART,
    PACK,
    PAYER_CHANNEL,
    PRICE,
    WORKER,
    WORKER_PART,
    Chain,
    World,
    row,
)


def test_an_honest_history_passes():
    world = World()
    found = world.check()
    assert found.violations == []
    assert (found.counts["requests"], found.counts["acknowledged"], found.counts["receipts"]) == (7, 6, 7)
    assert (found.counts["charged"], found.counts["credited"]) == (7 * PRICE, 7 * (WORKER_PART + OWNER_PART))
    assert (found.counts["audits paid"], found.counts["audits passed"]) == (1, 1)
    assert found.counts["charged by x402"] == 2 * PRICE
    assert found.counts["checks"] > 40


def forget_a_receipt(world):
    world.books = replace(world.books, receipts=world.books.receipts[1:])


def write_another_receipt(world):
    world.change(0, digest=b"x" * 32)


def charge_more_than_was_told(world):
    world.history[0].charged = PRICE - 1


def charge_another_price_and_say_so(world):
    world.charge(row(5, price=2 * PRICE, cumulative=4 * PRICE))
    world.signed[CHANNEL] = 9 * PRICE
    one = world.books.receipts[-1]
    world.history.append(Seen(one.request_id, CHANNEL, PRICE, None, ["answered"], one.digest, 2 * PRICE))


def charge_the_refused(world):
    world.charge(row(5, request_id=world.refused.request_id, cumulative=4 * PRICE))


def charge_before_the_answer_that_never_comes(world):
    world.charge(row(5, request_id=world.refused.request_id, cumulative=4 * PRICE))
    world.refused.attempts = ["unknown:gateway-unreachable"] * 5


def charge_what_nobody_asked_for(world):
    world.charge(row(5, cumulative=4 * PRICE))


def charge_twice(world):
    world.charge(replace(world.books.receipts[1], seq=6, cumulative=4 * PRICE))


def charge_a_channel_without_a_receipt(world):
    world.books.accounts[CHANNEL] = Account(3 * PRICE + 1, 4 * PRICE)
    world.chain = Chain(world.books)


def charge_above_the_voucher(world):
    world.books.accounts[OTHER] = Account(PRICE, PRICE - 1)


def forge_a_voucher(world):
    world.books.accounts[OTHER] = Account(PRICE, world.signed[OTHER] + 1)


def leave_a_receipt_unsettled(world):
    world.change(2, settled=False)


def settle_twice(world):
    world.chain.settled[OTHER] *= 2


def settle_too_little(world):
    world.chain.settled[CHANNEL] -= 1


def debit_a_channel_that_nobody_used(world):
    world.chain.settled[b"e" * 32] = 1


def drop_a_credit_on_chain(world):
    del world.chain.credits[GATEWAY, OWNER]


def drop_a_credit_in_the_books(world):
    del world.books.totals[GATEWAY, OPERATOR]


def credit_another_sum(world):
    world.books.totals[GATEWAY, OPERATOR] += 1
    world.chain = Chain(world.books)


def pay_out_more_than_the_price(world):
    world.change(0, worker_amount=PRICE)


def state_more_than_was_charged(world):
    world.change(0, cumulative=PRICE + 1)


def give_two_receipts_one_number(world):
    world.change(1, seq=1)


def lose_the_workers_paper(world):
    world.books.journals[WORKER].pop()


def count_a_key_too_little(world):
    world.books.keys[KEY] = Key(OTHER, 0, 2 * PRICE)


def let_a_key_above_its_limit(world):
    world.books.keys[KEY] = Key(OTHER, PRICE, PRICE - 1)


def pay_onward_what_no_payer_paid(world):
    del world.books.x402.payments[world.books.receipts[5].request_id]
    world.books.x402.credits[BUYER] = X402Credit(PACK, 0, PACK, 0)


def charge_a_payer_for_nothing(world):
    world.books.x402.payments[b"n" * 32] = X402Payment(BUYER, None, PRICE)
    world.books.x402.credits[BUYER] = X402Credit(PACK - 2 * PRICE, 0, PACK, 0)


def charge_a_payer_more_than_is_paid_onward(world):
    world.books.x402.payments[world.books.receipts[5].request_id] = X402Payment(BUYER, None, PRICE + 1)
    world.books.x402.credits[BUYER] = X402Credit(PACK - PRICE - 1, 0, PACK, 0)


def keep_a_payers_money_held(world):
    world.books.x402.payments[b"n" * 32] = X402Payment(BUYER, None, None, is_held=True)


def hold_credit_for_nothing(world):
    world.books.x402.credits[BUYER] = X402Credit(PACK - PRICE, PRICE, PACK, 0)


def count_a_channel_too_far(world):
    world.books.x402.channels[PAYER_CHANNEL] = X402Channel(DEPOSITOR, PRICE + 1, 2 * PRICE)


def charge_a_channel_above_its_voucher(world):
    world.books.x402.channels[PAYER_CHANNEL] = X402Channel(DEPOSITOR, PRICE, PRICE - 1)


def charge_a_channel_above_its_deposit(world):
    world.chain.x402[PAYER_CHANNEL] = (PRICE - 1, PRICE)


def claim_more_than_was_charged(world):
    world.chain.x402[PAYER_CHANNEL] = (DEPOSIT, 2 * PRICE)


def forget_to_claim(world):
    world.chain.x402[PAYER_CHANNEL] = (DEPOSIT, 0)


def lose_credit(world):
    world.books.x402.credits[BUYER] = X402Credit(PACK - PRICE - 1, 0, PACK, 0)


def give_no_credit_for_a_pack(world):
    world.chain.tokens[BUYER] -= PACK


def take_a_deposit_twice(world):
    world.chain.tokens[DEPOSITOR] -= DEPOSIT


def take_money_of_the_house(world):
    world.chain.tokens[HOUSE_ACCOUNT] -= 1


def fund_the_house_channel_from_nowhere(world):
    world.chain.deposits[HOUSE] += PRICE


def pay_out_claims_that_are_not_swept(world):
    world.chain.claims_not_swept = PRICE


def audit_a_worker_by_its_own_operator(world):
    world.change(6, worker_payee=OPERATOR)


def audit_what_nobody_asked(world):
    world.change(6, input_hash=b"i" * 32)


def pay_more_for_an_audit(world):
    world.change(6, price=PRICE + 1)


def audit_more_than_was_answered(world):
    for number in range(30, 37):
        world.charge(row(number, HOUSE, worker_payee=AUDITOR))


def lose_an_auditors_paper(world):
    world.books.journals[AUDITOR].pop()


def pass_an_audit_that_was_not_made(world):
    world.books.audits.passed[WORKER] += 1


def convict_an_honest_worker(world):
    world.books = replace(world.books, audits=AuditBooks({WORKER: 0}, frozenset({WORKER})))


def find_an_honest_worker_wanting(world):
    world.books = replace(world.books, audits=AuditBooks({WORKER: 0}, differed=["disputed: y is FP32[1] and FP32[2]"]))


CHEATS = [
    (forget_a_receipt, "has no receipt in the books"),
    (write_another_receipt, "another receipt than the client's"),
    (charge_more_than_was_told, "told 999"),
    (charge_another_price_and_say_so, "charged 2000, its price is 1000"),
    (charge_the_refused, "was refused and charged"),
    (charge_before_the_answer_that_never_comes, "was never answered and charged"),
    (charge_what_nobody_asked_for, "a charge that nobody asked for"),
    (charge_twice, "a request has two receipts"),
    (charge_a_channel_without_a_receipt, "a channel's charges"),
    (charge_above_the_voucher, "a charge above the voucher"),
    (forge_a_voucher, "a voucher that nobody signed"),
    (leave_a_receipt_unsettled, "was never settled"),
    (settle_twice, "was charged 1000, 2000 on chain"),
    (settle_too_little, "was charged 3000, 2999 on chain"),
    (debit_a_channel_that_nobody_used, "a channel without receipts was debited"),
    (drop_a_credit_on_chain, "0 is credited on chain"),
    (drop_a_credit_in_the_books, "a payee is missing"),
    (credit_another_sum, "is not its receipts'"),
    (pay_out_more_than_the_price, "pays out more than its price"),
    (state_more_than_was_charged, "states more than was charged"),
    (give_two_receipts_one_number, "has another's number 1"),
    (lose_the_workers_paper, "is not in its worker's journal"),
    (count_a_key_too_little, "a key has spent 0, its requests cost 1000"),
    (let_a_key_above_its_limit, "a key above its limit"),
    (pay_onward_what_no_payer_paid, "its payer None, onward 1000"),
    (charge_a_payer_for_nothing, "its payer 1000, onward None"),
    (charge_a_payer_more_than_is_paid_onward, "its payer 1001, onward 1000"),
    (keep_a_payers_money_held, "still holds its payer's money"),
    (hold_credit_for_nothing, "credit is held for nothing"),
    (count_a_channel_too_far, "an x402 channel's 1001 are not its payments' 1000"),
    (charge_a_channel_above_its_voucher, "above its voucher or deposit"),
    (charge_a_channel_above_its_deposit, "above its voucher or deposit"),
    (claim_more_than_was_charged, "was charged 1000, 2000 is claimed"),
    (forget_to_claim, "was charged 1000, 0 is claimed"),
    (lose_credit, "is what was bought and not used"),
    (give_no_credit_for_a_pack, "parted with 20000, its books say 10000"),
    (take_a_deposit_twice, "parted with 100000, its books say 50000"),
    (take_money_of_the_house, "the house parted"),
    (fund_the_house_channel_from_nowhere, "the house parted"),
    (pay_out_claims_that_are_not_swept, "the house parted"),
    (audit_a_worker_by_its_own_operator, "audits what no client was answered elsewhere"),
    (audit_what_nobody_asked, "audits what no client was answered elsewhere"),
    (pay_more_for_an_audit, "costs 1001, no client paid that"),
    (audit_more_than_was_answered, "8 audits of 6 answers to one question"),
    (lose_an_auditors_paper, "is not in its worker's journal"),
    (pass_an_audit_that_was_not_made, "2 audits were passed, 1 were paid"),
    (convict_an_honest_worker, "1 honest workers are convicted"),
    (find_an_honest_worker_wanting, "found a difference, disputed"),
]


@pytest.mark.parametrize(("cheat", "found"), CHEATS, ids=[cheat.__name__ for cheat, _ in CHEATS])
def test_a_cheat_is_found(cheat, found):
    world = World()
    cheat(world)
    assert any(found in sentence for sentence in world.violations()), world.violations()
