"""Streams by every adapter of `inference.ports.Dispatcher`: pieces in order, then the answer; stopped where asked."""

import asyncio
import secrets
import subprocess
import sys
from dataclasses import replace

import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.messages import Result
from contracts.protocol.signing import PrivateKey
from market.adapters.memory_queue import MemoryDispatcher
from market.errors import DeadlineExceeded
from tests.conformance.test_celery_dispatch import ROOT, Lane, job
from tests.support.linked import LinkedLane

WORKER_KEY = PrivateKey(sha256(b"streaming worker"))
WORKER = WORKER_KEY.address


async def number(asked, partial, stopped) -> Result:
    """Do in memory what `tests.support.queue_worker` does in mode 6."""
    if asked.model_id[0] == 0:
        return Result(asked.request_id, asked.attempt, ok=True, outputs=asked.inputs)
    count, most = 0, int(asked.inputs)
    while count < most:
        if stopped() is not None:
            count = min(count, stopped())
            break
        partial(Result(asked.request_id, asked.attempt, ok=True, outputs=b"%d," % count, final=False))
        count += 1
        await asyncio.sleep(0.002)
    return Result(asked.request_id, asked.attempt, ok=True, outputs=b"".join(b"%d," % i for i in range(count)))


@pytest.fixture(scope="module")
def celery_worker(request):
    url = request.getfixturevalue("redis_url")
    process = subprocess.Popen([sys.executable, "-m", "tests.support.queue_worker", url, WORKER.hex()], cwd=ROOT)
    yield url
    process.terminate()
    process.wait(20)


@pytest.fixture(params=["memory", *(pytest.param(lane, marks=pytest.mark.integration) for lane in ("celery", "link"))])
async def dispatcher(request):
    if request.param == "memory":
        made = MemoryDispatcher()
        made.stream_handlers[WORKER] = number
        yield made
        return
    url = request.getfixturevalue("celery_worker")
    lane = Lane(url) if request.param == "celery" else LinkedLane(url)
    if isinstance(lane, LinkedLane):
        await lane.start()
        await lane.add(WORKER_KEY)
    yield lane.dispatcher
    await lane.close()


def streamed(dispatcher, count: int, *, seconds: float = 30.0, mode: int = 6):
    return replace(job(dispatcher.reply_to, mode=mode, inputs=b"%d" % count, seconds=seconds), stream=True)


def upto(count: int) -> bytes:
    return b"".join(b"%d," % i for i in range(count))


async def test_pieces_come_in_order_before_the_answer(dispatcher):
    pieces: list[Result] = []
    result = await dispatcher.run(streamed(dispatcher, 20), WORKER, pieces.append, long=True)
    assert [piece.outputs for piece in pieces] == [b"%d," % i for i in range(20)]
    assert not any(piece.final for piece in pieces)
    assert result.final
    assert result.outputs == upto(20)


async def test_without_a_taker_only_the_answer_comes(dispatcher):
    assert (await dispatcher.run(streamed(dispatcher, 5), WORKER, long=True)).outputs == upto(5)


async def test_a_stopped_stream_ends_where_it_was_asked_to(dispatcher):
    asked, came = streamed(dispatcher, 100_000), asyncio.Event()
    running = asyncio.create_task(dispatcher.run(asked, WORKER, lambda _: came.set(), long=True))
    await came.wait()
    await dispatcher.stop(asked, 1)
    assert (await running).outputs == upto(1)


async def test_many_streams_run_beside_each_other_and_beside_short_jobs(dispatcher):
    got: dict[int, list[bytes]] = {i: [] for i in range(8)}
    running = [
        asyncio.create_task(
            dispatcher.run(streamed(dispatcher, 500), WORKER, lambda r, i=i: got[i].append(r.outputs), long=True)
        )
        for i in got
    ]
    while not all(got.values()):
        await asyncio.sleep(0.01)
    short = await asyncio.gather(*(dispatcher.run(streamed(dispatcher, i, mode=0), WORKER) for i in range(5)))
    assert [result.outputs for result in short] == [b"%d" % i for i in range(5)]
    assert not any(task.done() for task in running), "short jobs waited for the long ones"
    assert [result.outputs for result in await asyncio.gather(*running)] == [upto(500)] * 8


async def test_pieces_after_the_deadline_reach_nobody(dispatcher):
    pieces: list[Result] = []
    with pytest.raises(DeadlineExceeded):
        await dispatcher.run(streamed(dispatcher, 1_000, seconds=0.3), WORKER, pieces.append, long=True)
    seen = len(pieces)
    await asyncio.sleep(0.1)
    assert len(pieces) == seen > 0


async def test_pieces_of_another_attempt_reach_nobody(dispatcher):
    asked = streamed(dispatcher, 5)
    other = replace(asked, request_id=secrets.token_bytes(32))
    pieces: list[Result] = []
    await asyncio.gather(
        dispatcher.run(asked, WORKER, pieces.append, long=True), dispatcher.run(other, WORKER, long=True)
    )
    assert {piece.request_id for piece in pieces} == {asked.request_id}
