"""Threads of their own for what takes long and nobody has paid for yet.

asyncio's own few are for what money waits for: a channel's account, a payment by x402, the registry. Whoever asks for
the past again and again, or sends large bodies, keeps others that do so waiting, and them alone. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")
_lookers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="looking")
_readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="bodies")


async def looking(work: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """Look at receipts, batches or the past for somebody who wants to see them."""
    return await asyncio.get_running_loop().run_in_executor(_lookers, partial(work, *arguments, **named))


async def reading(work: Callable[..., _T], *arguments: Any) -> _T:
    """Unpack, read or pack a large body."""
    return await asyncio.get_running_loop().run_in_executor(_readers, partial(work, *arguments))
