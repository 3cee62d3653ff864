"""Both lanes to the workers, by the same tests, against a real Redis and a real Celery worker process."""

import asyncio
import secrets
import subprocess
import sys

import pytest
import redis as sync_redis

from contracts.protocol.messages import INLINE_LIMIT_BYTES, Result, encode_results, worker_queue
from market.adapters import packing
from market.adapters.packing import LEAST_SHARED, MAX_WAITING, PackingDispatcher
from market.errors import DeadlineExceeded, Overloaded
from market.inference.papers import DUE_SECONDS
from market.inference.ports import WorkerGone
from tests.conformance.test_celery_dispatch import ROOT, Lane, job
from tests.support.linked import NOBODY_KEY, WORKER_KEY, LinkedLane

pytestmark = pytest.mark.integration
WORKER, NOBODY = WORKER_KEY.address, NOBODY_KEY.address


@pytest.fixture(scope="module")
def celery_worker(redis_url):
    process = subprocess.Popen([sys.executable, "-m", "tests.support.queue_worker", redis_url, WORKER.hex()], cwd=ROOT)
    yield process
    process.terminate()
    process.wait(20)


@pytest.fixture(params=["own", "link"])
async def lane(request, redis_url):
    made = Lane(redis_url) if request.param == "own" else LinkedLane(redis_url)
    if isinstance(made, LinkedLane):
        await made.start()
    yield made
    await made.close()


@pytest.fixture
def plain(redis_url):
    with sync_redis.Redis.from_url(redis_url) as client:
        client.delete("noted", "note")
        yield client


async def run(lane, worker: bytes = WORKER, **changes) -> Result:
    return await lane.dispatcher.run(job(lane.dispatcher.reply_to, **changes), worker)


async def test_a_real_celery_worker_answers(lane, celery_worker):
    result = await run(lane, seconds=30)
    assert result.ok
    assert result.outputs == b"input"


async def test_many_at_once_share_messages(lane, celery_worker, plain):
    await run(lane, seconds=30)
    plain.delete("packs")
    results = await asyncio.gather(*(run(lane, inputs=bytes([i])) for i in range(100)))
    assert [result.outputs for result in results] == [bytes([i]) for i in range(100)]
    packs = [int(size) for size in plain.lrange("packs", 0, -1)]
    assert sum(packs) == 100
    assert len(packs) <= 5
    assert max(packs) <= 32


async def test_what_is_outstanding_is_shared_among_the_messages_a_worker_may_have(lane, celery_worker, plain):
    """In one message all would be answered and asked again together, and worker and gateway idle in turn."""

    async def client() -> None:
        for _ in range(8):
            await run(lane)

    await run(lane, seconds=30)
    plain.delete("packs")
    await asyncio.gather(*(client() for _ in range(20)))
    packs = [int(size) for size in plain.lrange("packs", 0, -1)]
    assert sum(packs) == 160
    assert max(packs) == 10


async def test_for_a_worker_that_computes_for_long_whole_batches_are_gathered(lane, celery_worker, plain):
    """A pack of what came first would have it run a batch half full; it is busy, so nothing is lost by waiting."""

    async def client() -> None:
        for _ in range(8):
            await run(lane, mode=7, inputs=b"50", seconds=30)
            await asyncio.sleep(secrets.randbelow(5) / 1000)  # as answers reach clients one by one

    await run(lane, mode=7, inputs=b"50", seconds=30)
    plain.delete("packs")
    await asyncio.gather(*(client() for _ in range(16)))
    packs = [int(size) for size in plain.lrange("packs", 0, -1)]
    assert sum(packs) == 128
    assert packs.count(8) >= 12, packs


async def test_what_nobody_joins_is_sent_before_the_worker_is_free(lane, celery_worker):
    for _ in range(2):
        await run(lane, mode=7, inputs=b"400", seconds=30)
    two = [asyncio.create_task(run(lane, mode=7, inputs=b"400", seconds=30)) for _ in range(2)]
    await asyncio.sleep(0.02)
    alone = job(lane.dispatcher.reply_to, mode=7, inputs=b"0", seconds=30)
    ended = asyncio.get_running_loop().create_future()
    entry = lane.dispatcher.submit(alone, WORKER, ended.set_result)
    await asyncio.sleep(0.02)
    assert not entry.sent, "another might come"
    while not entry.sent:
        await asyncio.sleep(0.002)
    assert not any(task.done() for task in two)
    assert (await ended).ok
    assert all(result.ok for result in await asyncio.gather(*two))


