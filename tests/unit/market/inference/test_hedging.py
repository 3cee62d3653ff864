"""Requests that allow a second worker to be asked when the first is late: one answer, one charge, no blame."""

import asyncio

import pytest

from market.errors import InsufficientVoucher
from market.inference import load
from market.inference.hedging import LEAST_SAMPLES
from tests.support.money import CHANNEL_ID, World
from tests.unit.market.inference.test_failover import forge, refuse


async def stalled(*, dear: int = 100, warm: int = LEAST_SAMPLES):
    """A first choice that answered until now and then stalls, and a second one."""
    world = World()
    first = await world.add_worker("w1", price=50)
    for _ in range(warm):
        await world.service.infer(world.request(pay=50 * warm))
    second = await world.add_worker("w2", price=dear)
    first.gate = asyncio.Event()
    return world, first, second


async def test_a_late_worker_is_overtaken_and_only_the_one_that_answers_is_paid():
    world, first, second = await stalled()
    before = (await world.account()).charged
    answer = await asyncio.wait_for(world.service.infer(world.request(hedge=True)), 2)
    assert answer.receipt.worker == second.key.address
    assert (answer.charged, answer.receipt.price) == (100, 100)
    first.gate.set()
    await asyncio.sleep(0.01)
    account = await world.account()
    assert account.charged == before + 100
    assert account.reserved == 0
    assert first.served == LEAST_SAMPLES + 1, "it did answer, too late"
    stored = await world.ledger.answer(CHANNEL_ID, answer.request_id)
    assert stored.stored.receipt.worker == second.key.address
    # Being overtaken is no fault.
    assert world.service._attempts._load.reliability(first.key.address) == 1.0
    assert world.service._attempts._load.in_flight(first.key.address) == 0


async def test_the_first_one_is_paid_its_own_price_although_more_was_set_aside():
    world, first, second = await stalled()
    first.gate = None
    before = (await world.account()).charged
    answer = await world.service.infer(world.request(hedge=True))
    assert answer.receipt.worker == first.key.address
    assert second.served == 0
    account = await world.account()
    assert (account.charged - before, account.reserved) == (50, 0)
    assert answer.receipt.cumulative == account.charged


async def test_the_dearer_of_the_two_prices_must_be_covered():
    world, *_ = await stalled()
    charged = (await world.account()).charged
    with pytest.raises(InsufficientVoucher) as refused:
        await world.service.infer(world.request(pay=charged + 99, hedge=True))
    assert refused.value.required == charged + 100


async def test_without_the_wish_nobody_else_is_asked():
    world, first, second = await stalled()
    task = asyncio.create_task(world.service.infer(world.request()))
    await asyncio.sleep(0.05)
    assert (first.served, second.served) == (LEAST_SAMPLES + 1, 0)
    first.gate.set()
    assert (await task).charged == 50


async def test_a_worker_of_which_too_little_is_known_is_not_overtaken():
    world, first, second = await stalled(warm=LEAST_SAMPLES - 1)
    task = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    await asyncio.sleep(0.05)
    assert second.served == 0
    first.gate.set()
    assert (await task).receipt.worker == first.key.address


async def test_no_more_than_the_share_is_asked_twice():
    world, first, second = await stalled()
    world.service._hedges._credit, world.service._hedges._share = 0.0, 0.5
    world.service._hedges._delay_seconds = lambda live: 0.01
    waiting = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    await asyncio.sleep(0.05)
    assert second.served == 0
    answer = await asyncio.wait_for(world.service.infer(world.request(hedge=True)), 2)
    assert answer.receipt.worker == second.key.address
    first.gate.set()
    assert (await waiting).receipt.worker == first.key.address


async def test_a_limit_of_the_request_holds_for_both():
    world, first, second = await stalled()
    task = asyncio.create_task(world.service.infer(world.request(hedge=True, max_price=99)))
    await asyncio.sleep(0.05)
    assert second.served == 0
    first.gate.set()
    assert (await task).charged == 50


async def test_a_second_worker_without_room_is_left_alone():
    world, first, second = await stalled()
    busy = 8
    for _ in range(busy):
        world.service._attempts._load.begin(second.key.address)
    task = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    await asyncio.sleep(0.05)
    assert second.served == 0
    first.gate.set()
    assert (await task).charged == 50


async def test_if_one_of_the_two_fails_the_other_is_waited_for():
    world, first, second = await stalled()
    second.tamper = forge
    task = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    while not second.served:
        await asyncio.sleep(0.005)
    first.gate.set()
    assert (await task).receipt.worker == first.key.address
    assert len(world.ledger.evidence) == 1


async def test_if_both_fail_a_third_is_asked():
    world, first, second = await stalled()
    first.tamper = second.tamper = refuse
    third = await world.add_worker("w3", price=200)
    task = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    while not second.served:
        await asyncio.sleep(0.005)
    first.gate.set()
    answer = await task
    assert (answer.receipt.worker, answer.charged) == (third.key.address, 200)
    assert (await world.account()).reserved == 0


async def test_one_that_hangs_is_found_although_it_was_overtaken(monkeypatch):
    monkeypatch.setattr(load, "LEAST_PATIENCE_SECONDS", 0.05)
    world, first, _ = await stalled()
    await world.service.infer(world.request(hedge=True))
    async with asyncio.timeout(30):
        while world.service._attempts._load.reliability(first.key.address) == 1.0:
            await asyncio.sleep(0.01)
    assert world.service._attempts._load.in_flight(first.key.address) == 0


async def test_a_client_that_leaves_calls_both_off_and_pays_nothing():
    world, first, second = await stalled()
    second.gate = asyncio.Event()
    before = (await world.account()).charged
    task = asyncio.create_task(world.service.infer(world.request(hedge=True)))
    while not second.served:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.service.close()
    account = await world.account()
    assert (account.charged, account.reserved) == (before, 0)
    assert world.service._attempts._load.in_flight(first.key.address) == 0
    assert world.service._attempts._load.in_flight(second.key.address) == 0
