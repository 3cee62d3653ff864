"""Who floods one process of a gateway finds the doors of all of them closed, as long as Redis is there to say so."""

import asyncio
import secrets

import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.signing import PrivateKey
from market.adapters import link_bars, link_hub
from market.adapters.link_bars import MemoryBars, RedisBars
from market.adapters.link_dispatch import LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.inference.papers import PapersDesk
from tests.support.linked import LinkServer
from tests.support.money import DOMAIN, GATEWAY
from tests.support.raw_node import RawNode, refused

pytestmark = pytest.mark.integration
GONE = "redis://127.0.0.1:1/0"


class Process:
    """One process of a gateway, as far as links go."""

    def __init__(self, bars):
        self.bars = bars
        self.hub = LinkHub(key=GATEWAY, domain=DOMAIN, in_standing=lambda worker: True, bars=bars)
        papers = PapersDesk(key=GATEWAY, domain=DOMAIN)
        self.lane = LinkDispatcher(self.hub, papers=papers, is_live=lambda worker: True, max_batch=lambda *_: 8)
        self.server = LinkServer(self.hub)

    async def __aenter__(self):
        await self.server.start()
        self.watch = asyncio.create_task(self.hub.run())
        return self

    async def __aexit__(self, *_):
        self.watch.cancel()
        await self.hub.close()
        await self.server.stop()
        if isinstance(self.bars, RedisBars):
            await self.bars.close()


@pytest.fixture
def key():
    return PrivateKey(sha256(secrets.token_bytes(8)))


@pytest.fixture
def gateway():
    return secrets.token_bytes(20)


async def test_a_worker_barred_at_one_process_finds_the_others_closed(redis_url, key, gateway):
    async with Process(RedisBars(redis_url, gateway)) as a, Process(RedisBars(redis_url, gateway)) as b:
        node = await RawNode(a.server.port, key).open()
        assert await node.flood() in (link_hub.CLOSE_BUSY, 1006)
        for process in (b, a):
            again = RawNode(process.server.port, key)
            assert await refused(again, await again.hello()) == link_hub.CLOSE_REFUSED
        honest = await RawNode(b.server.port, PrivateKey(sha256(b"honest"))).open()
        assert b.hub.session(honest.key.address).connection is not None
        await honest.socket.close()


async def test_a_link_that_came_before_the_bar_ends(redis_url, key, gateway):
    async with Process(RedisBars(redis_url, gateway)) as a, Process(RedisBars(redis_url, gateway)) as b:
        elsewhere = await RawNode(b.server.port, key).open()
        await (await RawNode(a.server.port, key).open()).flood()
        assert await elsewhere.closed() == link_hub.CLOSE_BUSY
        assert not b.hub.has(key.address)


async def test_another_gateway_decides_for_itself(redis_url, key, gateway):
    mine, other = RedisBars(redis_url, gateway), RedisBars(redis_url, secrets.token_bytes(20))
    mine.bar(key.address)
    await mine.close()
    assert await other.among([key.address]) == frozenset()
    await other.close()


async def test_without_redis_each_process_knows_its_own(key, gateway):
    mine, other = RedisBars(GONE, gateway), RedisBars(GONE, gateway)
    mine.bar(key.address)
    assert await mine.among([key.address, b"?" * 20]) == {key.address}
    assert await other.among([key.address]) == frozenset()
    await mine.close()
    await other.close()


async def test_a_bar_ends(redis_url, key, gateway, monkeypatch):
    monkeypatch.setattr(link_bars, "PENALTY_SECONDS", 0.2)
    shared, alone = RedisBars(redis_url, gateway), MemoryBars()
    for bars in (shared, alone):
        bars.bar(key.address)
        assert await bars.among([key.address]) == {key.address}
    await asyncio.sleep(0.3)
    for bars in (shared, alone):
        assert await bars.among([key.address]) == frozenset()
    await shared.close()
