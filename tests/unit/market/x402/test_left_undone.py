"""What a process that died left behind is closed by the next: charged if it was served, given back if it was not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import structlog

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.x402_facilitator import claim_row
from market.adapters.x402_housekeeping import Housekeeping
from market.errors import ChainUnreachable
from market.payments.x402_channels import ChannelConfig, PayerChannel
from market.payments.x402_model import EXACT, Authorization
from market.payments.x402_ports import SettlementPending
from market.telemetry import CLAIMABLE_UNITS, MISSING_UNITS
from tests.unit.market.x402.payers import PACK, PRICE, TRANSACTION, Chain, Payer, desk_of

NOW = 1_000.0
HOUSE = b"\x02" * 32
PAYLOAD = '{"authorization": {"from": "0x", "value": "1"}}'


class Ledger:
    def __init__(self, *served):
        self.served = served

    async def receipt(self, request_id, channel_id=None):
        assert channel_id == HOUSE
        return SimpleNamespace(receipt=SimpleNamespace(price=PRICE)) if request_id in self.served else None


@pytest.fixture
def book(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    yield DatabaseBook(engine)
    engine.dispose()


def keeper(book, chain, *served, clock=lambda: NOW, **desk):
    house, ledger = SimpleNamespace(channel_id=HOUSE), Ledger(*served)
    return Housekeeping(
        desk_of(book, chain, **desk), house=house, ledger=ledger, claim_interval_seconds=300, clock=clock
    )


def reserved(book, nonce, until=NOW - 1):
    payer = Payer()
    authorization = Authorization(31_337, b"\x0b" * 20, payer.address, nonce * 32, PACK, b"\x0d" * 65)
    assert book.begin(authorization, PAYLOAD, bytes(32), now=NOW - 200, until=until)
    return authorization


async def test_what_was_served_is_charged_and_what_was_not_is_given_back(book):
    bought = reserved(book, b"\1")
    book.bought(bought, TRANSACTION)
    for name in (b"\1" * 32, b"\2" * 32, b"\3" * 32):
        book.hold_credit(name, bought.payer, EXACT, PRICE + 5, now=NOW - 200, until=NOW - 80)
    book.hold_credit(b"\4" * 32, bought.payer, EXACT, PRICE, now=NOW, until=NOW + 1)
    await keeper(book, Chain(), b"\1" * 32, b"\3" * 32).tidy()
    credit = book.credit(bought.payer)
    assert (credit.balance, credit.held) == (PACK - 2 * PRICE, PRICE)
    assert [book.charged(bytes([number]) * 32) for number in (1, 2, 3)] == [PRICE, None, PRICE]


async def test_what_ended_while_the_book_was_away_is_closed_when_it_is_back(book):
    bought = reserved(book, b"\1")
    book.bought(bought, TRANSACTION)
    for name in (b"\1" * 32, b"\2" * 32):
        book.hold_credit(name, bought.payer, EXACT, PRICE, now=NOW, until=NOW + 400)
    keeps = keeper(book, Chain(), b"\1" * 32)
    keeps._desk.unfinished.update({b"\1" * 32, b"\2" * 32})
    await keeps.tidy()
    credit = book.credit(bought.payer)
    assert (credit.balance, credit.held) == (PACK - PRICE, 0)
    assert keeps._desk.unfinished == set()


@pytest.mark.parametrize("fault", [SettlementPending(TRANSACTION), ChainUnreachable("away.")])
async def test_one_that_stays_undecided_holds_up_nobody(book, fault):
    authorizations = [reserved(book, b"\1"), reserved(book, b"\2")]
    chain = Chain()
    chain.faults["settle"] = [fault]
    await keeper(book, chain).tidy()
    assert sorted(book.credit(found.payer).bought for found in authorizations) == [0, PACK]
    await keeper(book, chain).tidy()
    assert [book.credit(found.payer).bought for found in authorizations] == [PACK, PACK]


async def test_a_refund_that_was_decided_is_sent(book):
    bought = reserved(book, b"\1")
    book.bought(bought, TRANSACTION)
    book.begin_refund(b"\5" * 32, bought.payer, now=NOW)
    chain = Chain()
    await keeper(book, chain).tidy()
    await keeper(book, chain).tidy()
    assert chain.count("pay") == 1
    assert book.unsent_refunds() == []


@pytest.mark.parametrize(
    ("charged", "signed", "balance", "least"), [(9, 10, 20, 9), (12, 10, 20, 10), (9, 10, 4, 4), (0, 0, 0, 0)]
)
def test_a_claim_asks_no_more_than_the_chain_lets_it(charged, signed, balance, least):
    """One row above the voucher or the balance would undo every other row of its transaction."""
    config = ChannelConfig(bytes(20), bytes(20), bytes(20), bytes(20), bytes(20), 900, bytes(32))
    channel = PayerChannel(bytes(32), config, charged=charged, signed_max=signed, signature=b"", balance=balance)
    assert channel.claimable == channel.owed == least
    assert claim_row(channel)["totalClaimed"] == str(least)


class Watched(Chain):
    """Looks are counted; a payer may have taken its rest out."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.balances = {}
        self.claimed = []

    def look(self, channel):
        self.seen.append(channel.channel_id)
        return replace(
            channel, balance=self.balances.get(channel.channel_id, channel.balance), synced_at=len(self.seen)
        )

    def claim(self, channels, least=1):
        self.claimed += [channel.channel_id for channel in channels if channel.owed >= least]
        return []


def owing(book, number, owed):
    config = ChannelConfig(number.to_bytes(20, "big"), *[bytes(20)] * 4, 900, bytes(32))
    channel = PayerChannel(number.to_bytes(32, "big"), config, signed_max=owed, signature=b"", balance=10 * PRICE)
    book.hold_channel(number.to_bytes(32, "little"), channel, owed, now=0, until=1)
    book.charge(number.to_bytes(32, "little"), owed, now=0)


async def test_channels_that_owe_too_little_for_a_claim_are_looked_at_in_turns(book):
    for number in range(1, 251):
        owing(book, number, PRICE - 1)
    owing(book, 251, PRICE)
    chain, now = Watched(), [NOW]
    keeps = keeper(book, chain, clock=lambda: now[0], least=PRICE)
    now[0] += 30
    await keeps.watch()
    assert chain.seen == [(251).to_bytes(32, "big")], "between claims only what is worth one"
    assert CLAIMABLE_UNITS._value.get() == 250 * (PRICE - 1) + PRICE
    for _ in range(3):
        now[0] += 300
        await keeps.watch()
    assert len(chain.seen) == 1 + 3 * (100 + 1)
    assert {int.from_bytes(one, "big") for one in chain.seen} == set(range(1, 252))
    assert set(chain.claimed) == {(251).to_bytes(32, "big")}


async def test_what_a_payer_took_out_before_it_was_claimed_is_said_once(book):
    owing(book, 7, PRICE - 1)
    chain, now, before = Watched(), [NOW], MISSING_UNITS._value.get()
    chain.balances[(7).to_bytes(32, "big")] = 400
    for turn in range(3):
        keeps = keeper(book, chain, clock=lambda: now[0], least=PRICE)
        now[0] += 300
        with structlog.testing.capture_logs() as logged:
            await keeps.watch()
        if turn == 0:
            assert logged[0] | {"event": "x402-taken-out-unclaimed", "units": PRICE - 1 - 400} == logged[0]
    assert MISSING_UNITS._value.get() == before + PRICE - 1 - 400
