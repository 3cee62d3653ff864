"""The Celery lane against a real Redis and a real Celery worker process."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis as sync_redis

from contracts.protocol.messages import INLINE_LIMIT_BYTES, Job, Result, encode_results, worker_queue
from contracts.protocol.tensors import content_hash
from market.adapters.celery_dispatch import MAX_WAITING, CeleryDispatcher
from market.errors import DeadlineExceeded, Overloaded, RedisUnreachable
from market.inference.papers import PapersDesk
from market.inference.ports import WorkerGone
from tests.support.money import CHANNEL, DOMAIN, GATEWAY

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
WORKER = b"\x77" * 20
NOBODY = b"\x66" * 20


def job(reply_to: str, *, mode: int = 0, inputs: bytes = b"input", seconds: float = 10.0, attempt: str = "0") -> Job:
    return Job(
        request_id=secrets.token_bytes(32),
        attempt=attempt,
        channel=CHANNEL,
        seq=1,
        model_id=bytes([mode]) * 32,
        units=1,
        price=1,
        worker_amount=1,
        owner_amount=0,
        royalty_ppm=0,
        fee_ppm=0,
        cumulative=1,
        voucher_amount=1,
        voucher_signature=b"s" * 65,
        deadline_at=time.time() + seconds,
        input_hash=content_hash(inputs),
        inputs=inputs,
        inputs_ref=None,
        outputs=(),
        reply_to=reply_to,
    )


@pytest.fixture(scope="module")
def celery_worker(redis_url):
    process = subprocess.Popen([sys.executable, "-m", "tests.support.queue_worker", redis_url, WORKER.hex()], cwd=ROOT)
    yield process
    process.terminate()
    process.wait(20)


class Lane:
    def __init__(self, url: str) -> None:
        self.papers = PapersDesk(key=GATEWAY, domain=DOMAIN)
        self.dead: set[bytes] = set()
        self.dispatcher = CeleryDispatcher(
            url,
            process_id=secrets.token_hex(4),
            papers=self.papers,
            is_live=lambda worker: worker not in self.dead,
            max_batch=lambda worker, model: 8,
        )
        self.dispatcher.start()

    def job(self, **changes) -> Job:
        return job(self.dispatcher.reply_to, **changes)

    async def run(self, worker: bytes = WORKER, **changes) -> Result:
        return await self.dispatcher.run(self.job(**changes), worker)


@pytest.fixture
async def lane(redis_url):
    made = Lane(redis_url)
    yield made
    await made.dispatcher.close()


@pytest.fixture
def plain(redis_url):
    with sync_redis.Redis.from_url(redis_url) as client:
        yield client


async def test_a_real_celery_worker_answers(lane, celery_worker):
    result = await lane.run(seconds=30)
    assert result.ok
    assert result.outputs == b"input"


async def test_many_at_once_share_messages(lane, celery_worker, plain):
    await lane.run(seconds=30)
    plain.delete("packs")
    results = await asyncio.gather(*(lane.run(inputs=bytes([i])) for i in range(100)))
    assert [result.outputs for result in results] == [bytes([i]) for i in range(100)]
    packs = [int(size) for size in plain.lrange("packs", 0, -1)]
    assert sum(packs) == 100
    assert len(packs) <= 5
    assert max(packs) <= 32


async def test_two_models_do_not_share_a_message(lane, celery_worker, plain):
    await lane.run(seconds=30)
    plain.delete("packs")
    await asyncio.gather(*(lane.run(mode=mode) for mode in (0, 3, 0, 3)))
    assert [int(size) for size in plain.lrange("packs", 0, -1)] == [2, 2]


async def test_large_inputs_and_outputs_travel_by_reference(lane, celery_worker, plain):
    inputs = secrets.token_bytes(INLINE_LIMIT_BYTES + 1)
    assert (await lane.run(mode=5, inputs=inputs)).outputs == inputs
    assert not [key for key in plain.keys("blob:out:*") if plain.ttl(key) < 0]
    await asyncio.sleep(0.05)
    assert plain.keys("blob:in:*") == []


async def test_large_inputs_of_a_silent_worker_run_out_by_themselves(lane, plain):
    inputs = secrets.token_bytes(INLINE_LIMIT_BYTES + 1)
    task = asyncio.create_task(lane.run(worker=NOBODY, inputs=inputs, seconds=5))
    await asyncio.sleep(0.1)
    [key] = plain.keys("blob:in:*")
    assert 0 < plain.ttl(key) <= 15
    task.cancel()
    await asyncio.sleep(0.05)
    assert plain.keys("blob:in:*") == []
    plain.delete(worker_queue(NOBODY))


async def test_failure_is_data(lane, celery_worker):
    result = await lane.run(mode=4)
    assert (result.ok, result.code) == (False, "broken")


async def test_partial_and_doubled_results(lane, celery_worker):
    assert (await lane.run(mode=3)).outputs == b"input"
    assert (await lane.run(mode=2)).outputs == b"input"
    assert lane.dispatcher.dropped_results == 1


async def test_silence_ends_at_the_deadline_and_frees_the_lane(lane, celery_worker):
    silent = [asyncio.create_task(lane.run(mode=1, seconds=0.3)) for _ in range(3)]
    done = await asyncio.gather(*silent, return_exceptions=True)
    assert all(isinstance(one, DeadlineExceeded) for one in done)
    assert (await lane.run()).ok


async def test_late_result_and_other_attempt_reach_nobody(lane, plain):
    asked = lane.job(attempt="1")
    task = asyncio.create_task(lane.dispatcher.run(asked, NOBODY))
    await asyncio.sleep(0.05)
    plain.rpush(lane.dispatcher.reply_to, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"stale")]))
    plain.rpush(lane.dispatcher.reply_to, b"\xc1 not msgpack")
    plain.rpush(lane.dispatcher.reply_to, encode_results([Result(asked.request_id, "1", ok=True, outputs=b"right")]))
    assert (await task).outputs == b"right"
    plain.rpush(lane.dispatcher.reply_to, encode_results([Result(asked.request_id, "1", ok=True, outputs=b"again")]))
    await asyncio.sleep(0.1)
    assert lane.dispatcher.dropped_results == 2
    plain.delete(worker_queue(NOBODY))


async def test_foreign_reference_is_not_followed(lane, plain):
    plain.set("secret", b"of somebody else")
    asked = lane.job()
    task = asyncio.create_task(lane.dispatcher.run(asked, NOBODY))
    await asyncio.sleep(0.05)
    stolen = Result(asked.request_id, "0", ok=True, outputs_ref="secret")
    plain.rpush(lane.dispatcher.reply_to, encode_results([stolen]))
    assert (await task).outputs is None
    assert plain.get("secret") == b"of somebody else"
    plain.delete(worker_queue(NOBODY))


async def test_worker_that_dies_is_told(lane, plain):
    task = asyncio.create_task(lane.run(worker=NOBODY, seconds=30))
    await asyncio.sleep(0.05)
    lane.dead.add(NOBODY)
    with pytest.raises(WorkerGone):
        await asyncio.wait_for(task, 3)
    plain.delete(worker_queue(NOBODY))


async def test_cancelled_callers_leave_nothing(lane, plain):
    tasks = [asyncio.create_task(lane.run(worker=NOBODY)) for _ in range(50)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not lane.dispatcher._pending
    assert all(not one.flights for one in lane.dispatcher._lanes.values())
    plain.delete(worker_queue(NOBODY))


async def test_overload_is_refused_at_once(lane, plain):
    tasks = [asyncio.create_task(lane.run(worker=NOBODY, seconds=0.5)) for _ in range(MAX_WAITING + 100)]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(one, Overloaded) for one in done)
    assert {type(one) for one in done} == {Overloaded, DeadlineExceeded}
    plain.delete(worker_queue(NOBODY))


async def test_papers_ride_along_and_are_flushed_when_idle(lane, celery_worker, plain):
    lane.papers.add(WORKER, b"\x01" * 32, b"a" * 65, b"\x0f" * 20, 7)
    await lane.run()
    assert plain.hget("noted", b"\x01" * 32) == b"a" * 65
    lane.papers.add(WORKER, b"\x02" * 32, b"b" * 65, b"\x0f" * 20, 9)
    for _ in range(100):
        if plain.hget("noted", b"\x02" * 32):
            break
        await asyncio.sleep(0.05)
    assert plain.hget("noted", b"\x02" * 32) == b"b" * 65
    assert plain.get("note")[-1] == 9


async def test_unreachable_redis_is_named_and_papers_are_kept():
    lane = Lane("redis://127.0.0.1:1/0")
    lane.papers.add(NOBODY, b"\x01" * 32, b"a" * 65, b"\x0f" * 20, 7)
    with pytest.raises(RedisUnreachable):
        await lane.run(worker=NOBODY)
    assert lane.papers.waiting() == [NOBODY]
    await lane.dispatcher.close()


async def test_listener_survives_a_lost_connection(lane, celery_worker, plain):
    await lane.run(seconds=30)
    for row in plain.client_list():
        if row["cmd"] == "blpop":
            with contextlib.suppress(sync_redis.RedisError):
                plain.client_kill(row["addr"])
    assert (await lane.run(seconds=20)).ok
