"""Promised refunds: durable, seen by other processes after a refresh, and never lower than what was signed."""

import pytest
from alembic import command

from market.adapters.database.refund_promises import DatabaseRefundPromises
from tests.conformance.test_settlement_book import _migrate

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


def test_what_is_signed_is_never_taken_back(engine):
    """Another process, whose own promise under the number came to nothing, must not free what this one signed."""
    one, other = DatabaseRefundPromises(engine), DatabaseRefundPromises(engine)
    one.keep(CHANNEL, 0, 500)
    other.keep(CHANNEL, 0, 500)
    assert other.sign(CHANNEL, 0, 490)
    assert (other.signed(CHANNEL, 0), other.signed(CHANNEL, 1), one.signed(CHANNEL, 0)) == (490, 0, 0)
    one.take_back(CHANNEL, 0, 0)
    assert (one.outstanding(CHANNEL, 0), one.signed(CHANNEL, 0)) == (490, 490)
    assert one.sign(CHANNEL, 0, 100)
    assert one.signed(CHANNEL, 0) == 490
    assert not one.sign(CHANNEL, 0, 491)
    assert not one.sign(OTHER, 0, 1)
    assert DatabaseRefundPromises(engine).signed(CHANNEL, 0) == 490


def test_what_was_promised_before_it_was_told_counts_as_signed(engine):
    DatabaseRefundPromises(engine).keep(CHANNEL, 2, 70)
    _migrate(engine, command.downgrade, "0009")
    _migrate(engine, command.upgrade, "head")
    assert DatabaseRefundPromises(engine).signed(CHANNEL, 2) == 70


@pytest.mark.parametrize("before", [0, 200])
def test_an_unsigned_promise_is_taken_back(engine, before):
    promises = DatabaseRefundPromises(engine)
    if before:
        promises.keep(CHANNEL, 0, before)
    promises.keep(CHANNEL, 0, 500)
    promises.take_back(CHANNEL, 0, before)
    assert promises.outstanding(CHANNEL, 0) == DatabaseRefundPromises(engine).outstanding(CHANNEL, 0) == before
