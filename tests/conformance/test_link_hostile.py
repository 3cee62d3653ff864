"""Nodes with and without valid credentials that lie, repeat, flood or fall silent: what they get, and what others lose."""

import asyncio
import base64
import json
import secrets
import time
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
import redis as sync_redis
from websockets.exceptions import ConnectionClosed

from contracts.protocol.hashing import sha256
from contracts.protocol.link_frames import MAX_FRAME_BYTES, Frame, Kind, encode_frame
from contracts.protocol.messages import (
    Announcement,
    Pack,
    Result,
    decode_pack,
    encode_announcement,
    encode_pack,
    encode_results,
    worker_queue,
)
from contracts.protocol.signing import PrivateKey
from market.adapters import link_hub
from market.errors import DeadlineExceeded
from market.inference.ports import WorkerGone
from tests.conformance.test_celery_dispatch import job
from tests.support import raw_node
from tests.support.certificates import self_signed
from tests.support.linked import NOBODY_KEY, LinkedLane, LinkServer, Node
from tests.support.money import DOMAIN, GATEWAY
from tests.support.raw_node import refused

pytestmark = pytest.mark.integration
HOSTILE, STRANGER = PrivateKey(sha256(b"hostile")), PrivateKey(sha256(b"stranger"))
VICTIM = NOBODY_KEY.address


@pytest.fixture
async def lane(redis_url):
    made = LinkedLane(redis_url)
    await made.start()
    yield made
    await made.close()


class RawNode(raw_node.RawNode):
    """With the hostile worker's key, unless it is another's."""

    def __init__(self, lane: LinkedLane, key: PrivateKey = HOSTILE, *, window: int = 2) -> None:
        super().__init__(lane.server.port, key, window=window)


# --- at the door -----------------------------------------------------------------------------------------------------


async def test_a_worker_without_stake_is_refused(lane):
    lane.unstaked.add(STRANGER.address)
    node = RawNode(lane, STRANGER)
    assert await refused(node, await node.hello()) == link_hub.CLOSE_REFUSED
    assert not lane.hub.has(STRANGER.address)


async def test_an_expired_session_is_refused(lane):
    node = RawNode(lane)
    assert await refused(node, await node.hello(expiry=int(time.time()) - 1)) == link_hub.CLOSE_REFUSED


async def test_nobody_speaks_for_another_worker(lane):
    node = RawNode(lane)
    assert await refused(node, await node.hello(worker=VICTIM)) == link_hub.CLOSE_REFUSED


async def test_a_handshake_that_was_overheard_is_useless(lane):
    node = RawNode(lane)
    said = await node.hello()
    again = RawNode(lane)
    await again.hello()
    assert await refused(again, said) == link_hub.CLOSE_REFUSED
    await node.socket.close()


@pytest.mark.parametrize("said", [b"", b"\xc1", b"\x92\xc4\x00\xc4\x00", secrets.token_bytes(5_000), "text"])
async def test_garbage_at_the_door_is_refused(lane, said):
    node = RawNode(lane)
    await node.hello()
    assert await refused(node, said) in (link_hub.CLOSE_REFUSED, link_hub.CLOSE_BROKEN)


async def test_a_frame_above_the_limit_is_never_taken(lane):
    node = RawNode(lane)
    await node.hello()
    with pytest.raises(ConnectionClosed):
        await node.socket.send(b"\0" * (MAX_FRAME_BYTES + 10_000))
        await node.socket.recv()
    assert not lane.hub.has(HOSTILE.address)


async def test_who_never_says_anything_is_shown_out(lane, monkeypatch):
    monkeypatch.setattr(link_hub, "HANDSHAKE_SECONDS", 0.2)
    node = RawNode(lane)
    await node.hello()
    assert await node.closed() == link_hub.CLOSE_SLOW


async def test_the_door_takes_a_bounded_number_of_strangers(lane, monkeypatch):
    monkeypatch.setattr(link_hub, "MAX_GREETING", 3)
    nodes = [RawNode(lane) for _ in range(3)]
    for node in nodes:
        await node.hello()
    with pytest.raises(ConnectionClosed):
        await RawNode(lane).hello()
    for node in nodes:
        await node.socket.close()
    await asyncio.sleep(0.1)
    await RawNode(lane).open()


