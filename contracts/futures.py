"""Hands an outcome that came by a call-back to who awaits it. Used by adapters of both sides."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


def resolve(future: asyncio.Future[T], outcome: T | BaseException) -> None:
    """Give a result or an exception to a future, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
