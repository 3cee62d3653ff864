"""Promised refunds: durable, seen by other processes after a refresh, and never lower than what was signed."""

import pytest

from market.adapters.database.refund_promises import DatabaseRefundPromises

CHANNEL, OTHER = b"\x0c" * 32, b"\x0d" * 32


def test_the_higher_promise_of_one_number_stays(engine):
    promises = DatabaseRefundPromises(engine)
    assert promises.outstanding(CHANNEL, 0) == 0
    promises.keep(CHANNEL, 0, 500)
    promises.keep(CHANNEL, 0, 300)
    assert promises.outstanding(CHANNEL, 0) == 500
    assert promises.outstanding(OTHER, 0) == 0


def test_what_the_chain_paid_is_promised_no_more(engine):
    promises = DatabaseRefundPromises(engine)
    promises.keep(CHANNEL, 0, 500)
    assert promises.outstanding(CHANNEL, 1) == 0
    promises.keep(CHANNEL, 1, 20)
    assert promises.outstanding(CHANNEL, 1) == 20


def test_it_outlives_the_process_and_reaches_others(engine):
    one, other = DatabaseRefundPromises(engine), DatabaseRefundPromises(engine)
    one.keep(CHANNEL, 3, 500)
    assert other.outstanding(CHANNEL, 3) == 0
    other.refresh()
    assert other.outstanding(CHANNEL, 3) == DatabaseRefundPromises(engine).outstanding(CHANNEL, 3) == 500


@pytest.mark.parametrize("before", [0, 200])
def test_an_unsigned_promise_is_taken_back(engine, before):
    promises = DatabaseRefundPromises(engine)
    if before:
        promises.keep(CHANNEL, 0, before)
    promises.keep(CHANNEL, 0, 500)
    promises.take_back(CHANNEL, 0, before)
    assert promises.outstanding(CHANNEL, 0) == DatabaseRefundPromises(engine).outstanding(CHANNEL, 0) == before
