"""A worker's line to the broker, and its sitting at the queue, on a real broker."""

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from contracts.protocol.celery_message import task_message
from contracts.protocol.messages import TASK_FILE_PAPERS, TASK_RUN, worker_queue
from market.devnet.process import Supervisor
from market.devnet.services import start_redis
from workers import sitting, tasks
from workers.line import Line

pytestmark = pytest.mark.integration

QUEUE = worker_queue(b"\x31" * 20)


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
    handlers = {name: lambda d, _, n=name: seen.append((n, d)) for name in tasks._HANDLERS}
    monkeypatch.setattr(tasks, "_HANDLERS", handlers)
    for message in (
        task_message(TASK_RUN, b"one", queue),
        b"no message",
        task_message("os.system", b"two", queue),
        task_message(TASK_FILE_PAPERS, b"three", queue),
    ):
        client.lpush(queue, message)
    tasks._sit(b"first")
    assert seen == [(TASK_RUN, b"first"), (TASK_RUN, b"one"), (TASK_FILE_PAPERS, b"three")]
    assert client.llen(queue) == 0


@pytest.fixture
def client(redis_url):
    client = redis.Redis.from_url(redis_url, protocol=2)
    yield client
    client.delete(QUEUE, "reply:x")


@pytest.fixture
def answering(client, monkeypatch):
    """A worker that answers each message with its argument; returns what it handled, and what to do before an answer."""
    node, seen, before = Node(client), [], {}

    def handle(data, sitting):
        seen.append(data)
        before.get(data, lambda: None)()
        sitting.answer([("RPUSH", "reply:x", data)])

    monkeypatch.setattr(tasks, "_joined", [(node, None)])
    monkeypatch.setattr(tasks, "_HANDLERS", {TASK_RUN: handle})
    return seen, before


def put(client, *arguments):
    for argument in arguments:
        client.lpush(QUEUE, task_message(TASK_RUN, argument, QUEUE))


def test_a_worker_that_is_to_stop_takes_nothing_more(client, answering, monkeypatch):
    seen, before = answering
    before[b"two"] = lambda: monkeypatch.setattr(sitting.state, "should_stop", 0)
    put(client, b"two", b"three")
    tasks._sit(b"one")
    assert seen == [b"one", b"two"]
    assert client.lrange("reply:x", 0, -1) == [b"one", b"two"]
    assert client.llen(QUEUE) == 1


def test_what_came_for_an_answer_is_handled_though_the_worker_is_to_stop_or_stumbles_since(
    client, answering, monkeypatch
):
    seen, _ = answering
    handle = tasks._HANDLERS[TASK_RUN]

    def stumbling(data, sitting_):
        handle(data, sitting_)
        if data == b"two":
            monkeypatch.setattr(sitting.state, "should_stop", 0)
        raise ValueError(data)

    monkeypatch.setattr(tasks, "_HANDLERS", {TASK_RUN: stumbling})
    put(client, b"two", b"three", b"four")
    tasks._sit(b"one")
    assert seen == [b"one", b"two", b"three"]
    assert client.llen(QUEUE) == 1


def test_an_answer_that_the_broker_refuses_costs_the_next_message_nothing(client, answering):
    seen, before = answering
    before[b"one"] = lambda: client.set("reply:x", "no list")
    before[b"two"] = lambda: client.delete("reply:x")
    put(client, b"two")
    tasks._sit(b"one")
    assert seen == [b"one", b"two"]
    assert client.lrange("reply:x", 0, -1) == [b"two"]


def test_a_sitting_ends_in_time_and_leaves_the_rest_to_celery(client, answering, monkeypatch):
    seen, before = answering
    monkeypatch.setattr(sitting, "SITTING_SECONDS", 0.2)
    before[b"two"] = lambda: time.sleep(0.25)
    put(client, b"two", b"three")
    tasks._sit(b"one")
    assert seen == [b"one", b"two"]
    assert client.llen(QUEUE) == 1


def test_an_idle_sitting_ends_after_a_moment(client, answering):
    started = time.monotonic()
    tasks._sit(b"one")
    assert 0.1 <= time.monotonic() - started < 0.6


def test_a_worker_that_dies_between_two_messages_takes_none_with_it(client):
    dying = Line(client)
    assert dying.call([("RPUSH", "reply:x", b"one")], ahead=("BRPOP", QUEUE, 5)) == [1]
    dying.close()
    until = time.monotonic() + 5
    while client.info("clients")["blocked_clients"] and time.monotonic() < until:
        time.sleep(0.01)
    put(client, b"two")
    assert client.lrange("reply:x", 0, -1) == [b"one"]
    assert client.llen(QUEUE) == 1
    again = Line(client)
    assert again.call((), ahead=("BRPOP", QUEUE, 5)) == []
    assert again.awaited()[0] == QUEUE.encode()
    again.close()


def test_a_broker_that_goes_while_a_message_is_awaited_ends_the_sitting(client, answering):
    seen, _ = answering
    line = tasks._line(tasks._joined[0][0].redis)
    (own,) = line.call([("CLIENT", "ID")])
    cut = threading.Timer(0.03, lambda: client.execute_command("CLIENT", "KILL", "ID", own))
    cut.start()
    tasks._sit(b"one")
    cut.join()
    assert seen == [b"one"]
    assert not line.awaits
    put(client, b"two")
    tasks._sit(b"three")
    assert seen == [b"one", b"three", b"two"]
