"""Lets programs that pay from one channel, with one file of papers, go one after the other.

Each signs what is charged plus its own price: two that did so at once would sign the same sum, and one be refused. A
lock of the system's, which ends with its program, is asked for politely: who waited for a while goes on without, and
signs as much more as the gateway then asks, within its limits. Called by the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system: nobody waits
    fcntl = None  # type: ignore[assignment]


def take_turn(papers: Path | None, channel_id: bytes) -> Callable[[], None] | None:
    """Take a channel's turn; returns what ends it, or None while another request has it.

    Papers in memory are one program's, which sees to its own requests. Where no lock can be had, nobody waits.
    """
    if papers is None or fcntl is None:
        return _nothing
    try:
        file = papers.with_name(f"{papers.name}-{channel_id.hex()[:16]}.turn").open("wb")
    except OSError:
        return _nothing
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        return _nothing

    def end() -> None:
        with suppress(OSError):
            file.close()

    return end


def _nothing() -> None:
    """End what was not begun."""
