"""The link lane: carries packs to the nodes of other operators over the links that they opened.

What a node has not acknowledged goes out again when it is back; what it had in hand when it lost its memory is sent
anew, and a job it knows already runs once. A result counts only from the worker that was asked. Implements
`market.inference.ports.Dispatcher`, and is told by the hub what comes in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from contracts.protocol.link_contents import Stop
from contracts.protocol.link_frames import Kind
from contracts.protocol.messages import Job, Pack, Papers, decode_results, encode_pack, encode_papers
from market.adapters.link_hub import LinkHub
from market.adapters.link_session import LinkSession
from market.adapters.packing import PackingDispatcher, Waiting
from market.inference.ports import PaperSource, WorkerGone

PAPERS_SECONDS = 3_600.0
STOP_SECONDS = 120.0
JOBS_SENT_ANEW = 64


class LinkDispatcher(PackingDispatcher):
    """One per gateway process; its jobs go to linked workers only."""

    def __init__(
        self,
        hub: LinkHub,
        *,
        papers: PaperSource,
        is_live: Callable[[bytes], bool],
        max_batch: Callable[[bytes, bytes], int],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            papers=papers,
            is_live=lambda worker: hub.has(worker) and is_live(worker),
            max_batch=max_batch,
            wall_clock=wall_clock,
        )
        self._hub = hub
        hub.join(self)

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`; a node names its own list."""
        return "link"

    def has_job(self, job: Job) -> bool:
        """Tell whether a job is under way here."""
        return (job.request_id, job.attempt) in self._pending

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        entry = self._pending.get((job.request_id, job.attempt))
        session = None if entry is None else self._hub.session(entry.lane.worker)
        if session is not None:
            stop = Stop(job.request_id, job.attempt, tokens)
            session.send(Kind.STOP, stop.to_bytes(), self._wall_clock() + STOP_SECONDS)

    # --- what the hub tells ------------------------------------------------------------------------------------

    def on_results(self, worker: bytes, data: bytes) -> tuple[int, int]:
        """See `LinkReader.on_results`."""
        strange = self._pair(decode_results(data), worker)
        partial = sum(not result.final for result in strange)
        return len(strange) - partial, partial

    def on_fresh(self, worker: bytes) -> None:
        """See `LinkReader.on_fresh`."""
        sent: dict[bytes, list[Job]] = {}
        for entry in self._pending.values():
            if entry.sent and entry.lane.worker == worker and entry.ended is not None:
                sent.setdefault(entry.job.model_id, []).append(entry.job)
        session = self._hub.session(worker)
        for jobs in sent.values():
            for start in range(0, len(jobs), JOBS_SENT_ANEW):
                self._put(session, Pack(tuple(jobs[start : start + JOBS_SENT_ANEW])))

    def on_ended(self, session: LinkSession) -> None:
        """See `LinkReader.on_ended`."""
        for papers in session.lost_papers():
            self._papers.put_back(session.worker, papers)
        if not self._hub.has(session.worker):
            for entry in [entry for entry in self._pending.values() if entry.lane.worker == session.worker]:
                self._finish(entry, WorkerGone())

    # --- outbound ----------------------------------------------------------------------------------------------

    def _packs_in_flight(self, worker: bytes) -> int:
        session = self._hub.session(worker)
        return 1 if session is None else session.window

    async def _carry(self, worker: bytes, pack: Pack, entries: Sequence[Waiting]) -> None:
        del entries
        self._put(self._hub.session(worker), pack)

    async def _carry_papers(self, worker: bytes, papers: Papers) -> None:
        session = self._hub.session(worker)
        if session is None:
            raise WorkerGone
        session.send(Kind.PAPERS, encode_papers(papers), self._wall_clock() + PAPERS_SECONDS, papers)

    def _put(self, session: LinkSession | None, pack: Pack) -> None:
        if session is None:
            raise WorkerGone
        session.jobs_sent += len(pack.jobs)
        has_papers = pack.papers.countersigned or pack.papers.credit_note is not None
        # With papers it is kept although its jobs' time has run out.
        last = max(job.deadline_at for job in pack.jobs)
        expires_at = max(last, self._wall_clock() + PAPERS_SECONDS) if has_papers else last
        session.send(Kind.PACK, encode_pack(pack), expires_at, pack.papers if has_papers else None)
