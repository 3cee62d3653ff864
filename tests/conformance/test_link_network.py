"""From a node's own network namespace only the gateway's port exists: every attack that a broker's URL allows fails.

Needs root and `ip netns`; a machine that gives neither says so and skips, and fails where `.ci/run` found them.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis as sync_redis

from contracts.protocol.link import LINK_PATH
from contracts.protocol.messages import worker_queue
from tests.support.demands import lacking
from tests.support.linked import LinkedLane

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SPACE = f"link-{os.getpid()}"
NEAR, FAR = f"lk{os.getpid() % 100_000}a", f"lk{os.getpid() % 100_000}b"
GATEWAY_HOST, NODE_HOST = "10.213.77.1", "10.213.77.2"

ATTACK = """
import socket, sys
for host, port in (row.rsplit(":", 1) for row in sys.argv[1:]):
    try:
        socket.create_connection((host, int(port)), timeout=1.5).close()
        print(host, port, "open")
    except OSError as error:
        print(host, port, type(error).__name__)
"""
# What was found to work with nothing but a broker's URL: to read, take, delay and forge what is others', to empty or
# take over the server, and to end every worker by Celery's remote control.
BROKER_ATTACKS = [
    ["PING"],
    ["KEYS", "*"],
    ["LRANGE", "QUEUE", "0", "-1"],
    ["BRPOP", "QUEUE", "1"],
    ["DEL", "QUEUE"],
    ["GET", "blob:in:00:0"],
    ["RPUSH", "reply:gateway", "forged"],
    ["SET", "cancel:00:0", "0"],
    ["SET", "announce:00", "forged"],
    ["RPUSH", "relay:to:gateway", "forged"],
    ["PUBLISH", "/0.celery.pidbox", "shutdown"],
    ["CONFIG", "SET", "dir", "/tmp"],
    ["ACL", "SETUSER", "default", "off"],
    ["EVAL", "return 1", "0"],
    ["REPLICAOF", "10.213.77.2", "6379"],
    ["MODULE", "LOAD", "/tmp/evil.so"],
    ["CLIENT", "KILL", "TYPE", "normal"],
    ["FLUSHALL"],
    ["SHUTDOWN", "NOSAVE"],
]
TAKE_JOBS = """
import json, sys, redis
client = redis.Redis.from_url(sys.argv[1], socket_connect_timeout=0.5, socket_timeout=1.5)
for attack in json.loads(sys.argv[2]):
    try:
        client.execute_command(*attack)
        print("did", *attack)
    except redis.ConnectionError:
        print("no way", attack[0])
from celery import Celery
app = Celery(broker=sys.argv[1])
try:
    app.connection(connect_timeout=1).ensure_connection(max_retries=1, timeout=2)
    app.control.shutdown()
    print("did celery shutdown")
except Exception as error:
    print("no way celery")
"""
NEEDED = "REQUIRE_NETNS"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def space():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise lacking("network namespaces need root and the program `ip`", NEEDED)
    made = subprocess.run(["ip", "netns", "add", SPACE], capture_output=True, text=True)
    if made.returncode:
        raise lacking(f"no network namespaces here: {made.stderr.strip()}", NEEDED)
    try:
        try:
            ip("link", "add", NEAR, "type", "veth", "peer", "name", FAR)
        except subprocess.CalledProcessError as error:
            raise lacking(f"no virtual network pair here: {error.stderr.strip()}", NEEDED) from error
        ip("link", "set", FAR, "netns", SPACE)
        ip("addr", "add", f"{GATEWAY_HOST}/30", "dev", NEAR)
        ip("link", "set", NEAR, "up")
        ip("-n", SPACE, "addr", "add", f"{NODE_HOST}/30", "dev", FAR)
        ip("-n", SPACE, "link", "set", FAR, "up")
        ip("-n", SPACE, "link", "set", "lo", "up")
        yield SPACE
    finally:
        subprocess.run(["ip", "link", "del", NEAR], capture_output=True)
        subprocess.run(["ip", "netns", "del", SPACE], capture_output=True)


class Door:
    """Shows one local port on the address that the namespace sees, as a gateway that listens there does."""

    def __init__(self, target: int) -> None:
        self._listener = socket.create_server((GATEWAY_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = target
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65_536):
                other.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


def inside(space: str, program: str, *arguments: str) -> str:
    command = ["ip", "netns", "exec", space, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT).stdout


async def test_from_a_nodes_network_only_the_gateway_can_be_reached(space, redis_url):
    broker = int(redis_url.rpartition(":")[2].partition("/")[0])
    lane = LinkedLane(redis_url)
    await lane.start()
    door = Door(lane.server.port)
    with sync_redis.Redis.from_url(redis_url) as client:
        client.rpush(worker_queue(b"\x09" * 20), "somebody's job")
        database = socket.create_server(("127.0.0.1", 0))  # as the gateway's database and metrics listen
        ports = (broker, database.getsockname()[1])
        targets = [f"{host}:{port}" for host in (GATEWAY_HOST, "127.0.0.1", NODE_HOST) for port in ports]
        found = await asyncio.to_thread(inside, space, ATTACK, *targets, f"{GATEWAY_HOST}:{door.port}")
        database.close()
        rows = found.splitlines()
        assert [row.rsplit(" ", 1)[1] == "open" for row in rows] == [*[False] * len(targets), True], found
        queue = worker_queue(b"\x09" * 20)
        attacks = [[queue if word == "QUEUE" else word for word in attack] for attack in BROKER_ATTACKS]
        for host in (GATEWAY_HOST, "127.0.0.1"):
            url = f"redis://{host}:{broker}/0"
            said = await asyncio.to_thread(inside, space, TAKE_JOBS, url, json.dumps(attacks))
            assert said.splitlines() == [*(f"no way {attack[0]}" for attack in attacks), "no way celery"]
        assert client.lrange(worker_queue(b"\x09" * 20), 0, -1) == [b"somebody's job"]
        client.delete(worker_queue(b"\x09" * 20))
    program = [*("ip", "netns", "exec", space, sys.executable, "-m", "tests.support.linked_node")]
    url = f"http://{GATEWAY_HOST}:{door.port}"
    node = await asyncio.create_subprocess_exec(*program, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert node.stdout is not None
    async with asyncio.timeout(60):
        while (line := await node.stdout.readline()).strip() != f"linked {LINK_PATH}".encode():
            assert line, "the node ended"
    node.terminate()
    await node.wait()
    door.close()
    await lane.close()