# --- inside ----------------------------------------------------------------------------------------------------------


async def test_stake_that_leaves_ends_the_link_and_frees_its_jobs(lane):
    node = await RawNode(lane).open()
    running = asyncio.create_task(lane.dispatcher.run(job("link", seconds=30), HOSTILE.address))
    await asyncio.sleep(0.05)
    lane.unstaked.add(HOSTILE.address)
    with pytest.raises(WorkerGone):
        await asyncio.wait_for(running, 3)
    assert await node.closed() == link_hub.CLOSE_STANDING
    assert await refused(node, await node.hello()) == link_hub.CLOSE_REFUSED


async def test_a_session_that_runs_out_ends_the_link(lane):
    node = await RawNode(lane).open(expiry=int(time.time()) + 1)
    assert await node.closed() == link_hub.CLOSE_EXPIRED


async def test_a_hostile_node_sees_only_its_own_jobs(lane):
    node = await RawNode(lane).open()
    victims = asyncio.create_task(lane.dispatcher.run(job("link", seconds=1), VICTIM))
    own = asyncio.create_task(lane.dispatcher.run(mine := job("link", seconds=1), HOSTILE.address))
    frame = await node.receive()
    assert [one.request_id for one in decode_pack(frame.payload).jobs] == [mine.request_id]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while (await node.receive()).kind not in (Kind.PACK, Kind.RESULTS):
                pass
    for task in (victims, own):
        with pytest.raises(DeadlineExceeded):
            await task


async def test_a_result_for_anothers_job_reaches_nobody(lane):
    node = await RawNode(lane).open()
    asked = job("link", seconds=1)
    running = asyncio.create_task(lane.dispatcher.run(asked, VICTIM))
    await asyncio.sleep(0.05)
    await node.send(Kind.RESULTS, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"forged")]))
    await node.send(Kind.RESULTS, encode_results([Result(asked.request_id, "0", ok=False, code="no")]))
    with pytest.raises(DeadlineExceeded):
        await running
    assert lane.dispatcher.dropped_results == 2


async def test_an_announcement_for_another_worker_ends_the_link(lane):
    node = await RawNode(lane).open()
    await node.send(
        Kind.ANNOUNCE, encode_announcement(Announcement(VICTIM, (), (), 0, (), "cpu", time.time(), bytes(8)))
    )
    assert await node.closed() == link_hub.CLOSE_BROKEN
    assert all(one.worker != VICTIM or one.at for one in await lane.hub.read())
    assert VICTIM not in {one.worker for one in await lane.hub.read()}


@pytest.mark.parametrize(
    "sent",
    [
        (Kind.PACK, b"", 1),
        (Kind.RESULTS, b"\xc1", 1),
        (Kind.RESULTS, b"\x91\x01", 1),
        (Kind.RENEW, b"\x92\xce\xff\xff\xff\xff\xc4\x00", 0),
        (99, b"", 0),
        (Kind.ANNOUNCE, b"\x90", 0),
    ],
)
async def test_garbage_inside_a_link_ends_it_alone(lane, sent):
    kind, payload, seq = sent
    node = await RawNode(lane).open()
    await node.send(kind, payload, seq=seq)
    assert await node.closed() == link_hub.CLOSE_BROKEN
    assert lane.hub.session(VICTIM).connection is not None


async def test_a_frame_sent_twice_ends_the_link(lane):
    node = await RawNode(lane).open()
    frame = node.closer.close(encode_frame(Frame(Kind.ACK, 0, 0, 0, b"")))
    await node.socket.send(frame)
    await node.socket.send(frame)
    assert await node.closed() == link_hub.CLOSE_BROKEN


async def test_acknowledging_what_was_not_sent_ends_the_link(lane):
    node = await RawNode(lane).open()
    await node.send(Kind.ACK, b"", ack=7)
    assert await node.closed() == link_hub.CLOSE_BROKEN


async def test_a_flood_of_results_is_barred_while_others_are_served(lane):
    node = await RawNode(lane).open()
    assert await node.flood() in (link_hub.CLOSE_BUSY, 1006)
    assert await refused(again := RawNode(lane), await again.hello()) == link_hub.CLOSE_REFUSED
    assert lane.hub.session(VICTIM).connection is not None


