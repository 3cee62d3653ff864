"""What becomes of requests when workers hang, fail again and again, fill up or do not fit the request's limits."""

import asyncio
from dataclasses import replace

import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.messages import Result
from market.errors import (
    DeadlineExceeded,
    NoCapacity,
    OutOfMemory,
    OutOfTime,
    Overloaded,
    PriceAboveLimit,
    ReceiptMismatch,
    WorkerFailed,
)
from market.inference import load
from market.inference.breaker import FIRST_PAUSE_SECONDS, THRESHOLD
from tests.support.money import World

pytestmark = pytest.mark.usefixtures("either_lane")


def refuse(job, result):
    return Result(job.request_id, job.attempt, ok=False, code="model-not-loaded", detail="", retry=Retry.OTHER_WORKER)


def no_room(job, result):
    return Result(job.request_id, job.attempt, ok=False, code="crowded-out", detail="full", retry=Retry.OTHER_WORKER)


def forge(job, result):
    return replace(result, output_hash=b"\x01" * 32)


def stopped_clock(world):
    """Let circuits tell the time by a clock that the test moves."""
    now = [1000.0]
    world.service._attempts._breakers._clock = world.service._attempts._clock = lambda: now[0]
    return now


async def test_a_worker_that_hangs_is_not_waited_for_and_is_not_paid(monkeypatch):
    monkeypatch.setattr(load, "LEAST_PATIENCE_SECONDS", 0.05)
    world = World()
    hung = await world.add_worker("w1", price=50)
    await world.service.infer(world.request())
    other = await world.add_worker("w2", price=100)
    hung.gate = asyncio.Event()
    answer = await world.service.infer(world.request())
    assert answer.receipt.worker == other.key.address
    hung.gate.set()
    await world.service.close()
    assert (await world.account()).charged == 50 + 100
    assert (await world.account()).reserved == 0


async def test_alone_it_is_waited_for_until_the_deadline(monkeypatch):
    monkeypatch.setattr(load, "LEAST_PATIENCE_SECONDS", 0.01)
    world = World()
    slow = await world.add_worker("w1")
    await world.service.infer(world.request())
    slow.pause = 0.3
    assert (await world.service.infer(world.request())).charged == 100


async def test_one_that_fails_in_a_row_rests_and_is_probed(monkeypatch):
    world = World()
    now = stopped_clock(world)
    bad = await world.add_worker("w1", price=10, tamper=refuse)
    good = await world.add_worker("w2", price=20)
    for _ in range(THRESHOLD + 5):
        assert (await world.service.infer(world.request())).receipt.worker == good.key.address
    assert bad.served == THRESHOLD
    now[0] += FIRST_PAUSE_SECONDS
    await world.service.infer(world.request())
    assert bad.served == THRESHOLD + 1
    bad.tamper = None
    now[0] += 2 * FIRST_PAUSE_SECONDS
    assert (await world.service.infer(world.request())).receipt.worker == bad.key.address


async def test_the_only_worker_is_asked_at_once_when_it_was_started_anew():
    world = World()
    now = stopped_clock(world)
    worker = await world.add_worker("w1", tamper=refuse)
    for pause in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):  # the last one begins a minute's rest
        now[0] += pause
        for _ in range(1 if pause else THRESHOLD):
            with pytest.raises(WorkerFailed):
                await world.service.infer(world.request())
    with pytest.raises(NoCapacity):
        await world.service.infer(world.request())
    worker.tamper = None
    await world.start_anew(worker)
    assert [(await world.service.infer(world.request())).charged for _ in range(3)] == [100] * 3


async def test_one_that_fails_after_each_start_is_asked_once_a_minute_for_it():
    world = World()
    now = stopped_clock(world)
    bad = await world.add_worker("w1", price=10, tamper=refuse)
    good = await world.add_worker("w2", price=20)
    for _ in range(600):  # ten minutes, a start each second
        assert (await world.service.infer(world.request())).receipt.worker == good.key.address
        now[0] += 1.0
        await world.start_anew(bad)
    by_itself = 6 + 10  # pauses of 1, 2, 4, 8, 16 and 32 seconds, then of a minute
    assert bad.served <= THRESHOLD + by_itself + 10


