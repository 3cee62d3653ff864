"""What the x402 door does beside the event loop, and what goes on when the client that began it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from market.inference.unfinished import Unfinished

SETTLING_AT_ONCE = 32

_T = TypeVar("_T")
_unfinished = Unfinished()
_threads = ThreadPoolExecutor(max_workers=SETTLING_AT_ONCE, thread_name_prefix="x402")


async def apart(work: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """Run what waits for the database in a thread."""
    return await asyncio.to_thread(work, *arguments, **named)


async def on_chain(work: Callable[..., _T], *arguments: Any) -> _T:
    """Run what may wait for blocks, in threads of its own."""
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: work(*arguments))


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end even if the client leaves: money has moved or is about to."""
    task = _unfinished.spawn(work)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


async def settle_background() -> None:
    """Wait for payments that outlived their client; called when the gateway closes."""
    await _unfinished.close()


def _ended(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # whoever still waits is told; nobody else needs to be
