"""The book of x402 payments under threads: nothing is bought, held, charged or refunded twice."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from market.adapters.database.x402_book import DatabaseBook
from market.errors import RequestInProgress
from market.payments.x402_channels import ChannelConfig, ChannelOutOfStep, PayerChannel
from market.payments.x402_model import EXACT, Authorization, Bought, Credit, CreditShort, Payment
from tests.support.databases import SERVERS, open_database

PAYER = b"\x0a" * 20
AUTHORIZATION = Authorization(31_337, b"\x0b" * 20, PAYER, b"\x0c" * 32, 100_000, b"\x0d" * 65)
INPUTS = b"\x0e" * 32
NOW, UNTIL = 1_000.0, 1_060.0


@pytest.fixture(params=SERVERS)
def book(request, tmp_path):
    engine = open_database(request.param, tmp_path)
    yield DatabaseBook(engine)
    engine.dispose()


def begin(book, now=NOW):
    return book.begin(AUTHORIZATION, "{}", INPUTS, now=now, until=now + 60)


def bought(book, amount=100_000):
    authorization = Authorization(31_337, b"\x0b" * 20, PAYER, os.urandom(32), amount, b"\x0d" * 65)
    assert book.begin(authorization, "{}", INPUTS, now=NOW, until=UNTIL)
    book.bought(authorization, "0xaa")


def hold(book, request_id, amount, now=NOW):
    return book.hold_credit(request_id, PAYER, EXACT, amount, now=now, until=now + 60)


def test_one_of_twenty_reserves_an_authorization(book):
    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(lambda _: begin(book), range(20))) == 1
    assert book.authorization(AUTHORIZATION) is None


def test_a_reservation_left_behind_is_taken_over_once(book):
    assert begin(book)
    assert not begin(book, NOW + 59)
    assert [found for found, _ in book.undecided(NOW + 61)] == [AUTHORIZATION]
    stranger = book.begin(AUTHORIZATION, "{}", b"\x0f" * 32, now=NOW + 61, until=NOW + 121)
    assert not stranger, "it stays with what it was sent with"
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: begin(book, NOW + 61), range(8))) == 1


def test_an_authorization_gives_its_credit_once(book):
    assert begin(book)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: book.bought(AUTHORIZATION, "0xaa"), range(8)))
    assert book.credit(PAYER) == Credit(balance=100_000, bought=100_000)
    assert book.authorization(AUTHORIZATION) == Bought("0xaa", AUTHORIZATION.signature, INPUTS)
    book.abandon(AUTHORIZATION)  # too late: what is settled stays
    assert not begin(book, NOW + 1_000)


def test_what_the_chain_refused_may_be_tried_again(book):
    assert begin(book)
    book.abandon(AUTHORIZATION)
    assert begin(book)
    assert book.credit(PAYER) == Credit()


def test_an_undecided_reservation_is_free_for_the_next_at_once(book):
    assert begin(book)
    book.let_go(AUTHORIZATION)
    assert [found for found, _ in book.undecided(NOW)] == [AUTHORIZATION]
    assert begin(book)
    assert not begin(book)
    book.bought(AUTHORIZATION, "0xaa")
    book.let_go(AUTHORIZATION)
    assert book.undecided(NOW + 1_000) == []
    assert not begin(book, NOW + 1_000)


def test_credit_is_never_held_twice(book):
    bought(book, 5_500)

    def one(number):
        try:
            return hold(book, bytes([number]) * 32, 1_000)
        except CreditShort:
            return None

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(one, range(20)))
    assert outcomes.count(Payment.HELD) == 5
    assert book.credit(PAYER).available == 500


def test_one_payment_is_one_request(book):
    bought(book)
    assert hold(book, b"\1" * 32, 1_000) is Payment.HELD
    with pytest.raises(RequestInProgress):
        hold(book, b"\1" * 32, 1_000)
    book.charge(b"\1" * 32, 700, now=NOW)
    book.charge(b"\1" * 32, 700, now=NOW)
    assert book.charged(b"\1" * 32) == 700
    assert hold(book, b"\1" * 32, 1_000) is Payment.CHARGED
    assert book.credit(PAYER) == Credit(balance=99_300, bought=100_000)
    book.release(b"\1" * 32)
    assert book.credit(PAYER).available == 99_300


def test_a_failed_request_gives_its_credit_back_and_may_be_sent_again(book):
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    book.release(b"\1" * 32)
    book.release(b"\1" * 32)
    assert book.credit(PAYER).available == 100_000
    assert book.charge(b"\1" * 32, 1_000, now=NOW) is None
    assert book.credit(PAYER).balance == 100_000
    assert hold(book, b"\1" * 32, 1_000) is Payment.HELD


def test_what_a_crash_left_held_is_found(book):
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    assert book.lost(NOW + 59) == []
    assert book.lost(NOW + 61) == [b"\1" * 32]


def test_what_is_sent_again_before_it_is_closed_is_not_given_back(book):
    """Housekeeping of a process that has just started closes what the last one held, while its clients come back."""
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    book.inherit()
    assert book.lost(NOW) == [b"\1" * 32]
    assert hold(book, b"\1" * 32, 1_000) is Payment.HELD
    book.release(b"\1" * 32, lost_by=NOW)
    book.charge(b"\1" * 32, 700, now=NOW)
    assert book.charged(b"\1" * 32) == 700
    assert book.credit(PAYER) == Credit(balance=99_300, bought=100_000)


def test_what_nobody_sent_again_is_given_back(book):
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    book.inherit()
    book.release(b"\1" * 32, lost_by=NOW)
    assert book.credit(PAYER).available == 100_000


def test_a_new_process_inherits_what_the_last_one_held(book):
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    assert begin(book)
    book.inherit()
    assert book.lost(NOW) == [b"\1" * 32]
    assert hold(book, b"\1" * 32, 1_000) is Payment.HELD
    assert begin(book)
    assert not begin(book)


def test_a_refund_takes_what_is_free_once(book):
    bought(book)
    hold(book, b"\1" * 32, 1_000)
    with ThreadPoolExecutor(8) as pool:
        decided = set(pool.map(lambda _: book.begin_refund(b"\2" * 32, PAYER, now=NOW), range(8)))
    assert decided == {(99_000, "")}
    assert book.begin_refund(b"\3" * 32, PAYER, now=NOW) is None
    assert book.unsent_refunds() == [(b"\2" * 32, PAYER, 99_000)]
    book.refunded(b"\2" * 32, "0xbb")
    assert book.begin_refund(b"\2" * 32, PAYER, now=NOW) == (99_000, "0xbb")
    book.charge(b"\1" * 32, 1_000, now=NOW)
    assert book.credit(PAYER) == Credit(bought=100_000, refunded=99_000)


def payers_channel(charged=0, signed_max=0):
    config = ChannelConfig(PAYER, PAYER, b"\x0e" * 20, b"\x0e" * 20, b"\x0b" * 20, 900, b"\x0f" * 32)
    return PayerChannel(b"\xcc" * 32, config, charged=charged, signed_max=signed_max, signature=b"\1", balance=10_000)


def test_a_request_that_outlived_its_hold_takes_no_more_than_the_newest_voucher_allows(book):
    """A claim above the voucher is refused on chain together with every other claim of its transaction."""
    slow, quick, third = b"\1" * 32, b"\2" * 32, b"\3" * 32
    book.hold_channel(slow, payers_channel(signed_max=500), 500, now=NOW, until=UNTIL)
    book.hold_channel(quick, payers_channel(signed_max=10), 10, now=UNTIL + 1, until=UNTIL + 60)
    book.charge(quick, 10, now=UNTIL + 2)
    book.hold_channel(third, payers_channel(charged=10, signed_max=30), 20, now=UNTIL + 3, until=UNTIL + 60)
    book.charge(slow, 500, now=UNTIL + 4)
    channel = book.channel(b"\xcc" * 32)
    assert channel.charged == channel.signed_max == 30
    assert channel.busy_with == third, "only its own request sets a channel free"
    book.charge(third, 20, now=UNTIL + 5)
    assert [book.charged(request) for request in (slow, quick, third)] == [20, 10, 0]
    assert book.channel(b"\xcc" * 32).busy_with is None


def outcome_of(call):
    try:
        return call()
    except (RequestInProgress, ChannelOutOfStep) as refusal:
        return type(refusal)


def at_once(calls):
    """Run every call in a thread of its own, let loose together."""
    gate = threading.Barrier(len(calls))

    def one(call):
        gate.wait(10)
        return outcome_of(call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


@pytest.mark.parametrize("same_payment", [True, False])
def test_one_of_the_first_vouchers_of_a_channel_is_served(book, same_payment):
    """Nothing is there yet to lock: who comes second is told so, and never gets an error of the database."""

    def first(number):
        request_id = bytes([1 if same_payment else number]) * 32
        return lambda: book.hold_channel(request_id, payers_channel(signed_max=500), 500, now=NOW, until=UNTIL)

    outcomes = at_once([first(number) for number in range(8)])
    assert sorted(map(str, outcomes)) == sorted(map(str, [Payment.HELD] + [RequestInProgress] * 7))
    held = [request for request in (bytes([n]) * 32 for n in range(8)) if book.lost(UNTIL + 1) == [request]]
    assert held == [book.channel(b"\xcc" * 32).busy_with]


def test_one_payment_from_credit_sent_at_once_is_one_request(book):
    bought(book, 5_500)
    outcomes = at_once([lambda: hold(book, b"\1" * 32, 1_000)] * 8)
    assert sorted(map(str, outcomes)) == sorted(map(str, [Payment.HELD] + [RequestInProgress] * 7))
    assert book.credit(PAYER).held == 1_000


def test_two_first_packs_of_a_payer_are_both_credited(book):
    at_once([lambda: bought(book, 1_000)] * 8)
    assert book.credit(PAYER) == Credit(balance=8_000, bought=8_000)
