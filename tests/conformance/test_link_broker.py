"""A node's broker that did what it was asked and whose answer was lost: no job is queued twice, no result is lost."""

import asyncio
import contextlib
import secrets
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import redis as sync_redis

from contracts.protocol.celery_message import read_task_message
from contracts.protocol.link_contents import Stop
from contracts.protocol.link_frames import LinkRefused
from contracts.protocol.messages import (
    Pack,
    Papers,
    Result,
    cancel_key,
    decode_pack,
    encode_pack,
    encode_papers,
    encode_results,
    worker_queue,
)
from tests.conformance.test_celery_dispatch import job
from tests.support.linked import NOBODY_KEY, LinkedLane
from tests.support.money import GATEWAY
from workers.link import bridge as under_test
from workers.link.bridge import Bridge

pytestmark = pytest.mark.integration
WORKER = NOBODY_KEY.address
REPLIES = f"reply:link-{GATEWAY.address.hex()}-{WORKER.hex()}"


class LosingProxy:
    """Passes commands on to a Redis server; the answer to the next one that holds `lose` is lost with its connection."""

    def __init__(self, redis_url):
        parts = urlsplit(redis_url)
        self._target = parts.hostname, parts.port
        self._lose = None
        self._server = None
        self.lost = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"redis://{host}:{port}/0"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    def lose(self, command):
        self._lose = command

    async def _serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(*self._target)

        async def there():
            while data := await reader.read(1 << 16):
                losing = self._lose is not None and self._lose in data
                far_writer.write(data)
                if losing:
                    self._lose = None
                    self.lost += 1
                    back.cancel()
                    await far_reader.read(1 << 16)
                    break
            writer.close()
            far_writer.close()

        async def home():
            while data := await far_reader.read(1 << 16):
                writer.write(data)
            writer.close()

        back = asyncio.create_task(home())
        with contextlib.suppress(ConnectionError):
            await there()


@pytest.fixture
async def proxy(redis_url):
    with sync_redis.Redis.from_url(redis_url) as client:
        client.delete(REPLIES, f"{REPLIES}:sent", worker_queue(WORKER))
        async with LosingProxy(redis_url) as made:
            yield made
        client.delete(REPLIES, f"{REPLIES}:sent", worker_queue(WORKER))


@pytest.fixture
def broker(redis_url, proxy):
    with sync_redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def bridge(proxy):
    made = Bridge(proxy.url, worker=WORKER, gateway=GATEWAY.address)
    await made.recover()
    yield made
    await made.close()


def reply(name):
    return encode_results([Result(name * 32, "0", ok=True, outputs=name)])


LOST = (sync_redis.RedisError, OSError)


async def test_a_reply_whose_hand_out_was_lost_is_handed_out(bridge, proxy, broker):
    proxy.lose(b"BLMOVE")
    broker.rpush(REPLIES, reply(b"a"), reply(b"b"))
    with pytest.raises(LOST):
        await bridge.next_results()
    assert proxy.lost == 1
    assert await bridge.resync() == [reply(b"a")]
    assert await bridge.next_results() == reply(b"b")
    await bridge.acknowledged(1)
    assert broker.lrange(f"{REPLIES}:sent", 0, -1) == [reply(b"b")]


async def test_a_pack_that_was_queued_unheard_is_queued_once(bridge, proxy, broker):
    asked = job("link", seconds=20)
    data = encode_pack(Pack((asked,)))
    proxy.lose(b"EXEC")
    with pytest.raises(LOST):
        await bridge.forward(data)
    await bridge.forward(data)
    assert proxy.lost == 1
    queued = [decode_pack(read_task_message(one)[1]) for one in broker.lrange(worker_queue(WORKER), 0, -1)]
    assert [one.request_id for pack in queued for one in pack.jobs] == [asked.request_id]
    assert bridge.in_hand() == 1


async def test_what_was_forgotten_unheard_is_forgotten_once(bridge, proxy, broker):
    broker.rpush(REPLIES, *(reply(name) for name in (b"a", b"b", b"c")))
    for _ in range(3):
        await bridge.next_results()
    proxy.lose(b"EXEC")
    with pytest.raises(LOST):
        await bridge.acknowledged(1)
    await bridge.acknowledged(2)
    assert broker.lrange(f"{REPLIES}:sent", 0, -1) == [reply(b"c")]
    proxy.lose(b"EXEC")
    with pytest.raises(LOST):
        await bridge.acknowledged(1)
    assert await bridge.again() == []
    broker.rpush(REPLIES, reply(b"d"))
    assert await bridge.next_results() == reply(b"d")
    await bridge.acknowledged(1)
    assert broker.llen(f"{REPLIES}:sent") == 0


async def test_another_process_of_the_node_goes_on_counting(bridge, proxy, broker):
    broker.rpush(REPLIES, reply(b"a"), reply(b"b"))
    for _ in range(2):
        await bridge.next_results()
    await bridge.acknowledged(1)
    other = Bridge(proxy.url, worker=WORKER, gateway=GATEWAY.address)
    await other.recover()
    assert await other.next_results() == reply(b"b")
    proxy.lose(b"EXEC")
    with pytest.raises(LOST):
        await other.acknowledged(1)
    await other.acknowledged(1)
    assert broker.llen(f"{REPLIES}:sent") == 0
    await other.close()


