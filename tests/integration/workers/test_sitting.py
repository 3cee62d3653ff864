"""A worker's line to the broker, and its sitting at the queue, on a real broker."""

from collections.abc import Iterator

import pytest
import redis

from contracts.protocol.celery_message import task_message
from contracts.protocol.messages import TASK_FILE_PAPERS, TASK_RUN, worker_queue
from market.devnet.process import Supervisor
from market.devnet.services import start_redis
from workers import tasks
from workers.line import Line

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("broker")
    with pytest.MonkeyPatch.context() as patch, Supervisor(folder / "logs", folder) as supervisor:
        patch.delenv("MARKET_REDIS_URL", raising=False)
        yield start_redis(supervisor, folder)


class Node:
    def __init__(self, client):
        self.redis = client
        self.key = type("Key", (), {"address": b"\x31" * 20})


def test_answers_come_in_order_and_a_refused_command_is_told_in_its_place(redis_url):
    client = redis.Redis.from_url(redis_url, protocol=2)
    line = Line(client)
    client.set("line:text", "x")
    found = line.call([("RPUSH", "line:list", b"a", b"b"), ("LPUSH", "line:text", b"c"), ("LLEN", "line:list")])
    assert (found[0], found[2]) == (2, 2)
    assert isinstance(found[1], redis.ResponseError)
    client.delete("line:text", "line:list")
    line.close()


def test_a_line_that_was_cut_while_idle_is_made_anew(redis_url):
    client = redis.Redis.from_url(redis_url, protocol=2)
    line = Line(client)
    (own,) = line.call([("CLIENT", "ID")])
    client.execute_command("CLIENT", "KILL", "ID", own)
    try:
        (other,) = line.call([("CLIENT", "ID")])
    except redis.ConnectionError:
        # The cut was only seen in the answer; nothing is sent twice then.
        (other,) = line.call([("CLIENT", "ID")])
    assert other != own
    line.close()


def test_a_sitting_takes_what_waits_in_order_and_drops_what_is_no_call(redis_url, monkeypatch):
    client = redis.Redis.from_url(redis_url, protocol=2)
    node = Node(client)
    queue = worker_queue(node.key.address)
    seen = []
    monkeypatch.setattr(tasks, "_joined", [(node, None)])
    monkeypatch.setattr(tasks, "_HANDLERS", {name: lambda d, n=name: seen.append((n, d)) for name in tasks._HANDLERS})
    for message in (
        task_message(TASK_RUN, b"one", queue),
        b"no message",
        task_message("os.system", b"two", queue),
        task_message(TASK_FILE_PAPERS, b"three", queue),
    ):
        client.lpush(queue, message)
    tasks._sit()
    assert seen == [(TASK_RUN, b"one"), (TASK_FILE_PAPERS, b"three")]
    assert client.llen(queue) == 0


def test_a_worker_that_is_to_stop_takes_nothing_more(redis_url, monkeypatch):
    client = redis.Redis.from_url(redis_url, protocol=2)
    node = Node(client)
    queue = worker_queue(node.key.address)
    monkeypatch.setattr(tasks, "_joined", [(node, None)])
    monkeypatch.setattr(tasks.state, "should_stop", 0)
    client.lpush(queue, task_message(TASK_RUN, b"one", queue))
    tasks._sit()
    assert client.llen(queue) == 1
    client.delete(queue)
