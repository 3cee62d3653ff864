"""What is the Celery lane's alone, against a real Redis and a real Celery worker process; see test_dispatch.py."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis as sync_redis

from contracts.protocol.messages import INLINE_LIMIT_BYTES, Job, Result, worker_queue
from contracts.protocol.tensors import content_hash
from market.adapters.celery_dispatch import CeleryDispatcher
from market.errors import RedisUnreachable
from market.inference.papers import PapersDesk
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

    @property
    def reply_list(self) -> str:
        return self.dispatcher.reply_to

    async def close(self) -> None:
        await self.dispatcher.close()

    def job(self, **changes) -> Job:
        return job(self.dispatcher.reply_to, **changes)

    async def run(self, worker: bytes = WORKER, **changes) -> Result:
        return await self.dispatcher.run(self.job(**changes), worker)


@pytest.fixture
async def lane(redis_url):
    made = Lane(redis_url)
    yield made
    await made.close()


@pytest.fixture
def plain(redis_url):
    with sync_redis.Redis.from_url(redis_url) as client:
        yield client


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