async def test_a_job_does_not_wait_until_a_reply_is_forgotten(redis_url, monkeypatch):
    lane = LinkedLane(redis_url)
    await lane.start()
    node = lane.nodes[1]
    forgetting, may_forget, real = asyncio.Event(), asyncio.Event(), node.bridge.acknowledged

    async def slowly(count):
        forgetting.set()
        await may_forget.wait()
        await real(count)

    monkeypatch.setattr(node.bridge, "acknowledged", slowly)
    with sync_redis.Redis.from_url(redis_url) as client:

        async def answered(asked):
            running = asyncio.create_task(lane.dispatcher.run(asked, WORKER))
            while not (found := client.rpop(worker_queue(WORKER))):
                await asyncio.sleep(0.005)
            pack = decode_pack(read_task_message(found)[1])
            client.rpush(REPLIES, encode_results([Result(one.request_id, one.attempt, ok=True) for one in pack.jobs]))
            return await running

        assert (await answered(job("link", seconds=20))).ok
        await asyncio.wait_for(forgetting.wait(), 5)
        assert (await answered(job("link", seconds=20))).ok
        assert client.llen(f"{REPLIES}:sent") == 2
        may_forget.set()
        while client.llen(f"{REPLIES}:sent"):
            await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while node.link.unacknowledged():  # a moment after its reply is forgotten
            await asyncio.sleep(0.01)
    await lane.close()


async def test_a_gateway_fills_a_nodes_broker_up_to_a_bound(redis_url, monkeypatch):
    """Its jobs' inputs lie there until they are answered or their time is over."""
    monkeypatch.setattr(under_test, "MAX_BYTES_IN_HAND", 1_000_000)
    bridge = Bridge(redis_url, worker=secrets.token_bytes(20), gateway=GATEWAY.address)
    await bridge.recover()
    first, second = [job("link", inputs=b"x" * 400_000) for _ in range(2)]
    over = job("link", inputs=b"x" * 400_000, seconds=-11.0)
    for one in (first, over):
        await bridge.forward(encode_pack(Pack((one,))))
        await bridge.forward(encode_pack(Pack((one,))))
    assert (bridge._bytes_in_hand, bridge.repeated_jobs) == (800_000, 2)
    await bridge.forward(encode_pack(Pack((second,))))
    assert (bridge.in_hand(), bridge._bytes_in_hand) == (2, 800_000)
    with pytest.raises(LinkRefused):
        await bridge.forward(encode_pack(Pack((job("link", inputs=b"x" * 300_000),))))
    await bridge._hand_out(encode_results([Result(first.request_id, "0", ok=True, outputs=b"")]))
    await bridge.forward(encode_pack(Pack((job("link", inputs=b"x" * 300_000),))))
    assert (bridge.in_hand(), bridge._bytes_in_hand) == (2, 700_000)
    await bridge.close()


async def test_what_waits_for_a_worker_is_bounded_whatever_it_is(redis_url, monkeypatch):
    """Papers and packs without fresh jobs are no job's inputs, and lay there for as long as no worker took them."""
    monkeypatch.setattr(under_test, "MAX_QUEUED_BYTES", 300_000)
    worker = secrets.token_bytes(20)
    bridge = Bridge(redis_url, worker=worker, gateway=GATEWAY.address)
    await bridge.recover()
    papers = Papers(((bytes(32), b"x" * 90_000),))
    empty = encode_pack(Pack((), papers))
    with sync_redis.Redis.from_url(redis_url) as client:
        for _ in range(20):
            await bridge.file_papers(encode_papers(papers))
            await bridge.forward(empty)
            assert client.llen(worker_queue(worker)) == 2
            client.ltrim(worker_queue(worker), 0, -3)  # the worker takes the oldest
            assert client.llen(worker_queue(worker)) == 0
        await bridge.file_papers(encode_papers(papers))
        await bridge.forward(empty)
        await bridge.forward(encode_pack(Pack((job("link", inputs=b"x" * 1_000),))))
        with pytest.raises(LinkRefused):
            await bridge.file_papers(encode_papers(papers))
        with pytest.raises(LinkRefused):
            await bridge.forward(empty)
        assert client.llen(worker_queue(worker)) == 3
        client.rpop(worker_queue(worker))
        await bridge.file_papers(encode_papers(papers))
    await bridge.close()


async def test_only_jobs_that_came_can_be_stopped(redis_url):
    """Each order is a key of the node's broker for minutes."""
    bridge = Bridge(redis_url, worker=secrets.token_bytes(20), gateway=GATEWAY.address)
    await bridge.recover()
    known = job("link", inputs=b"x")
    await bridge.forward(encode_pack(Pack((known,))))
    with sync_redis.Redis.from_url(redis_url) as client:
        for name in (known.request_id, secrets.token_bytes(32)):
            await bridge.stop(Stop(name, known.attempt, 3))
            assert client.get(cancel_key(name, known.attempt)) == (b"3" if name == known.request_id else None)
        await bridge.stop(Stop(known.request_id, "other", 3))
        assert not client.exists(cancel_key(known.request_id, "other"))
    await bridge.close()


@pytest.mark.parametrize("deadline_at", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_job_without_a_deadline_is_refused_and_ends_no_node(redis_url, deadline_at, size):
    bridge = Bridge(redis_url, worker=WORKER, gateway=GATEWAY.address)
    with pytest.raises(LinkRefused):
        await bridge.forward(encode_pack(Pack((replace(job("link", inputs=bytes(size)), deadline_at=deadline_at),))))
    await bridge.close()


@pytest.mark.parametrize("stop", [Stop(b"x", "0", 1), Stop(bytes(32), "a" * 1_000_000, 1), Stop(bytes(33), "0", 1)])
def test_a_stop_names_a_job(stop):
    """Each is a key of the node's broker."""
    with pytest.raises(LinkRefused):
        Stop.from_bytes(stop.to_bytes())
