"""Two processes of one gateway that share their links over a real Redis: a node links to one, jobs come from both."""

import asyncio
import base64
import contextlib
import json
import secrets
from collections import Counter
from dataclasses import replace

import msgpack
import pytest
import redis.asyncio

from contracts.protocol.hashing import sha256
from contracts.protocol.link_frames import Kind
from contracts.protocol.messages import (
    ANNOUNCE_KEY_PREFIX,
    Announcement,
    Result,
    decode_pack,
    encode_announcement,
    encode_results,
    worker_queue,
)
from contracts.protocol.signing import PrivateKey
from market.adapters.lane_router import JoinedAnnouncements
from market.adapters.link_dispatch import EARLY_RESULT_BYTES, EARLY_RESULTS, EARLY_RESULTS_BYTES, LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.adapters.link_relay import LinkRelay
from market.inference.papers import DUE_SECONDS, PapersDesk
from market.inference.ports import WorkerGone
from tests.conformance.test_celery_dispatch import job
from tests.support.linked import LinkServer, Node
from tests.support.money import DOMAIN, GATEWAY

pytestmark = pytest.mark.integration


class Process:
    """One process of the gateway."""

    def __init__(self, redis_url: str, name: str) -> None:
        self.hub = LinkHub(key=GATEWAY, domain=DOMAIN, in_standing=lambda worker: True)
        self.relay = LinkRelay(redis_url, gateway=GATEWAY.address, process_id=name, hub=self.hub)
        self.papers = PapersDesk(key=GATEWAY, domain=DOMAIN)
        self.lane = LinkDispatcher(
            self.hub, papers=self.papers, is_live=lambda worker: True, max_batch=lambda *_: 8, relay=self.relay
        )
        self.server = LinkServer(self.hub)

    async def start(self) -> None:
        self.lane.start()
        self.relay.start()
        await self.server.start()

    async def die(self) -> None:
        """Go as if killed: nobody is told, nothing is given up."""
        for task in (*self.relay._tasks, *self.lane._tasks):
            task.cancel()
        self.relay._claimed.clear()
        self.hub.join(Deaf())
        await self.hub.close()
        await self.server.stop()

    async def close(self) -> None:
        await self.lane.close()
        await self.hub.close()
        await self.relay.close()
        await self.server.stop()


class Deaf:
    def on_results(self, worker, data):
        return 0, 0

    def on_fresh(self, worker): ...

    def on_ended(self, session): ...


class Worker:
    """Works off a node's broker by hand; `ran` counts how often each job was run."""

    def __init__(self, redis_url: str, key: PrivateKey) -> None:
        self.key = key
        self.ran: Counter[bytes] = Counter()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.papers = []
        self._redis = redis.asyncio.Redis.from_url(redis_url, protocol=2)
        self._task: asyncio.Task[None] | None = None

    async def announce(self) -> None:
        told = Announcement(self.key.address, (), (), 0, (), "cpu", 1.0, bytes(8))
        await self._redis.set(ANNOUNCE_KEY_PREFIX + self.key.address.hex(), encode_announcement(told))

    async def work(self) -> None:
        while True:
            found = await self._redis.brpop([worker_queue(self.key.address)], timeout=1)
            if found is None:
                continue
            [argument], *_ = msgpack.unpackb(base64.b64decode(json.loads(found[1])["body"]))
            pack = decode_pack(argument)
            self.papers += pack.papers.countersigned
            await self.may_answer.wait()
            for asked in pack.jobs:
                self.ran[asked.request_id] += 1
                result = Result(asked.request_id, asked.attempt, ok=True, outputs=b"done", output_hash=bytes(32))
                partial = replace(result, final=False, outputs=b"part")
                results = [partial, result] if asked.stream else [result]
                await self._redis.rpush(asked.reply_to, encode_results(results))

    async def __aenter__(self):
        await self._redis.delete(worker_queue(self.key.address))
        await self.announce()
        self._task = asyncio.create_task(self.work())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._redis.aclose()


