"""The own lane's broker with a user for each worker, over TLS: what a worker needs works, everything else is forbidden."""

import asyncio
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import redis as sync_redis

from contracts.protocol.messages import (
    ANNOUNCE_KEY_PREFIX,
    ANNOUNCED_SET,
    INLINE_LIMIT_BYTES,
    blob_key,
    reply_key,
    worker_queue,
)
from market.adapters.redis_acl import acl_line, worker_user
from market.devnet.process import Supervisor, free_port
from market.devnet.services import find_valkey
from tests.conformance.test_celery_dispatch import ROOT, Lane
from tests.support.certificates import self_signed

pytestmark = pytest.mark.integration
WORKER, OTHER = b"\x71" * 20, b"\x72" * 20
SECRETS = {WORKER: secrets.token_hex(16), OTHER: secrets.token_hex(16)}
ADMIN = secrets.token_hex(16)


@pytest.fixture(scope="module")
def folder():
    made = Path(tempfile.mkdtemp(prefix="broker-users-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def port(folder):
    lines = [f"user default on >{ADMIN} ~* &* +@all", *(acl_line(worker, SECRETS[worker]) for worker in SECRETS)]
    (folder / "users.acl").write_text("\n".join(lines) + "\n")
    found = free_port()
    with Supervisor(folder / "logs", folder) as supervisor:
        command = [str(find_valkey()), "--port", str(found), "--bind", "127.0.0.1", "--save", ""]
        child = supervisor.start("valkey", [*command, "--aclfile", str(folder / "users.acl")])
        child.wait_ready(lambda: _answers(found), timeout_seconds=20, what="an answer")
        yield found


def _answers(port: int) -> bool:
    try:
        with sync_redis.Redis(port=port, password=ADMIN) as client:
            return bool(client.ping())
    except sync_redis.RedisError:
        return False


@pytest.fixture(scope="module")
def certificate(folder):
    return self_signed(folder)


@pytest.fixture(scope="module")
def tls_port(port, certificate, folder):
    """The embedded server has no TLS of its own: this ends it in front, as stunnel would."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, folder / "server.key")
    loop = asyncio.new_event_loop()

    async def forward(reader, writer):
        try:
            near = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return

        async def pump(source, sink):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, near[1]), pump(near[0], writer), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
    found = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def url(port: int, user: str, password: str, certificate: Path | None = None) -> str:
    if certificate is None:
        return f"redis://{user}:{password}@127.0.0.1:{port}/0"
    return f"rediss://{user}:{password}@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"


@pytest.fixture(scope="module")
def worker(tls_port, port, certificate):
    address = url(tls_port, worker_user(WORKER), SECRETS[WORKER], certificate)
    program = [sys.executable, "-m", "tests.support.echo_worker", address, WORKER.hex()]
    process = subprocess.Popen(program, cwd=ROOT)
    yield process
    process.terminate()
    process.wait(20)


async def test_a_worker_with_a_user_of_its_own_serves_over_tls(worker, tls_port, certificate, port):
    lane = Lane(url(tls_port, "default", ADMIN, certificate))
    result = await lane.run(worker=WORKER, seconds=30)
    assert result.outputs == b"input"
    large = secrets.token_bytes(INLINE_LIMIT_BYTES + 1)
    assert (await lane.run(worker=WORKER, inputs=large)).outputs == large
    many = await asyncio.gather(*(lane.run(worker=WORKER, inputs=bytes([i])) for i in range(60)))
    assert [one.outputs for one in many] == [bytes([i]) for i in range(60)]
    await lane.close()
    assert worker.poll() is None
    with sync_redis.Redis(port=port, password=ADMIN) as admin:
        assert admin.get(ANNOUNCE_KEY_PREFIX + WORKER.hex()) == b"alive"


async def test_a_certificate_of_nobody_knows_whom_is_refused(tls_port):
    with (
        sync_redis.Redis.from_url(f"rediss://default:{ADMIN}@127.0.0.1:{tls_port}/0") as client,
        pytest.raises(sync_redis.ConnectionError),
    ):
        client.ping()


REPLY = reply_key("gateway-1-abcd")
BLOB = blob_key("in", b"\x01" * 32, "0")
ATTACKS = [
    ("LRANGE", worker_queue(OTHER), "0", "-1"),
    ("BRPOP", worker_queue(OTHER), "1"),
    ("RPOP", worker_queue(OTHER)),
    ("LPUSH", worker_queue(OTHER), "x"),
    ("DEL", worker_queue(OTHER)),
    ("HGETALL", "unacked"),
    ("ZRANGE", "unacked_index", "0", "-1"),
    ("LRANGE", REPLY, "0", "-1"),
    ("BLPOP", REPLY, "1"),
    ("DEL", REPLY),
    ("EXPIRE", REPLY, "0"),
    ("LTRIM", REPLY, "1", "0"),
    ("SET", ANNOUNCE_KEY_PREFIX + OTHER.hex(), "x"),
    ("DEL", ANNOUNCE_KEY_PREFIX + OTHER.hex()),
    ("GET", ANNOUNCE_KEY_PREFIX + OTHER.hex()),
    ("SREM", ANNOUNCED_SET, OTHER.hex()),
    ("DEL", ANNOUNCED_SET),
    ("SET", BLOB, "other inputs"),
    ("DEL", BLOB),
    ("GET", blob_key("out", b"\x01" * 32, "0")),
    ("SET", "cancel:" + "01" * 32 + ":0", "0"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", worker_user(WORKER), "+@all"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("MONITOR",),
    ("RPUSH", "relay:to:gateway-1", "a result in another's name"),
    ("SET", f"relay:home:{bytes(20).hex()}:{OTHER.hex()}", "gateway-1"),
    ("SHUTDOWN", "NOSAVE"),
    ("DEBUG", "SLEEP", "1"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
    ("SAVE",),
    ("INFO",),
    ("PUBLISH", "/0.celery.pidbox", "shutdown"),
    ("PSUBSCRIBE", "*"),
    ("EVAL", f"return redis.call('LRANGE', '{worker_queue(OTHER)}', 0, -1)", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
]


@pytest.fixture(scope="module")
def admin(port):
    with sync_redis.Redis(port=port, password=ADMIN) as client:
        client.rpush(worker_queue(OTHER), "a job")
        client.rpush(REPLY, "a result")
        client.set(BLOB, "inputs")
        client.set(ANNOUNCE_KEY_PREFIX + OTHER.hex(), "alive")
        client.sadd(ANNOUNCED_SET, OTHER.hex())
        yield client


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: " ".join(attack)[:50])
def test_a_workers_user_may_not(attack, port, admin):
    with sync_redis.Redis.from_url(url(port, worker_user(WORKER), SECRETS[WORKER]), socket_timeout=3) as client:
        with pytest.raises(sync_redis.ResponseError) as raised:
            client.execute_command(*attack)
        said = str(raised.value).lower()
        assert "permission" in said or "can't access" in said or "not allowed" in said or "noperm" in said, said


def test_after_all_attacks_everything_of_the_others_is_as_it_was(admin):
    assert admin.lrange(worker_queue(OTHER), 0, -1) == [b"a job"]
    assert admin.lrange(REPLY, 0, -1) == [b"a result"]
    assert admin.ttl(REPLY) == -1
    assert (admin.get(BLOB), admin.get(ANNOUNCE_KEY_PREFIX + OTHER.hex())) == (b"inputs", b"alive")
    assert admin.sismember(ANNOUNCED_SET, OTHER.hex())


def test_without_its_password_a_worker_is_nobody(port):
    with (
        sync_redis.Redis.from_url(url(port, worker_user(WORKER), SECRETS[OTHER])) as client,
        pytest.raises(sync_redis.AuthenticationError),
    ):
        client.ping()


def test_the_line_holds_no_password():
    assert SECRETS[WORKER] not in acl_line(WORKER, SECRETS[WORKER])