async def test_who_does_not_read_holds_up_nobody_and_no_memory(lane):
    node = await RawNode(lane).open()
    node.socket.transport.pause_reading()
    big = b"x" * (1 << 20)
    stuck = [
        asyncio.create_task(lane.dispatcher.run(job("link", inputs=big, seconds=2), HOSTILE.address)) for _ in range(60)
    ]
    await asyncio.sleep(0.2)
    kept = lane.hub.session(HOSTILE.address).outbox.size
    assert kept <= 2 * (6 << 20), "more than its window was prepared for it"
    started = time.monotonic()
    asked = job("link", seconds=1)
    running = asyncio.create_task(lane.dispatcher.run(asked, VICTIM))
    await asyncio.sleep(0.05)
    assert lane.nodes[1].bridge.in_hand() == 1, "another node's job waits behind it"
    assert time.monotonic() - started < 0.5
    done = await asyncio.gather(*stuck, running, return_exceptions=True)
    assert all(isinstance(one, DeadlineExceeded) for one in done)
    node.socket.transport.abort()


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "x" * 1_000_000},
        {"max_batch": tuple((bytes(32), 1) for _ in range(257))},
        {"manifests": (b"x",) * 257},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_announcement_is_no_burden(lane, changes):
    node = await RawNode(lane).open()
    told = Announcement(HOSTILE.address, (), (), 0, (), "cpu", 1.0, bytes(8))
    await node.send(Kind.ANNOUNCE, encode_announcement(told))
    await asyncio.sleep(link_hub.ANNOUNCE_AT_MOST_EVERY_SECONDS + 0.1)
    assert lane.hub.session(HOSTILE.address).announcement == told
    await node.send(Kind.ANNOUNCE, encode_announcement(replace(told, **changes)))
    assert await node.closed() == link_hub.CLOSE_BROKEN
    await asyncio.sleep(0.1)
    assert lane.hub.session(HOSTILE.address).announcement == told


async def test_who_answers_and_never_acknowledges_is_not_kept_everything_for(lane, monkeypatch):
    monkeypatch.setattr(link_hub, "MAX_UNACKNOWLEDGED_BYTES", 8 << 20)
    node = await RawNode(lane).open()

    async def work():
        with suppress(ConnectionClosed):
            while True:
                frame = await node.receive()
                if frame.kind == Kind.PACK:
                    jobs = decode_pack(frame.payload).jobs
                    rows = [Result(one.request_id, one.attempt, ok=True, outputs=b"") for one in jobs]
                    await node.send(Kind.RESULTS, encode_results(rows))

    working = asyncio.create_task(work())
    answered = 0
    for _ in range(40):
        asked = lane.dispatcher.run(job("link", inputs=b"x" * (400 << 10), seconds=5), HOSTILE.address)
        answered += not isinstance((await asyncio.gather(asked, return_exceptions=True))[0], Exception)
        await asyncio.sleep(0.05)
    assert await node.closed() == link_hub.CLOSE_SLOW
    assert 16 <= answered < 40
    assert not lane.hub.has(HOSTILE.address)
    await working
    assert lane.hub.session(VICTIM).connection is not None


@pytest.mark.parametrize("part", [b"", b"x"])
async def test_a_message_in_parts_without_end_ends_the_link(lane, part):
    node = await RawNode(lane).open()
    with suppress(ConnectionClosed):
        await node.send(Kind.RESULTS, b"x", flags=1)
        for _ in range(2_000):
            await node.send(Kind.RESULTS, part, flags=0)
    assert await node.closed() == link_hub.CLOSE_BROKEN


async def test_a_reply_of_countless_results_is_not_read(lane):
    node = await RawNode(lane).open()
    await node.send(Kind.RESULTS, msgpack.packb([[]] * 500_000))
    assert await node.closed() == link_hub.CLOSE_BROKEN


