"""The link lane in one event loop: a hub behind a real WebSocket server, nodes that open real connections to it."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import redis as sync_redis
import uvicorn

from contracts.protocol.hashing import sha256
from contracts.protocol.link import PING_SECONDS, PING_TIMEOUT_SECONDS
from contracts.protocol.link_frames import MAX_FRAME_BYTES
from contracts.protocol.signing import PrivateKey
from market.adapters.link_dispatch import LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.gateway.link import LinkPath
from market.inference.papers import PapersDesk
from tests.support.money import DOMAIN, GATEWAY
from workers.link.bridge import Bridge
from workers.link.connection import GatewayLink

WORKER_KEY, NOBODY_KEY = PrivateKey(sha256(b"linked worker")), PrivateKey(sha256(b"linked nobody"))


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def nothing_here(scope, receive, send):
    await receive()
    await send({"type": "websocket.close"})


class LinkServer:
    """A gateway's door for links on a port of its own."""

    def __init__(self, hub: LinkHub, **tls: object) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        config = uvicorn.Config(
            LinkPath(nothing_here, hub),
            ws="websockets-sansio",
            ws_max_size=MAX_FRAME_BYTES + 256,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_TIMEOUT_SECONDS,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
            **tls,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        assert self._task is not None
        await self._task
        self._listener.close()


class Node:
    """One linked node: its broker's end and its connection; whoever reads the broker is the test's business."""

    def __init__(self, port: int, redis_url: str, key: PrivateKey, *, window: int = 2, scheme: str = "http") -> None:
        self.key = key
        self.bridge = Bridge(redis_url, worker=key.address, gateway=GATEWAY.address)
        self.link = GatewayLink(
            f"{scheme}://127.0.0.1:{port}",
            gateway=GATEWAY.address,
            key=key,
            domain=DOMAIN,
            bridge=self.bridge,
            window=window,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.bridge.recover()
        await asyncio.wait_for(self.link_soon(), 10)

    async def link_soon(self) -> None:
        self._task = asyncio.create_task(self.link.run())
        await self.link.linked()

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.bridge.close()


class LinkedLane:
    """A gateway's end and the nodes of two workers, of which only `WORKER_KEY` has somebody working for it."""

    reply_list = f"reply:link-{GATEWAY.address.hex()}-{NOBODY_KEY.address.hex()}"

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self.papers = PapersDesk(key=GATEWAY, domain=DOMAIN)
        self.dead: set[bytes] = set()
        self.unstaked: set[bytes] = set()
        self.hub = LinkHub(key=GATEWAY, domain=DOMAIN, in_standing=lambda worker: worker not in self.unstaked)
        self.dispatcher = LinkDispatcher(
            self.hub,
            papers=self.papers,
            is_live=lambda worker: worker not in self.dead,
            max_batch=lambda worker, model: 8,
        )
        self.server = LinkServer(self.hub)
        self.nodes: list[Node] = []
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        with sync_redis.Redis.from_url(self._redis_url) as client:
            client.delete(*client.keys("reply:link-*"), "none")
        self.dispatcher.start()
        await self.server.start()
        self._watch = asyncio.create_task(self.hub.run())
        for key in (WORKER_KEY, NOBODY_KEY):
            await self.add(key)

    async def add(self, key: PrivateKey, *, port: int = 0) -> Node:
        node = Node(port or self.server.port, self._redis_url, key)
        await node.start()
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        assert self._watch is not None
        self._watch.cancel()
        for node in self.nodes:
            await node.stop()
        await self.dispatcher.close()
        await self.hub.close()
        await self.server.stop()


def fresh_request() -> bytes:
    return secrets.token_bytes(32)
