"""I11, I12, I13 off chain: the channel's money under any order of requests, expiries, crashes and lost state."""

import asyncio
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from market.adapters.database.engine import open_engine
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.memory_ledger import MemoryLedger
from market.errors import InsufficientVoucher, RequestInProgress, StaleVoucher
from market.payments.channels import REBUILD_SEQ_GAP, ChannelAccount
from market.payments.model import Reservation
from market.payments.ports import AlreadyCharged, DuplicateCharge, OverLimit
from tests.support.databases import empty_database
from tests.support.money import CHANNEL_ID, charge, claim

DEPOSIT = 1_000


def now_done(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


class ChannelMoney(RuleBasedStateMachine):
    """One gateway process and its ledger; a crash loses the reservations and the requests under way."""

    held = Bundle("held")

    done = staticmethod(now_done)

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.tokens = 0
        self.signed = 0
        self.ledger = self.open_ledger()
        self.account = ChannelAccount()
        self.alive: set[bytes] = set()

    def open_ledger(self):
        return MemoryLedger()

    def stored(self):
        return [one.receipt for one in self.ledger.stored.values()]

    @rule(
        target=held,
        price=st.integers(0, 300),
        ceiling=st.integers(0, 1_500),
        request=st.integers(1, 12),
        ttl=st.integers(1, 30),
        remember=st.booleans(),
    )
    def reserve(self, price, ceiling, request, ttl, remember):
        self.tokens += 1
        self.signed = max(self.signed, ceiling)
        before = self.account.view()
        wish = claim(
            price, ceiling, request=request, token=self.tokens, ttl_seconds=ttl, remember=remember, limit=DEPOSIT
        )
        try:
            made = self.account.reserve(wish, self.now)
        except (InsufficientVoucher, StaleVoucher) as error:
            refused_at = error.required
            return self.refused(refused_at > max(before.ceiling, ceiling))
        except (OverLimit, RequestInProgress, AlreadyCharged):
            return multiple()
        assert made.cumulative <= min(made.voucher_amount, DEPOSIT)
        self.alive.add(made.token)
        return made

    def refused(self, rightly):
        assert rightly
        return multiple()

    @rule(reservation=held, tell=st.booleans(), unserved=st.integers(0, 300))
    def charge(self, reservation: Reservation, tell, unserved):
        """Serve and charge, `unserved` less than was reserved; with `tell` False the process dies in between."""
        if reservation.token not in self.alive or self.now >= reservation.expires_at:
            return
        self.alive.discard(reservation.token)
        request = int.from_bytes(reservation.request_id, "big")
        price = max(0, reservation.price - unserved)
        made = charge(price, reservation.voucher_amount, request=request, seq=reservation.seq)
        try:
            recorded = self.done(self.ledger.record(made))
        except DuplicateCharge:
            self.account.release(reservation.request_id, reservation.token, self.now)
            return
        # ADR 12: what a receipt states was charged, whatever became of the others.
        assert reservation.cumulative - (reservation.price - price) <= recorded.charged
        if tell:
            assert self.account.commit(reservation.request_id, reservation.token, recorded.charged, self.now)
        else:
            self.crash()

    @rule(reservation=held)
    def release(self, reservation: Reservation):
        expected = reservation.token in self.alive and self.now < reservation.expires_at
        assert self.account.release(reservation.request_id, reservation.token, self.now) == expected
        self.alive.discard(reservation.token)

    @rule(reservation=held)
    def late_holder_changes_nothing(self, reservation: Reservation):
        if reservation.token in self.alive and self.now < reservation.expires_at:
            return
        before = self.account.view()
        assert not self.account.commit(reservation.request_id, reservation.token, 0, self.now)
        assert not self.account.release(reservation.request_id, reservation.token, self.now)
        self.account.expire(self.now)
        assert self.account.view().charged == before.charged

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def crash(self):
        self.alive.clear()
        self.account = ChannelAccount.rebuilt(self.done(self.ledger.account(CHANNEL_ID)), REBUILD_SEQ_GAP)

    @invariant()
    def never_more_than_promised(self):
        view = self.account.view()
        assert view.reserved >= 0
        assert view.charged + view.reserved <= min(max(view.ceiling, 0), DEPOSIT) or view.charged + view.reserved == 0
        assert view.ceiling <= self.signed

    @invariant()
    def ledger_adds_up(self):
        durable = self.done(self.ledger.account(CHANNEL_ID))
        stored = self.stored()
        charged = 0 if durable is None else durable.charged
        assert charged == sum(receipt.price for receipt in stored) <= min(self.signed, DEPOSIT)
        assert len({receipt.request_id for receipt in stored}) == len(stored)
        assert len({receipt.seq for receipt in stored}) == len(stored)
        # I11: every payee can add up its own receipts.
        assert self.done(self.ledger.earned(b"\x07" * 20)) == sum(receipt.worker_amount for receipt in stored)
        assert self.done(self.ledger.earned(b"\x08" * 20)) == sum(receipt.owner_amount for receipt in stored)

    @invariant()
    def process_knows_what_is_charged(self):
        durable = self.done(self.ledger.account(CHANNEL_ID))
        assert self.account.charged == (0 if durable is None else durable.charged)


class ChannelMoneyOnDisk(ChannelMoney):
    """The same over SQLite, which a crash closes and opens again."""

    def __init__(self):
        self.loop = asyncio.Runner()
        self.done = self.loop.run
        self.folder = tempfile.mkdtemp(prefix="channel-money-")
        self.path = shutil.copy(empty_database(), self.folder)
        super().__init__()

    def open_ledger(self):
        self.engine = open_engine(f"sqlite:///{self.path}")
        return DatabaseLedger(self.engine, charge(1, 1, request=1).receipt.gateway)

    def stored(self):
        return [one.receipt for one in self.done(self.ledger.receipts(CHANNEL_ID, limit=1_000))]

    def close(self):
        self.ledger.close()
        self.engine.dispose()

    @rule()
    def crash(self):
        self.close()
        self.ledger = self.open_ledger()
        super().crash()

    def teardown(self):
        self.close()
        self.loop.close()
        shutil.rmtree(self.folder)


ChannelMoney.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
ChannelMoneyOnDisk.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestChannelMoney = ChannelMoney.TestCase
TestChannelMoneyOnDisk = ChannelMoneyOnDisk.TestCase
