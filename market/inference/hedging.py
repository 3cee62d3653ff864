"""Asks a second worker where the first is slower than it nearly always is, for requests that want that.

Decides when, how often, and whose answer counts: exactly one does. The other one's is dropped, costs nobody anything
and speaks against nobody; a first worker that stays silent is still watched until its patience ends, so that one that
hangs is found. Reserves and charges nothing itself. Called by the use case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from market.errors import MarketError
from market.inference.activity import Activity
from market.inference.load import WorkerLoad
from market.registry.offers import LiveOffer
from market.telemetry import HEDGES
from market.verification.result_check import CheckedResult

# A second worker is asked after the time in which the first answered this share of its newest requests.
QUANTILE = 0.95
LEAST_SAMPLES = 20
LEAST_SECONDS = 0.001
BURST = 10.0

Outcome = CheckedResult | MarketError


@dataclass(frozen=True, slots=True)
class Try:
    """One worker that may be asked; `begin` sends it the job."""

    live: LiveOffer
    begin: Callable[[], Coroutine[Any, Any, Outcome]]


class Hedges:
    """The second tries of one gateway process: at most `share` of the requests that ask for one, beside a few at once.

    The share keeps a market in which everybody has become slow from doing everything twice.
    """

    def __init__(self, activity: Activity, load: WorkerLoad, share: float) -> None:
        self._activity = activity
        self._load = load
        self._share = share
        self._credit = BURST if share else 0.0
        self._watched: set[asyncio.Task[Outcome]] = set()

    def has_room(self, live: LiveOffer, batch: int) -> bool:
        """Tell whether a worker has less than a batch under way, so that a second try keeps nobody waiting there."""
        return self._load.in_flight(live.offer.worker) < batch

    async def race(self, first: Try, second: Try) -> list[tuple[LiveOffer, Outcome]]:
        """Ask the first worker and, when it is late, the second; returns the outcomes of all that ended.

        The last one is the answer, if there was one; the others are failures.

        Raises:
            MarketError: what `begin` raises: there is no hope at anybody.
        """
        self._credit = min(BURST, self._credit + self._share)
        loop = asyncio.get_running_loop()
        running = {loop.create_task(first.begin()): first}
        leading = next(iter(running))
        ended: list[tuple[LiveOffer, Outcome]] = []
        try:
            delay = self._delay_seconds(first.live)
            if delay is not None:
                done, _ = await asyncio.wait(running, timeout=delay)
                if not done and self._credit >= 1.0:
                    self._credit -= 1.0
                    running[loop.create_task(second.begin())] = second
            asked = len(running)
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                # Both may have ended in one turn of the loop; then the first one's answer counts.
                for task in sorted(done, key=lambda task: task is not leading):
                    tried = running.pop(task)
                    outcome = task.result()
                    ended.append((tried.live, outcome))
                    if isinstance(outcome, CheckedResult):
                        if asked > 1:
                            HEDGES.labels("first" if task is leading else "second").inc()
                        self._watch(leading, running)
                        return ended
            if asked > 1:
                HEDGES.labels("neither").inc()
            return ended
        finally:
            for task in running:
                task.cancel()

    def close(self) -> None:
        """Stop watching workers whose answer nobody waits for."""
        for task in self._watched:
            task.cancel()

    def _delay_seconds(self, live: LiveOffer) -> float | None:
        seconds = self._activity.answer_seconds(live.offer.worker, live.offer.model_id, QUANTILE, LEAST_SAMPLES)
        return None if seconds is None else max(LEAST_SECONDS, seconds)

    def _watch(self, leading: asyncio.Task[Outcome], running: dict[asyncio.Task[Outcome], Try]) -> None:
        if running.pop(leading, None) is not None:
            self._watched.add(leading)
            leading.add_done_callback(self._seen)

    def _seen(self, task: asyncio.Task[Outcome]) -> None:
        self._watched.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would complain of it