async def gathers(lane) -> bool:
    """Whether one more is held back while the worker has four."""
    four = [asyncio.create_task(run(lane, mode=7, inputs=b"300", seconds=30)) for _ in range(4)]
    await asyncio.sleep(0.02)
    ended = asyncio.get_running_loop().create_future()
    alone = job(lane.dispatcher.reply_to, mode=7, inputs=b"0", seconds=30)
    entry = lane.dispatcher.submit(alone, WORKER, ended.set_result)
    await asyncio.sleep(0.02)
    held = not entry.sent
    assert not any(task.done() for task in four)
    assert all(result.ok for result in await asyncio.gather(*four, ended))
    return held


async def test_messages_that_are_never_answered_do_not_say_that_a_worker_computes(lane, celery_worker):
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await run(lane, mode=1, seconds=0.6)
    assert not await gathers(lane)


async def test_failures_and_clients_that_leave_do_not_say_that_a_worker_is_quick(lane, celery_worker):
    for _ in range(2):
        await run(lane, mode=7, inputs=b"300", seconds=30)
    assert not (await run(lane, mode=4, seconds=30)).ok
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(lane, mode=1, seconds=30), 0.01)
    assert await gathers(lane)


async def test_a_few_go_in_one_message(lane, celery_worker, plain):
    await run(lane, seconds=30)
    plain.delete("packs")
    await asyncio.gather(*(run(lane) for _ in range(LEAST_SHARED)))
    assert [int(size) for size in plain.lrange("packs", 0, -1)] == [LEAST_SHARED]


async def test_two_models_do_not_share_a_message(lane, celery_worker, plain):
    await run(lane, seconds=30)
    plain.delete("packs")
    await asyncio.gather(*(run(lane, mode=mode) for mode in (0, 3, 0, 3)))
    assert [int(size) for size in plain.lrange("packs", 0, -1)] == [2, 2]


async def test_clients_take_turns(lane, celery_worker):
    async def asked(client: bytes) -> bytes:
        await lane.dispatcher.run(job(lane.dispatcher.reply_to, seconds=30), WORKER, client=client)
        return client

    many = [asyncio.create_task(asked(b"many")) for _ in range(1_000)]
    await asyncio.sleep(0)
    few = asyncio.create_task(asked(b"few"))
    order = [await done for done in asyncio.as_completed([*many, few])]
    assert order.index(b"few") < 500, "its turn comes with the next message, not behind all that came before"


async def test_large_inputs_and_outputs_travel_by_reference(lane, celery_worker, plain):
    inputs = secrets.token_bytes(INLINE_LIMIT_BYTES + 1)
    assert (await run(lane, mode=5, inputs=inputs)).outputs == inputs
    assert not [key for key in plain.keys("blob:out:*") if plain.ttl(key) < 0]
    await asyncio.sleep(0.1)
    assert plain.keys("blob:in:*") == []


async def test_failure_is_data(lane, celery_worker):
    result = await run(lane, mode=4)
    assert (result.ok, result.code) == (False, "broken")


async def test_partial_and_doubled_results(lane, celery_worker):
    assert (await run(lane, mode=3)).outputs == b"input"
    assert (await run(lane, mode=2)).outputs == b"input"
    assert lane.dispatcher.dropped_results == 1


async def test_silence_ends_at_the_deadline_and_frees_the_lane(lane, celery_worker):
    silent = [asyncio.create_task(run(lane, mode=1, seconds=0.3)) for _ in range(3)]
    done = await asyncio.gather(*silent, return_exceptions=True)
    assert all(isinstance(one, DeadlineExceeded) for one in done)
    assert (await run(lane)).ok


async def test_late_result_and_other_attempt_reach_nobody(lane, plain):
    asked = job(lane.dispatcher.reply_to, attempt="1")
    task = asyncio.create_task(lane.dispatcher.run(asked, NOBODY))
    await asyncio.sleep(0.05)
    plain.rpush(lane.reply_list, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"stale")]))
    plain.rpush(lane.reply_list, b"\xc1 not msgpack")
    plain.rpush(lane.reply_list, encode_results([Result(asked.request_id, "1", ok=True, outputs=b"right")]))
    assert (await task).outputs == b"right"
    plain.rpush(lane.reply_list, encode_results([Result(asked.request_id, "1", ok=True, outputs=b"again")]))
    await asyncio.sleep(0.1)
    assert lane.dispatcher.dropped_results == 2
    plain.delete(worker_queue(NOBODY))


