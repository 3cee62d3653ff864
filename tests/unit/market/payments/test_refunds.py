"""A signed refund and a paid request never share the same money."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from contracts.protocol.signing import is_signed_by
from contracts.protocol.typed_data import Refund
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.refund_promises import DatabaseRefundPromises
from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_reservations import MemoryReservations
from market.errors import (
    ChannelExiting,
    ChannelNotFound,
    RefundNotFree,
    RefundNotSigned,
    RefundOutOfStep,
    WrongGateway,
)
from market.payments.authorize import Authorizer
from market.payments.model import ChannelFacts
from market.payments.refunds import RefundDesk
from tests.support.money import CHANNEL, CHANNEL_ID, DOMAIN, GATEWAY, PAYER, SIGNER, channel_of, voucher


class World:
    """One channel of 1,000 and a gateway over it."""

    def __init__(self, engine, visible_after_seconds=0.0):
        self.chain = ChannelFacts(CHANNEL_ID, CHANNEL, deposited=1_000, settled=0, exiting=0)
        self.promises = DatabaseRefundPromises(engine)
        self.reservations = MemoryReservations(MemoryLedger())
        self.desk = RefundDesk(
            key=GATEWAY,
            domain=DOMAIN,
            channels=self,
            reservations=self.reservations,
            promises=self.promises,
            visible_after_seconds=visible_after_seconds,
        )
        self.authorizer = Authorizer(
            domain=DOMAIN, gateway=GATEWAY.address, channels=self, reservations=self.reservations, exposure_cap=10**9
        )

    def facts(self, channel_id):
        if channel_id != self.chain.channel_id:
            return None
        promised = self.promises.outstanding(channel_id, self.chain.refund_nonce)
        return replace(self.chain, exiting=self.chain.exiting + promised)

    async def ask(self, amount, *, nonce=0, key=SIGNER, channel_id=None):
        refund = Refund(channel_id or self.chain.channel_id, nonce, amount)
        signed = await self.desk.sign(refund, key.sign_digest(refund.digest(DOMAIN)))
        assert is_signed_by(refund.digest(DOMAIN), signed.signature, GATEWAY.address)
        return signed

    async def spend(self, price, request=1):
        return await self.authorizer.reserve(
            voucher(10**6),
            price=price,
            request_id=request.to_bytes(32, "big"),
            ttl_seconds=60,
            remember=False,
        )


@pytest.fixture
def engine(tmp_path):
    made = open_engine(f"sqlite:///{tmp_path}/market.db")
    upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def world(engine):
    return World(engine)


@pytest.mark.parametrize("key", [SIGNER, PAYER])
async def test_free_money_is_signed_away_and_can_be_spent_no_more(world, key):
    await world.ask(600, key=key)
    with pytest.raises(ChannelExiting):
        await world.spend(401)
    await world.spend(400)


async def test_money_set_aside_or_charged_is_not_free(world):
    held = await world.spend(300)
    with pytest.raises(RefundNotFree, match=r"0\.000700 \(700u\) is free"):
        await world.ask(701)
    await world.ask(700)
    await world.reservations.commit(held, 300)
    with pytest.raises(RefundNotFree):
        await world.ask(701)


async def test_asking_again_gives_the_same_and_never_more_than_is_free(world):
    assert (await world.ask(600)).signature == (await world.ask(600)).signature
    await world.ask(100)  # less: the higher one can still be submitted
    with pytest.raises(ChannelExiting):
        await world.spend(401)
    await world.ask(1_000)
    with pytest.raises(RefundNotFree):
        await world.ask(1_001)


async def test_a_refusal_promises_nothing(world):
    with pytest.raises(RefundNotFree):
        await world.ask(1_001)
    with pytest.raises(RefundNotFree):
        await world.ask(0)
    await world.spend(1_000)


async def test_what_the_chain_paid_frees_the_next_number(world):
    await world.ask(600)
    world.chain = replace(world.chain, deposited=400, refund_nonce=1)
    with pytest.raises(RefundOutOfStep):
        await world.ask(100, nonce=0)
    await world.spend(300)
    await world.ask(100, nonce=1)
    with pytest.raises(RefundNotFree):
        await world.ask(101, nonce=1)


async def test_money_on_its_way_out_by_an_exit_is_not_promised_too(world):
    world.chain = replace(world.chain, exiting=800)
    with pytest.raises(RefundNotFree, match=r"0\.000200 \(200u\) is free"):
        await world.ask(201)


async def test_strangers_and_strange_channels_are_refused(world):
    with pytest.raises(RefundNotSigned):
        await world.ask(10, key=GATEWAY)
    with pytest.raises(ChannelNotFound):
        await world.ask(10, channel_id=b"\x01" * 32)
    other = channel_of(gateway=b"\x09" * 20)
    world.chain = ChannelFacts(other.digest(DOMAIN), other, 1_000, 0, 0)
    with pytest.raises(WrongGateway):
        await world.ask(10)


async def test_what_another_process_set_aside_meanwhile_wins(engine):
    """Between promise and signature the others are given time to see it; what they took before counts."""
    world, other = World(engine, visible_after_seconds=0.5), World(engine)
    other.authorizer._reservations = world.reservations
    asked = asyncio.create_task(world.ask(800))
    while not world.promises.outstanding(CHANNEL_ID, 0):
        await asyncio.sleep(0.01)
    await other.spend(300)  # it has not seen the promise yet
    with pytest.raises(RefundNotFree):
        await asked
    assert DatabaseRefundPromises(engine).outstanding(CHANNEL_ID, 0) == 0
    await world.spend(700, request=2)


@pytest.mark.parametrize("amount", [490, 500])
async def test_a_promise_that_another_process_has_not_signed_yet_is_no_promise_to_sign(engine, amount):
    """It is taken back when that one finds the money set aside, and what was signed on it could be spent once more."""
    one, other = World(engine, visible_after_seconds=0.4), World(engine, visible_after_seconds=0.4)
    other.reservations = other.authorizer._reservations = other.desk._reservations = one.reservations
    third = World(engine)
    third.authorizer._reservations = one.reservations
    held = await one.spend(500)
    first = asyncio.create_task(one.ask(500))
    while not one.promises.outstanding(CHANNEL_ID, 0):
        await asyncio.sleep(0.01)
    other.promises.refresh()
    small = await third.spend(10, request=2)  # it has not seen the promise yet
    second = asyncio.create_task(other.ask(amount))
    with pytest.raises(RefundNotFree):
        await first
    await one.reservations.commit(held, 500)
    await one.reservations.commit(small, 510)
    signed = amount if not isinstance((await asyncio.gather(second, return_exceptions=True))[0], Exception) else 0
    one.promises.refresh()
    with contextlib.suppress(ChannelExiting):
        await one.spend(490, request=3)
    spent = (await one.reservations.account(CHANNEL_ID)).charged + (await one.reservations.account(CHANNEL_ID)).reserved
    assert spent + signed <= 1_000


async def test_a_refund_waits_for_no_other_channels(engine, monkeypatch):
    world = World(engine, visible_after_seconds=30)
    waiting = asyncio.create_task(world.ask(100))
    while not world.promises.outstanding(CHANNEL_ID, 0):
        await asyncio.sleep(0.01)
    monkeypatch.setattr(world.desk, "_visible_after_seconds", 0.0)
    other = replace(CHANNEL, salt=CHANNEL.salt + 1)
    world.chain = ChannelFacts(other.digest(DOMAIN), other, 1_000, 0, 0)
    async with asyncio.timeout(5):
        await world.ask(100)
    waiting.cancel()


async def test_a_promise_survives_a_restart(engine):
    await World(engine).ask(600)
    again = World(engine)
    with pytest.raises(ChannelExiting):
        await again.spend(401)


async def test_a_refund_while_a_request_waits_for_the_ledger_is_seen_by_it(engine):
    """The first request of a channel since the start reads its account; a refund may be signed in the meantime."""
    world, gate = World(engine), asyncio.Event()
    account = world.reservations._ledger.account

    async def slow(channel_id):
        found = await account(channel_id)
        if not gate.is_set():
            await gate.wait()
        return found

    world.reservations._ledger.account = slow
    spending = asyncio.create_task(world.spend(401))
    await asyncio.sleep(0)
    world.reservations._ledger.account = account
    await world.ask(600)
    gate.set()
    with pytest.raises(ChannelExiting):
        await spending
    assert (await world.reservations.account(CHANNEL_ID)).reserved == 0
    await world.spend(400, request=2)
