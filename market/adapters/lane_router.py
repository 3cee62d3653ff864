"""Joins the two lanes behind the ports that the rest of the market knows: one dispatcher, one source of announcements.

A linked worker is reached over its link, every other through the broker. Called by `market.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from contracts.protocol.errors import CodedError
from contracts.protocol.messages import Announcement, Job, Papers, Result
from market.adapters.celery_dispatch import CeleryDispatcher
from market.adapters.link_dispatch import LinkDispatcher
from market.adapters.link_hub import LinkHub
from market.adapters.link_relay import LinkRelay
from market.inference.ports import PaperSource
from market.registry.offers import Announcements


class LaneRouter:
    """Implements `market.inference.ports.Dispatcher` by the lane of each worker."""

    def __init__(
        self, own: CeleryDispatcher, linked: LinkDispatcher, hub: LinkHub, relay: LinkRelay | None = None
    ) -> None:
        self._own = own
        self._linked = linked
        self._hub = hub
        self._relay = relay

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        return self._own.reply_to

    def start(self) -> None:
        """Start both lanes; call it inside the event loop."""
        self._own.start()
        self._linked.start()
        if self._relay is not None:
            self._relay.start()

    async def close(self) -> None:
        """Close both lanes, and the links with them."""
        await self._linked.close()
        await self._hub.close()
        if self._relay is not None:
            await self._relay.close()
        await self._own.close()

    async def run(
        self,
        job: Job,
        worker: bytes,
        on_partial: Callable[[Result], None] | None = None,
        *,
        long: bool = False,
        client: bytes | None = None,
    ) -> Result:
        """See `Dispatcher.run`."""
        lane = self._linked if self._linked.reaches(worker) else self._own
        return await lane.run(job, worker, on_partial, long=long, client=client)

    def submit(
        self,
        job: Job,
        worker: bytes,
        ended: Callable[[Result | Exception], None],
        *,
        client: bytes | None = None,
        leave_at: float = math.inf,
    ) -> object:
        """See `InstantDispatcher.submit`."""
        lane = self._linked if self._linked.reaches(worker) else self._own
        return lane.submit(job, worker, ended, client=client, leave_at=leave_at)

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        await (self._linked if self._linked.has_job(job) else self._own).stop(job, tokens)


class JoinedAnnouncements:
    """Implements `market.registry.offers.Announcements` over both lanes; a linked worker's link has the say."""

    def __init__(self, broker: Announcements, hub: LinkHub, relay: LinkRelay | None = None) -> None:
        self._broker = broker
        self._hub = hub
        self._relay = relay

    async def read(self) -> Sequence[Announcement]:
        """See `Announcements.read`; the links are read even while the broker is away."""
        linked = list(await self._hub.read())
        if self._relay is not None:
            linked += self._relay.announcements()
        try:
            own = await self._broker.read()
        except CodedError:
            if not linked:
                raise
            own = []
        reached = {one.worker for one in linked}
        return [*(one for one in own if one.worker not in reached and not self._hub.has(one.worker)), *linked]


class LanePapers:
    """The part of a `PaperSource` that one lane carries."""

    def __init__(self, papers: PaperSource, mine: Callable[[bytes], bool]) -> None:
        self._papers = papers
        self._mine = mine

    def take(self, worker: bytes) -> Papers | None:
        """See `PaperSource.take`."""
        return self._papers.take(worker)

    def take_due(self, worker: bytes) -> Papers | None:
        """See `PaperSource.take_due`."""
        return self._papers.take_due(worker)

    def put_back(self, worker: bytes, papers: Papers) -> None:
        """See `PaperSource.put_back`."""
        self._papers.put_back(worker, papers)

    def waiting(self) -> list[bytes]:
        """See `PaperSource.waiting`."""
        return [worker for worker in self._papers.waiting() if self._mine(worker)]
