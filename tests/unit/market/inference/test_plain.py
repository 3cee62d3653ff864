"""What the short lane takes and what it leaves; that it serves alike is shown by the use case's own tests."""

import asyncio
from dataclasses import replace

import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.receipts import is_receipt_signed_by
from market.errors import DatabaseUnreachable, DeadlineExceeded, RequestInProgress, WorkerFailed
from tests.support.money import DOMAIN, GATEWAY, World
from tests.support.plain import put_lane_before


@pytest.fixture
async def world():
    made = World()
    put_lane_before(made)
    return made


async def test_it_takes_a_plain_request_once_the_channel_is_at_hand(world):
    await world.add_worker("w1")
    await world.service.infer(world.request())
    assert world.took == 0
    await world.service.infer(world.request())
    assert world.took == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"hedge": True},
        {"trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"voucher": None},
    ],
)
async def test_it_leaves_what_is_not_plain(world, changes):
    await world.add_worker("w1")
    await world.service.infer(world.request())
    await asyncio.gather(world.service.infer(world.request(**changes)), return_exceptions=True)
    assert world.took == 0


@pytest.mark.parametrize("changes", [{"request_id": b"\x01" * 32}, {"max_price": 10_000}, {"min_stake": 1}])
async def test_it_takes_requests_with_a_name_or_wishes(world, changes):
    await world.add_worker("w1")
    await world.service.infer(world.request())
    answer = await world.service.infer(world.request(**changes))
    assert world.took == 1
    assert changes.get("request_id") in (None, answer.request_id)


async def test_it_chooses_among_workers_and_leaves_one_that_hangs(world, monkeypatch):
    monkeypatch.setattr("market.inference.load.LEAST_PATIENCE_SECONDS", 0.05)
    first, second = await world.add_worker("w1"), await world.add_worker("w2", price=110)
    for _ in range(3):
        await world.service.infer(world.request())
    assert (first.served, second.served, world.took) == (3, 0, 2)
    first.gate = asyncio.Event()
    answer = await asyncio.wait_for(world.service.infer(world.request()), 3)
    assert (answer.charged, second.served, world.took) == (110, 1, 3)
    first.gate.set()
    account = await world.account()
    assert (account.charged, account.reserved) == (410, 0)


async def test_a_named_request_is_served_and_charged_once_however_often_it_comes(world):
    worker = await world.add_worker("w1", pause=0.01)
    await world.service.infer(world.request())
    name = b"\x01" * 32
    first, *others = await asyncio.gather(
        *(world.service.infer(world.request(request_id=name)) for _ in range(5)), return_exceptions=True
    )
    assert [type(other) for other in others] == [RequestInProgress] * 4
    again = await world.service.infer(world.request(request_id=name))
    assert (again.repeated, again.receipt, again.tensors[0].data) == (True, first.receipt, first.tensors[0].data)
    assert worker.served == 2
    assert (await world.account()).charged == 200


async def test_a_named_request_that_came_to_nothing_is_a_job_of_its_own_when_it_is_asked_again(world):
    worker = await world.add_worker("w1")
    await world.service.infer(world.request())
    name, seen = b"\x01" * 32, []

    def fail_at_first(job, result):
        seen.append(job.attempt)
        return replace(result, ok=False, code="execution-failed", retry=Retry.LATER) if len(seen) == 1 else result

    worker.tamper = fail_at_first
    with pytest.raises(WorkerFailed):
        await world.service.infer(world.request(request_id=name))
    assert (await world.service.infer(world.request(request_id=name))).charged == 100
    assert (len(set(seen)), world.took) == (2, 2)


async def test_a_name_that_another_process_was_charged_for_meanwhile_is_answered_from_the_ledger(world):
    worker = await world.add_worker("w1", pause=0.05)
    await world.service.infer(world.request())
    name = b"\x01" * 32
    late = asyncio.create_task(world.service.infer(world.request(request_id=name)))
    await asyncio.sleep(0.02)
    other = World()
    other.ledger = world.ledger
    other.join()
    await other.add_worker("w1")
    first = await other.service.infer(other.request(request_id=name))
    answer = await late
    assert (answer.repeated, answer.receipt) == (True, first.receipt)
    assert worker.served == 2
    await world.service.close()
    assert ((await world.account()).reserved, len(world.ledger.stored)) == (0, 2)


async def test_many_at_once_are_charged_once_each_under_one_signature(world):
    worker = await world.add_worker("w1", pause=0.005)
    await world.service.infer(world.request())
    answers = await asyncio.gather(*(world.service.infer(world.request()) for _ in range(30)))
    assert (world.took, worker.served) == (30, 31)
    assert len({answer.gateway_signature[:65] for answer in answers}) < 30
    for answer in answers:
        digest = answer.receipt.digest(DOMAIN)
        assert is_receipt_signed_by(digest, answer.gateway_signature, GATEWAY.address, DOMAIN)
    await world.service.close()
    account = await world.account()
    assert (account.charged, account.reserved) == (3_100, 0)
    assert world.service.timelines.find(answers[0].request_id).charged_at > 0


async def test_an_answer_waits_for_its_durable_charge_and_a_charge_that_fails_gives_the_money_back(world):
    await world.add_worker("w1")
    await world.service.infer(world.request())

    async def away(charge):
        raise DatabaseUnreachable

    record, world.ledger.record = world.ledger.record, away
    with pytest.raises(DatabaseUnreachable):
        await world.service.infer(world.request())
    world.ledger.record = record
    assert world.took == 1
    account = await world.account()
    assert (account.charged, account.reserved) == (100, 0)


async def test_late_for_its_reservation_it_is_not_charged(world):
    await world.add_worker("w1")
    await world.service.infer(world.request())
    clock = world.service.parts.clock
    object.__setattr__(world.service.parts, "clock", lambda: clock() + 1_000)
    with pytest.raises(DeadlineExceeded):
        await world.service.infer(world.request())
    assert (world.took, len(world.ledger.stored)) == (1, 1)


async def test_closing_waits_for_the_charge_of_a_client_that_left(world):
    await world.add_worker("w1")
    await world.service.infer(world.request())
    record, charging = world.ledger.record, asyncio.Event()

    async def slow(charge):
        charging.set()
        await asyncio.sleep(0.02)
        return await record(charge)

    world.ledger.record = slow
    left = asyncio.create_task(world.service.infer(world.request()))
    await charging.wait()
    left.cancel()
    await world.service.close()
    assert (await world.account()).charged == 200
