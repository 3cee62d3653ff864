import asyncio
import threading

import pytest

from market.adapters.grouping import GroupThread


async def test_what_waits_is_taken_together_and_in_order():
    gate, groups = threading.Event(), []

    def handle(items):
        gate.wait(5)
        groups.append(items)
        return [item * 2 for item in items]

    thread = GroupThread[int, int]("t", handle, max_group=4)
    tasks = [asyncio.create_task(thread.run(i)) for i in range(9)]
    await asyncio.sleep(0.05)
    gate.set()
    assert await asyncio.gather(*tasks) == [2 * i for i in range(9)]
    assert [item for group in groups for item in group] == list(range(9))
    assert max(len(group) for group in groups) == 4
    thread.close()


async def test_each_caller_gets_its_own_outcome():
    thread = GroupThread[int, int]("t", lambda items: [ValueError(str(i)) if i % 2 else i for i in items])
    done = await asyncio.gather(*(thread.run(i) for i in range(4)), return_exceptions=True)
    assert [str(one) for one in done] == ["0", "1", "2", "3"]
    assert [isinstance(one, ValueError) for one in done] == [False, True, False, True]
    thread.close()


async def test_a_handler_that_raises_fails_its_group_and_lives_on():
    def handle(items):
        if 0 in items:
            raise KeyError("group")
        return items

    thread = GroupThread[int, int]("t", handle)
    with pytest.raises(KeyError):
        await thread.run(0)
    assert await thread.run(1) == 1
    thread.close()


async def test_close_finishes_what_waits():
    done = []
    thread = GroupThread[int, None]("t", lambda items: [done.append(item) for item in items])
    tasks = [asyncio.create_task(thread.run(i)) for i in range(20)]
    await asyncio.sleep(0)
    thread.close()
    await asyncio.gather(*tasks)
    assert done == list(range(20))


async def test_what_can_be_done_at_once_is_not_handed_over():
    by_thread, gate = [], threading.Event()

    def handle(items):
        gate.wait(5)
        by_thread.extend(items)
        return items

    thread = GroupThread[int, int]("t", handle, at_once=lambda items: None if items[0] < 0 else [i * 2 for i in items])
    assert await asyncio.gather(thread.run(3), thread.run(4)) == [6, 8]
    refused = asyncio.create_task(thread.run(-1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # The thread is at it: whatever comes now waits for its turn there, in one group.
    behind = [asyncio.create_task(thread.run(i)) for i in (5, 6)]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in (refused, *behind))
    gate.set()
    assert await asyncio.gather(refused, *behind) == [-1, 5, 6]
    assert by_thread == [-1, 5, 6]
    while thread._sent != thread._served:
        await asyncio.sleep(0.001)
    assert await thread.run(7) == 14
    put = asyncio.get_running_loop().create_future()
    thread.put([8, 9], put.set_result)
    assert not put.done()
    assert await put == [16, 18]
    thread.close()


async def test_something_else_is_done_in_its_turn():
    done, gate = [], threading.Event()

    def act():
        gate.wait(5)
        done.append("action")

    def fails():
        raise KeyError

    thread = GroupThread[int, int]("t", lambda items: [done.append(i) or i for i in items], at_once=lambda items: items)
    assert await thread.run(1) == 1
    assert done == []
    thread.do(act)
    thread.do(fails)
    behind = asyncio.create_task(thread.run(2))
    await asyncio.sleep(0.02)
    assert not behind.done()
    gate.set()
    assert await behind == 2
    assert done == ["action", 2]
    thread.close()
    assert thread._sent == thread._served
