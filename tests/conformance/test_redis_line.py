"""The line to Redis against a real server: order, refusals, time, closed connections."""

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from market.adapters.redis_client import open_redis
from market.adapters.redis_line import RedisLine


@pytest.fixture
async def line(redis_url):
    client = open_redis(redis_url)
    made = RedisLine(client)
    yield made
    await made.close()
    await client.aclose()


async def sent(line, *command, seconds=5.0):
    future = asyncio.get_running_loop().create_future()
    assert line.send(command, future.set_result, seconds)
    return await future


async def test_nothing_is_sent_before_it_is_open(line):
    assert not line.send(("PING",), print)
    assert await line.open() is False
    assert await line.open() is True
    assert await sent(line, "PING") in (b"PONG", "PONG")


async def test_answers_come_in_the_order_of_commands(line):
    await line.open()
    answers = []
    done = asyncio.get_running_loop().create_future()
    line.send(("DEL", "line-test"), answers.append, 5)
    for number in range(50):
        line.send(("RPUSH", "line-test", b"x" * number * 1_000), answers.append, 5)
    line.send(("LPOP", "line-test", 60), done.set_result, 5)
    assert [len(one) for one in await done] == [number * 1_000 for number in range(50)]
    assert answers[1:] == list(range(1, 51))


async def test_a_refusal_is_that_commands_alone(line):
    await line.open()
    answers = await asyncio.gather(
        sent(line, "SET", "line-test", "1"), sent(line, "LPUSH", "line-test", "1"), sent(line, "GET", "line-test")
    )
    assert isinstance(answers[1], ResponseError)
    assert "WRONGTYPE" in str(answers[1])
    assert answers[2] == b"1"
    with pytest.raises(ResponseError):
        await line.call("LPUSH", "line-test", "1")


async def test_no_answer_in_time_closes_the_connection(line):
    await line.open()
    behind = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(sent(line, "BLPOP", "line-never", 0, seconds=0.1))
    await asyncio.sleep(0)
    line.send(("PING",), behind.set_result, 5)
    assert isinstance(await first, TimeoutError)
    assert isinstance(await behind, TimeoutError)
    assert not line.send(("PING",), print)
    assert await line.call("ECHO", "again") == b"again"


async def test_a_closed_connection_is_made_anew_for_who_awaits(line, redis_url):
    own = await line.call("CLIENT", "ID")
    killer = open_redis(redis_url)
    waiting = asyncio.create_task(sent(line, "BLPOP", "line-never", 0))
    await asyncio.sleep(0.05)
    await killer.execute_command("CLIENT", "KILL", "ID", own)
    assert isinstance(await waiting, ConnectionLost)
    assert await line.call("CLIENT", "ID") != own
    await killer.aclose()


async def test_one_callers_trouble_is_not_its_neighbours(line):
    await line.open()

    def raises(_):
        raise KeyError

    line.send(("PING",), raises, 5)
    assert await sent(line, "ECHO", "next") == b"next"


async def test_closing_tells_who_waits(line):
    await line.open()
    waiting = asyncio.create_task(sent(line, "BLPOP", "line-never", 0))
    await asyncio.sleep(0)
    await line.close()
    assert isinstance(await waiting, ConnectionLost)


def test_the_gateways_own_event_loop(redis_url):
    async def ask():
        client = open_redis(redis_url)
        line = RedisLine(client)
        try:
            return await line.call("ECHO", b"uvloop"), await sent(line, "ECHO", b"again")
        finally:
            await line.close()
            await client.aclose()

    assert uvloop.run(ask()) == (b"uvloop", b"again")
