"""Hands an outcome that came by a call-back to who awaits it, ends tasks for certain, rests. Used by both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def resolve(future: asyncio.Future[T], outcome: T | BaseException) -> None:
    """Give a result or an exception to a future, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


async def end_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until each has ended, however it did.

    Once is not enough: a time-out of the Redis client at the same moment can swallow a cancellation.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.2)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def rest(until: asyncio.Event, seconds: float) -> None:
    """Wait for an event to be set from now on, so many seconds at most."""
    until.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()
