"""Tasks are ended for certain, also those that lose a cancellation."""

import asyncio

from contracts.futures import end_all


async def test_a_task_that_swallows_its_first_cancellations_is_ended():
    swallowed = 0

    async def stubborn():
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    async def faulty():
        raise ValueError("not told to anybody")

    tasks = [asyncio.create_task(work()) for work in (stubborn, faulty)]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_all(tasks), 10)
    assert swallowed == 2
    assert [task.cancelled() for task in tasks] == [True, False]


async def test_nothing_to_end_is_no_wait():
    await end_all([])