async def test_a_start_frees_no_liar():
    world = World()
    now = stopped_clock(world)
    liar = await world.add_worker("w1", tamper=forge)
    with pytest.raises(ReceiptMismatch):
        await world.service.infer(world.request())
    for _ in range(5):
        await world.start_anew(liar)
        with pytest.raises(NoCapacity):
            await world.service.infer(world.request())
    assert liar.served == 1
    now[0] += FIRST_PAUSE_SECONDS
    with pytest.raises(ReceiptMismatch):
        await world.service.infer(world.request())


async def test_good_answers_that_were_under_way_do_not_clear_a_liar():
    world = World()
    liar = await world.add_worker("w1", price=10)
    gate = liar.gate = asyncio.Event()
    honest = [asyncio.create_task(world.service.infer(world.request())) for _ in range(4)]
    while liar.served < 4:
        await asyncio.sleep(0.001)
    liar.gate, liar.tamper = None, forge
    with pytest.raises(ReceiptMismatch):
        await world.service.infer(world.request())
    liar.tamper = None
    gate.set()
    assert {answer.charged for answer in await asyncio.gather(*honest)} == {10}
    with pytest.raises(NoCapacity):
        await world.service.infer(world.request())


async def test_who_must_not_sign_a_second_answer_is_not_to_blame():
    """Else a client could close a worker for others by asking again and again."""
    world = World()
    worker = await world.add_worker("w1")
    worker.tamper = lambda job, result: replace(refuse(job, result), code="answered-otherwise")
    for _ in range(2 * THRESHOLD):
        with pytest.raises(WorkerFailed):
            await world.service.infer(world.request())
    worker.tamper = None
    assert (await world.service.infer(world.request())).charged == 100
    assert world.service._attempts._load.reliability(worker.key.address) == 1.0


def too_large(code: str):
    def refuse_it(job, result):
        return Result(job.request_id, job.attempt, ok=False, code=code, detail="too much.", retry=Retry.OTHER_WORKER)

    return refuse_it


@pytest.mark.parametrize("code", ["out-of-time", "out-of-memory"])
async def test_what_is_too_large_for_a_worker_does_not_close_it_for_others(code):
    world = World()
    worker = await world.add_worker("w1")
    await world.service.infer(world.request())
    worker.tamper = too_large(code)
    kind = OutOfTime if code == "out-of-time" else OutOfMemory
    for _ in range(2 * THRESHOLD):
        with pytest.raises(kind) as refused:
            await world.service.infer(world.request(rows=64))
        assert "too much." in refused.value.detail
    worker.tamper = None
    assert (await world.service.infer(world.request())).charged == 100
    assert world.service._attempts._load.reliability(worker.key.address) == 1.0
    assert world.service._attempts._activity.performance(worker=worker.key.address).success_rate == 1.0


@pytest.mark.parametrize("code", ["out-of-time", "out-of-memory"])
async def test_who_calls_everything_too_large_rests(code):
    world = World()
    await world.add_worker("w1", tamper=too_large(code))
    for _ in range(THRESHOLD):
        with pytest.raises((DeadlineExceeded, WorkerFailed)):
            await world.service.infer(world.request())
    with pytest.raises(NoCapacity):
        await world.service.infer(world.request())


async def test_another_may_be_fast_enough():
    world = World()
    slow = await world.add_worker("w1", price=10)
    fast = await world.add_worker("w2", price=20)
    await world.service.infer(world.request())
    slow.tamper = too_large("out-of-time")
    assert (await world.service.infer(world.request(rows=8))).receipt.worker == fast.key.address


async def test_lateness_counts_for_sizes_that_were_answered_and_for_no_larger():
    world = World(timeout=0.5)
    worker = await world.add_worker("w1")
    await world.service.infer(world.request(rows=8))
    worker.pause = 1.0

    async def late(rows, count):
        asked = [world.service.infer(world.request(rows=rows)) for _ in range(count)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}

    await late(64, 2 * THRESHOLD)
    await late(8, THRESHOLD)
    with pytest.raises(NoCapacity):
        await world.service.infer(world.request())


