import time

import pytest
import redis as sync_redis
from structlog.testing import capture_logs

from contracts.protocol.messages import ANNOUNCE_KEY_PREFIX, ANNOUNCED_SET, Announcement, encode_announcement
from contracts.protocol.typed_data import Offer
from market.adapters.redis_announcements import RedisAnnouncements
from market.errors import RedisUnreachable

pytestmark = pytest.mark.integration


def announcement(worker: bytes) -> Announcement:
    offer = (Offer(worker, b"\x02" * 32, b"\x03" * 20, 5, 6, 7), b"s" * 65)
    return Announcement(worker, (offer,), (b"{}",), 1, ((b"\x02" * 32, 8),), "cpu", time.time(), bytes(8))


@pytest.fixture
def plain(redis_url):
    with sync_redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


def publish(client, worker: bytes, data: bytes, *, seconds: int = 10) -> None:
    client.set(ANNOUNCE_KEY_PREFIX + worker.hex(), data, ex=seconds)
    client.sadd(ANNOUNCED_SET, worker.hex())


async def test_announcements_are_read(redis_url, plain):
    made = [announcement(bytes([i]) * 20) for i in range(3)]
    for one in made:
        publish(plain, one.worker, encode_announcement(one))
    reader = RedisAnnouncements(redis_url)
    assert sorted(await reader.read(), key=lambda one: one.worker) == made
    await reader.close()


async def test_rubbish_and_impostors_are_left_out_and_the_gone_forgotten(redis_url, plain):
    publish(plain, b"\x01" * 20, b"rubbish")
    publish(plain, b"\x02" * 20, encode_announcement(announcement(b"\x09" * 20)))
    plain.sadd(ANNOUNCED_SET, (b"\x03" * 20).hex(), b"\xff\xfe")
    reader = RedisAnnouncements(redis_url)
    assert list(await reader.read()) == []
    assert plain.smembers(ANNOUNCED_SET) >= {(b"\x01" * 20).hex().encode()}
    assert (b"\x03" * 20).hex().encode() not in plain.smembers(ANNOUNCED_SET)
    plain.flushall()
    assert list(await reader.read()) == []
    await reader.close()


async def test_what_cannot_be_read_is_said_once(redis_url, plain):
    reader = RedisAnnouncements(redis_url)
    with capture_logs() as said:
        for _ in range(3):
            publish(plain, b"\x01" * 20, b"rubbish")
            await reader.read()
        publish(plain, b"\x01" * 20, encode_announcement(announcement(b"\x01" * 20)))
        await reader.read()
        publish(plain, b"\x01" * 20, b"rubbish")
        await reader.read()
    assert [row["event"] for row in said] == ["unreadable-announcement"] * 2
    await reader.close()


async def test_unreachable_redis_is_named():
    reader = RedisAnnouncements("redis://127.0.0.1:1/0")
    with pytest.raises(RedisUnreachable):
        await reader.read()
    await reader.close()
