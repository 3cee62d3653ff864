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