async def test_one_address_does_not_stand_in_the_door_for_all(monkeypatch):
    monkeypatch.setattr(link_hub, "MAX_GREETING_BY_ADDRESS", 3)
    monkeypatch.setattr(link_hub, "HANDSHAKE_SECONDS", 0.5)
    hub = link_hub.LinkHub(key=GATEWAY, domain=DOMAIN, in_standing=lambda _: True)

    class Silent:
        def __init__(self):
            self.code = None

        async def send(self, data):
            del data

        async def receive(self):
            return await asyncio.get_running_loop().create_future()

        async def close(self, code, reason):
            del reason
            self.code = code

    async def knock(peer):
        await hub.serve(channel := Silent(), peer)
        return channel.code

    codes = await asyncio.gather(*(knock(f"192.0.2.1:{port}") for port in range(5)), knock("[::1]:1"), knock("::1:2"))
    assert sorted(codes) == [link_hub.CLOSE_SLOW] * 5 + [link_hub.CLOSE_BUSY] * 2
    assert not hub._greeting


async def test_a_second_connection_with_the_same_key_takes_over(lane):
    first = await RawNode(lane).open()
    second = await RawNode(lane).open()
    assert await first.closed() == link_hub.CLOSE_REPLACED
    asked = job("link", seconds=5)
    running = asyncio.create_task(lane.dispatcher.run(asked, HOSTILE.address))
    await second.receive()
    await second.send(Kind.RESULTS, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"mine")]))
    assert (await running).outputs == b"mine"


async def test_a_job_is_sent_anew_to_a_node_that_lost_its_memory(lane):
    first = await RawNode(lane).open()
    asked = job("link", seconds=10)
    running = asyncio.create_task(lane.dispatcher.run(asked, HOSTILE.address))
    await first.receive()
    await first.socket.close()
    second = await RawNode(lane).open()
    frame = await second.receive()
    assert [one.request_id for one in decode_pack(frame.payload).jobs] == [asked.request_id]
    await second.send(Kind.RESULTS, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"late")]))
    assert (await running).outputs == b"late"


async def test_an_attempt_is_not_answered_by_the_result_of_another(lane):
    node = await RawNode(lane).open()
    asked = job("link", seconds=1, attempt="1")
    running = asyncio.create_task(lane.dispatcher.run(asked, HOSTILE.address))
    await node.receive()
    await node.send(Kind.RESULTS, encode_results([Result(asked.request_id, "0", ok=True, outputs=b"stale")]))
    await node.send(Kind.RESULTS, encode_results([Result(asked.request_id, "1", ok=True, outputs=b"right")]))
    assert (await running).outputs == b"right"


async def test_papers_that_did_not_arrive_are_kept(lane):
    node = await RawNode(lane).open()
    lane.papers.add(HOSTILE.address, b"\x01" * 32, b"a" * 65, b"\x0f" * 20, 7)
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not lane.papers.waiting():
            break
    assert lane.papers.waiting() == []
    lane.unstaked.add(HOSTILE.address)
    assert await node.closed() == link_hub.CLOSE_STANDING
    assert lane.papers.waiting() == [HOSTILE.address]


async def test_a_node_runs_a_job_once_however_often_it_comes(lane, redis_url):
    node = lane.nodes[1]
    asked = replace(job("link", seconds=20), attempt="7")
    data = encode_pack(Pack((asked,)))
    await node.bridge.forward(data)
    await node.bridge.forward(data)
    fresh = type(node.bridge)(redis_url, worker=VICTIM, gateway=GATEWAY.address)
    await fresh.recover()
    await fresh.forward(data)
    with sync_redis.Redis.from_url(redis_url) as client:
        counts = []
        for message in client.lrange(worker_queue(VICTIM), 0, -1):
            [argument], *_ = msgpack.unpackb(base64.b64decode(json.loads(message)["body"]))
            counts.append(sum(one.request_id == asked.request_id for one in decode_pack(argument).jobs))
        client.delete(worker_queue(VICTIM))
    assert sum(counts) == 1
    assert (node.bridge.repeated_jobs, fresh.repeated_jobs) == (1, 1)
    await fresh.close()


async def test_over_tls_a_node_links_only_to_a_server_it_trusts(lane, redis_url, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    server = LinkServer(lane.hub, ssl_certfile=str(certificate), ssl_keyfile=str(tmp_path / "server.key"))
    await server.start()
    node = Node(server.port, redis_url, HOSTILE, scheme="https")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(node.link_soon(), 1)
    await node.stop()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    node = Node(server.port, redis_url, HOSTILE, scheme="https")
    await node.start()
    await node.stop()
    await server.stop()