async def test_foreign_reference_is_not_followed(lane, plain):
    plain.set("secret", b"of somebody else")
    asked = job(lane.dispatcher.reply_to)
    task = asyncio.create_task(lane.dispatcher.run(asked, NOBODY))
    await asyncio.sleep(0.05)
    stolen = Result(asked.request_id, "0", ok=True, outputs_ref="secret")
    plain.rpush(lane.reply_list, encode_results([stolen]))
    assert (await task).outputs is None
    assert plain.get("secret") == b"of somebody else"
    plain.delete(worker_queue(NOBODY))


async def test_worker_that_dies_is_told(lane, plain):
    task = asyncio.create_task(run(lane, worker=NOBODY, seconds=30))
    await asyncio.sleep(0.05)
    lane.dead.add(NOBODY)
    with pytest.raises(WorkerGone):
        await asyncio.wait_for(task, 3)
    plain.delete(worker_queue(NOBODY))


async def test_cancelled_callers_leave_nothing(lane, plain):
    tasks = [asyncio.create_task(run(lane, worker=NOBODY)) for _ in range(50)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not lane.dispatcher._pending
    assert all(not one.flights for one in lane.dispatcher._lanes.values())
    plain.delete(worker_queue(NOBODY))


async def test_overload_is_refused_at_once(lane, plain):
    tasks = [asyncio.create_task(run(lane, worker=NOBODY, seconds=0.5)) for _ in range(MAX_WAITING + 100)]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(one, Overloaded) for one in done)
    assert {type(one) for one in done} == {Overloaded, DeadlineExceeded}
    plain.delete(worker_queue(NOBODY))


async def test_papers_ride_along_and_are_flushed_when_idle(lane, celery_worker, plain):
    lane.papers.add(WORKER, b"\x01" * 32, b"a" * 65, b"\x0f" * 20, 7)
    await asyncio.sleep(DUE_SECONDS)
    await run(lane)
    assert plain.hget("noted", b"\x01" * 32) == b"a" * 65
    lane.papers.add(WORKER, b"\x02" * 32, b"b" * 65, b"\x0f" * 20, 9)
    for _ in range(100):
        if plain.hget("noted", b"\x02" * 32):
            break
        await asyncio.sleep(0.05)
    assert plain.hget("noted", b"\x02" * 32) == b"b" * 65
    await asyncio.sleep(0.05)
    assert plain.get("note")[-1] == 9


@pytest.fixture
def sweeps(monkeypatch):
    """Say of each sweep whether a rest comes before it; an idle lane rests after two."""
    found: list[bool] = []
    wait = PackingDispatcher._wait

    async def counted(self, *, resting: bool) -> None:
        found.append(resting)
        await wait(self, resting=resting)

    monkeypatch.setattr(PackingDispatcher, "_wait", counted)
    monkeypatch.setattr(packing, "QUIET_SWEEPS", 2)
    return found


async def test_an_idle_lane_rests_and_is_woken_by_a_job(sweeps, lane, monkeypatch):
    monkeypatch.setattr(packing, "LIVENESS_SECONDS", 30.0)  # nothing but the job ends the rest
    await asyncio.sleep(0.5)
    assert sweeps[-1]
    sweeps.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded):
        await run(lane, NOBODY, seconds=0.3)
    assert 0.25 < loop.time() - began < 0.6, "the deadline is watched as ever"
    assert True not in sweeps


async def test_papers_that_come_to_an_idle_lane_are_sent_within_a_second(sweeps, lane, celery_worker, plain):
    await run(lane, seconds=30)
    sweeps.clear()
    await asyncio.sleep(0.5)
    assert sweeps[-1]
    lane.papers.add(WORKER, b"\x03" * 32, b"c" * 65, b"\x0f" * 20, 11)
    async with asyncio.timeout(2):
        while lane.papers.waiting():
            await asyncio.sleep(0.02)
