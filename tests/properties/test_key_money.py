"""API keys of one channel under any order of requests, crashes and revocations: no key passes its limit, all adds up."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from market.adapters.memory_ledger import MemoryLedger
from market.errors import InsufficientVoucher, KeyLimit, RequestInProgress, StaleVoucher
from market.payments.channels import REBUILD_SEQ_GAP, ChannelAccount, KeyTotal
from market.payments.model import KeySpending, Reservation
from market.payments.ports import AlreadyCharged, DuplicateCharge
from tests.properties.test_channel_money import now_done
from tests.support.money import CHANNEL_ID, charge, claim

KEYS = [KeySpending(bytes([n]) * 32, limit) for n, limit in ((1, 100), (2, 350), (3, 1_000))]
VOUCHER = 1_200


class KeyMoney(RuleBasedStateMachine):
    """Two processes with reservations of their own, which a lost Redis makes of one, and the ledger between them."""

    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.tokens = 0
        self.ledger = MemoryLedger()
        self.accounts = [ChannelAccount(), ChannelAccount()]
        self.by_key: dict[bytes, int] = {}
        self.by_owner = 0

    def account(self, process, key):
        account = self.accounts[process]
        if key is not None and key.key_hash not in account.keys:
            account.keys[key.key_hash] = KeyTotal(now_done(self.ledger.key_spent(key.key_hash)))
        return account

    @rule(
        target=held,
        process=st.integers(0, 1),
        key=st.sampled_from([None, *KEYS]),
        price=st.integers(0, 120),
        request=st.integers(1, 30),
        ttl=st.integers(1, 30),
        remember=st.booleans(),
    )
    def reserve(self, process, key, price, request, ttl, remember):
        self.tokens += 1
        wish = claim(price, VOUCHER, request=request, token=self.tokens, ttl_seconds=ttl, remember=remember, key=key)
        account = self.account(process, key)
        before = None if key is None else replace(account.keys[key.key_hash])
        try:
            made = account.reserve(wish, self.now)
        except KeyLimit:
            assert before.spent + before.reserved + price > key.limit
            return multiple()
        except (InsufficientVoucher, StaleVoucher, RequestInProgress, AlreadyCharged):
            return multiple()
        return process, made

    @rule(one=held, unserved=st.integers(0, 120), tell=st.booleans())
    def charge(self, one, unserved, tell):
        """Serve and charge what was set aside or less, as metered prices do; with `tell` False the process dies."""
        process, reservation = one
        price = max(0, reservation.price - unserved)
        request = int.from_bytes(reservation.request_id, "big")
        made = replace(charge(price, VOUCHER, request=request, seq=reservation.seq), key=reservation.key)
        try:
            recorded = now_done(self.ledger.record(made))
        except (DuplicateCharge, KeyLimit, InsufficientVoucher):
            self.release(one)
            return
        if reservation.key is None:
            self.by_owner += price
        else:
            name = reservation.key.key_hash
            self.by_key[name] = self.by_key.get(name, 0) + price
            assert recorded.key_spent == self.by_key[name]
        if not tell:
            self.crash(process)
            return
        name = None if reservation.key is None else reservation.key.key_hash
        self.accounts[process].commit(
            reservation.request_id,
            reservation.token,
            recorded.charged,
            self.now,
            key=name,
            key_spent=recorded.key_spent,
        )

    @rule(one=held)
    def release(self, one: tuple[int, Reservation]):
        process, reservation = one
        self.accounts[process].release(reservation.request_id, reservation.token, self.now)

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds):
        self.now += seconds
        for account in self.accounts:
            account.expire(self.now)

    @rule(process=st.integers(0, 1))
    def crash(self, process):
        self.accounts[process] = ChannelAccount.rebuilt(now_done(self.ledger.account(CHANNEL_ID)), REBUILD_SEQ_GAP)

    @invariant()
    def no_key_passes_its_limit(self):
        for key in KEYS:
            assert now_done(self.ledger.key_spent(key.key_hash)) == self.by_key.get(key.key_hash, 0) <= key.limit
            for account in self.accounts:
                total = account.keys.get(key.key_hash, KeyTotal())
                assert total.reserved >= 0
                assert total.spent + total.reserved <= key.limit or total.reserved > 0

    @invariant()
    def what_a_process_set_aside_adds_up(self):
        for account in self.accounts:
            for name, total in account.keys.items():
                assert total.reserved == sum(h.price or 0 for h in account.holds.values() if h.key_hash == name)
            assert account.reserved == sum(hold.price or 0 for hold in account.holds.values())

    @invariant()
    def keys_and_owner_together_are_what_the_channel_was_charged(self):
        durable = now_done(self.ledger.account(CHANNEL_ID))
        charged = 0 if durable is None else durable.charged
        assert charged == sum(self.by_key.values()) + self.by_owner <= VOUCHER
        assert charged == sum(one.receipt.price for one in self.ledger.stored.values())


KeyMoney.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestKeyMoney = KeyMoney.TestCase