async def test_who_had_no_time_left_for_a_job_is_not_to_blame():
    world = World()
    worker = await world.add_worker("w1")
    worker.tamper = lambda job, result: replace(too_large("job-too-late")(job, result), retry=Retry.NEVER)
    for _ in range(2 * THRESHOLD):
        with pytest.raises(DeadlineExceeded):
            await world.service.infer(world.request())
    worker.tamper = None
    assert (await world.service.infer(world.request())).charged == 100


async def test_one_answer_its_signature_does_not_cover_is_enough():
    world = World()
    liar = await world.add_worker("w1", price=10, tamper=forge)
    with pytest.raises(ReceiptMismatch):
        await world.service.infer(world.request())
    with pytest.raises(NoCapacity) as refused:
        await world.service.infer(world.request())
    assert "fail of late" in refused.value.detail
    assert liar.served == 1


async def test_inputs_that_no_worker_can_run_open_no_circuit():
    world = World()
    worker = await world.add_worker("w1")
    worker.tamper = lambda job, result: Result(
        job.request_id, job.attempt, ok=False, code="execution-failed", detail="", retry=Retry.NEVER
    )
    for _ in range(THRESHOLD + 1):
        with pytest.raises(WorkerFailed):
            await world.service.infer(world.request())
    worker.tamper = None
    assert (await world.service.infer(world.request())).charged == 100


async def test_no_room_speaks_for_nobodys_failing():
    world = World()
    full = await world.add_worker("w1", tamper=no_room)
    for _ in range(THRESHOLD + 1):
        with pytest.raises(Overloaded):
            await world.service.infer(world.request())
    assert full.served == THRESHOLD + 1


async def test_more_than_is_answered_in_time_is_refused_before_it_waits():
    world = World()
    worker = await world.add_worker("w1", pause=0.2)
    await world.service.infer(world.request())  # 5 a second; the rest waits at the gate
    worker.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.service.infer(world.request())) for _ in range(16)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded) as refused:
        await world.service.infer(world.request())
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert worker.served == 17
    worker.gate.set()
    await asyncio.gather(*waiting)
    assert (await world.service.infer(world.request())).charged == 100


async def test_who_has_much_waiting_does_not_lock_the_others_out():
    world = World()
    worker = await world.add_worker("w1", pause=0.2)
    await world.service.infer(world.request())  # 5 a second
    worker.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.service.infer(world.request())) for _ in range(16)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await world.service.infer(world.request())
    let_in = 0
    while not waiting[-1].done():
        let_in += 1
        waiting.append(asyncio.create_task(world.service.infer(world.request(payer=bytes([let_in]) * 20))))
        await asyncio.sleep(0.01)
    assert 2 < let_in <= 5, "until twice the time is waiting: that is the end for everybody"
    worker.gate.set()
    *answered, refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(refused, Overloaded)
    assert {answer.charged for answer in answered} == {100}


async def test_two_batches_may_always_wait():
    world = World()
    worker = await world.add_worker("w1", pause=0.5)
    await world.service.infer(world.request())
    answers = await asyncio.gather(*(world.service.infer(world.request()) for _ in range(15)))
    assert len(answers) == 15
    assert worker.served == 16


async def test_region_and_stake_limit_who_serves():
    world = World()
    cheap = await world.add_worker("w1", price=10)
    dear = await world.add_worker("w2", price=20)
    records = world.registry.records
    records[cheap.key.address] = replace(records[cheap.key.address], region="us", stake=5)
    records[dear.key.address] = replace(records[dear.key.address], region="eu-west", stake=50)
    await world.offers.refresh()

    async def served_by(**limits):
        return (await world.service.infer(world.request(**limits))).receipt.worker

    assert await served_by() == cheap.key.address
    assert await served_by(region="EU") == dear.key.address
    assert await served_by(min_stake=6) == dear.key.address
    with pytest.raises(NoCapacity) as refused:
        await served_by(region="as", min_stake=7)
    assert "'as'" in refused.value.detail
    assert "stake of 0.000007 (7u)" in refused.value.detail
    with pytest.raises(PriceAboveLimit):
        await served_by(region="eu", max_price=19)