async def until(told, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not told():
            await asyncio.sleep(0.02)


@pytest.fixture
async def shared(redis_url):
    """Processes `a` and `b`, and a worker whose node is linked to `a`."""
    name = secrets.token_hex(4)
    a, b = Process(redis_url, f"a-{name}"), Process(redis_url, f"b-{name}")
    await a.start()
    await b.start()
    async with Worker(redis_url, PrivateKey(sha256(name.encode()))) as worker:
        node = Node(a.server.port, redis_url, worker.key)
        await node.start()
        await until(lambda: b.lane.reaches(worker.key.address))
        yield a, b, worker, node
        await node.stop()
    await b.close()
    with contextlib.suppress(Exception):
        await a.close()


async def move(node: Node, process: Process) -> None:
    """Let the node link to another process from now on, as a load balancer may."""
    before = node.link.connections
    node.link._url = node.link._url.replace(node.link._url.split(":")[2].split("/")[0], str(process.server.port))
    await until(lambda: node.link.connections > before)


def asks(process: Process, worker: Worker, count: int, **changes):
    jobs = [replace(job("link", seconds=30), **changes) for _ in range(count)]
    return jobs, [asyncio.create_task(process.lane.run(one, worker.key.address)) for one in jobs]


async def test_a_job_of_the_other_process_goes_by_the_link_and_comes_back(shared):
    a, b, worker, _ = shared
    address = worker.key.address
    assert b.relay.home(address) == a.relay._process
    assert a.relay.home(address) is None
    jobs, tasks = asks(b, worker, 40)
    results = await asyncio.gather(*tasks)
    assert [result.request_id for result in results] == [one.request_id for one in jobs]
    _, tasks = asks(a, worker, 5)
    await asyncio.gather(*tasks)
    assert set(worker.ran.values()) == {1}
    assert (a.lane._guests, b.lane.dropped_results) == ({}, 0)

    await worker.announce()

    class Broker:
        async def read(self):
            return [Announcement(address, (), (), 7, (), "stale", 1.0, bytes(8))]

    await until(b.relay.announcements)
    [told] = await JoinedAnnouncements(Broker(), b.hub, b.relay).read()
    assert (told.worker, told.in_flight) == (address, 0), "the link has the say"


async def test_pieces_stops_and_papers_take_the_same_way(shared):
    _, b, worker, node = shared
    pieces = []
    asked = replace(job("link", seconds=30), stream=True)
    b.papers.add(worker.key.address, bytes(32), b"s" * 65, b"p" * 20, 5)
    await asyncio.sleep(DUE_SECONDS)
    worker.may_answer.clear()
    task = asyncio.create_task(b.lane.run(asked, worker.key.address, pieces.append, long=True))
    await until(node.bridge.in_hand)
    await b.lane.stop(asked, 3)
    cancelled = node.bridge._redis
    async with asyncio.timeout(10):
        while not await cancelled.exists(f"cancel:{asked.request_id.hex()}:{asked.attempt}"):
            await asyncio.sleep(0.02)
    worker.may_answer.set()
    assert (await task).final
    assert [piece.outputs for piece in pieces] == [b"part"]
    assert worker.papers == [(bytes(32), b"s" * 65)]


async def test_jobs_follow_a_node_that_links_to_another_process(shared):
    """The load balancer sends the node elsewhere while its worker has jobs of both processes in hand."""
    a, b, worker, node = shared
    worker.may_answer.clear()
    jobs_a, of_a = asks(a, worker, 6)
    jobs_b, of_b = asks(b, worker, 6)
    await until(lambda: node.bridge.in_hand() == 12)
    # The same connection breaks and the next one goes to b.
    cut = next(iter(a.hub.sessions())).connection
    mover = asyncio.create_task(move(node, b))
    await asyncio.sleep(0)
    await cut.end(1001, "cut")
    await mover
    worker.may_answer.set()
    results = await asyncio.wait_for(asyncio.gather(*of_a, *of_b), 25)
    assert {result.request_id for result in results} == {one.request_id for one in (*jobs_a, *jobs_b)}
    assert set(worker.ran.values()) == {1}
    assert a.relay.home(worker.key.address) == b.relay._process
    assert not a.hub.has(worker.key.address)
    _, tasks = asks(a, worker, 3)
    await asyncio.gather(*tasks)


async def test_when_the_process_with_the_link_dies_the_others_jobs_are_run_once(shared):
    a, b, worker, node = shared
    worker.may_answer.clear()
    jobs, tasks = asks(b, worker, 6)
    await until(lambda: node.bridge.in_hand() == 6)
    mover = asyncio.create_task(move(node, b))
    await asyncio.sleep(0)
    await a.die()
    await mover
    worker.may_answer.set()
    results = await asyncio.wait_for(asyncio.gather(*tasks), 25)
    assert {result.request_id for result in results} == {one.request_id for one in jobs}
    assert set(worker.ran.values()) == {1}


async def test_a_node_that_links_nowhere_any_more_is_gone_within_seconds(shared):
    a, b, worker, node = shared
    worker.may_answer.clear()
    _, tasks = asks(b, worker, 3)
    await until(lambda: node.bridge.in_hand() == 3)
    await a.die()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 15)
    assert {type(outcome) for outcome in outcomes} == {WorkerGone}
    assert not b.lane.reaches(worker.key.address)


async def test_a_result_counts_only_from_the_worker_that_was_asked(shared):
    a, b, worker, node = shared
    worker.may_answer.clear()
    [asked], [task] = asks(b, worker, 1)
    await until(lambda: node.bridge.in_hand() == 1)
    forged = Result(asked.request_id, asked.attempt, ok=True, outputs=b"forged", output_hash=bytes(32))
    assert a.lane.on_results(b"\x99" * 20, encode_results([forged])) == (1, 0)
    a.relay.post(b.relay._process, Kind.RESULTS, b"\x99" * 20, b"not even results")
    worker.may_answer.set()
    assert (await task).outputs == b"done"


async def test_results_that_come_before_their_jobs_are_kept_within_bounds(redis_url):
    """A worker may send as many as it likes until it is barred, and again after a minute."""
    process, worker = Process(redis_url, secrets.token_hex(4)), secrets.token_bytes(20)
    again = secrets.token_bytes(32)
    for number in range(400):
        name = again if number % 7 == 0 else secrets.token_bytes(32)
        outputs = bytes(EARLY_RESULT_BYTES - number % 2)
        process.lane.on_results(worker, encode_results([Result(name, "0", ok=True, outputs=outputs)]))
    kept = [len(result.outputs) for _, result in process.lane._early.values()]
    assert sum(kept) == process.lane._early_bytes <= EARLY_RESULTS_BYTES
    assert len(kept) >= EARLY_RESULTS_BYTES // EARLY_RESULT_BYTES
    for _ in range(2 * EARLY_RESULTS):
        result = Result(secrets.token_bytes(32), "0", ok=True, outputs=b"x")
        process.lane.on_results(worker, encode_results([result]))
    assert (len(process.lane._early), process.lane._early_bytes) == (EARLY_RESULTS, EARLY_RESULTS)
    await process.relay.close()
