from market.payments.channels import REBUILD_SEQ_GAP, ChannelAccount, seq_gap
from market.payments.model import Account
from tests.support.money import claim


def test_expiries_do_not_pile_up_and_a_channel_at_rest_keeps_none():
    account = ChannelAccount()
    open_still = account.reserve(claim(1, 10**6, request=2_000), now=0.0)
    for i in range(1, 2_000):
        held = account.reserve(claim(1, 10**6, request=i), now=0.0)
        account.commit(held.request_id, held.token, i, now=0.0)
    assert list(account.holds) == [open_still.request_id]
    assert 1 <= len(account._expiries) <= 67
    account.release(open_still.request_id, open_still.token, now=0.0)
    assert (account.holds, account._expiries) == ({}, [])


def test_a_name_that_is_remembered_is_forgotten_at_its_time_and_leaves_nothing():
    account = ChannelAccount()
    held = account.reserve(claim(1, 10, request=1, ttl_seconds=10, remember=True), now=0.0)
    account.commit(held.request_id, held.token, 1, now=1.0)
    assert list(account.holds) == [held.request_id]
    account.expire(11.0)
    assert (account.holds, account._expiries, account.view().charged) == ({}, [], 1)


def test_released_and_reserved_again_expires_at_its_own_time():
    account = ChannelAccount()
    first = account.reserve(claim(1, 10, request=1, ttl_seconds=10), now=0.0)
    account.release(first.request_id, first.token, now=1.0)
    account.reserve(claim(1, 10, request=1, token=2, ttl_seconds=20), now=1.0)
    account.expire(15.0)
    assert account.view().reserved == 1
    account.expire(21.0)
    assert account.view().reserved == 0


def test_rebuilt_numbers_start_beyond_those_in_flight():
    assert ChannelAccount.rebuilt(None, 5).view() == Account(last_seq=5)
    assert ChannelAccount.rebuilt(Account(5, 3, 9, b"s", 7), 5).view() == Account(5, 0, 9, b"s", 12)


def test_no_number_is_given_twice_however_often_the_state_is_lost_between_charges():
    gaps = {seq_gap() for _ in range(100)}
    assert len(gaps) == 100
    assert min(gaps) >= REBUILD_SEQ_GAP
