"""What makes a program start quickly; `market` and `worker` call it before they import the rest of themselves."""

from __future__ import annotations

import gc

from contracts.bindings import aiohttp_later

# New objects before the collector looks at them. Python's own 700 make it look through what is being imported hundreds
# of times, where nothing is garbage.
COLLECT_AFTER = 10_000


def start_quickly() -> None:
    """Leave out of this process what no program needs, and collect garbage less often."""
    gc.set_threshold(COLLECT_AFTER)
    aiohttp_later.put_off()
