"""The link lane: carries packs to the nodes of other operators over the links that they opened.

What a node has not acknowledged goes out again when it is back; what it had in hand when it lost its memory is sent
anew, and a job it knows already runs once. A result counts only from the worker that was asked. Where several processes
of a gateway share their links, jobs go by way of the process that has the link, and follow a node that links elsewhere.
Implements `market.inference.ports.Dispatcher`, and is told by hub and relay what comes in.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from contracts.protocol.link_contents import Stop
from contracts.protocol.link_frames import Kind
from contracts.protocol.messages import (
    Job,
    Pack,
    Papers,
    Result,
    decode_pack,
    decode_papers,
    decode_results,
    encode_pack,
    encode_papers,
    encode_results,
)
from market.adapters.link_hub import LinkHub
from market.adapters.link_relay import LinkRelay
from market.adapters.link_session import LinkSession
from market.adapters.packing import PACKS_IN_FLIGHT, PackingDispatcher, Waiting
from market.inference.ports import PaperSource, WorkerGone

PAPERS_SECONDS = 3_600.0
STOP_SECONDS = 120.0
JOBS_SENT_ANEW = 64
# Results whose job another process has not brought here yet.
EARLY_RESULTS = 256
EARLY_RESULT_BYTES = 1 << 20
EARLY_RESULTS_BYTES = 16 << 20
GUEST_GRACE_SECONDS = 5.0
# Beside the link's own kinds: the process that was asked has no link to the worker.
NOT_HERE = 255

_Key = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class _Guest:
    """A job that another process sends by the link here."""

    process: str
    worker: bytes
    job: Job


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
        relay: LinkRelay | None = None,
    ) -> None:
        super().__init__(
            papers=papers,
            is_live=lambda worker: self.reaches(worker) and is_live(worker),
            max_batch=max_batch,
            wall_clock=wall_clock,
        )
        self._hub = hub
        self._relay = relay
        self._guests: dict[_Key, _Guest] = {}
        self._early: OrderedDict[_Key, tuple[bytes, Result]] = OrderedDict()
        self._early_bytes = 0
        hub.join(self)
        if relay is not None:
            relay.join(self)

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`; a node names its own list."""
        return "link"

    def reaches(self, worker: bytes) -> bool:
        """Tell whether a worker is linked to this process, or to another that passes jobs on."""
        return self._hub.has(worker) or self._home(worker) is not None

    def has_job(self, job: Job) -> bool:
        """Tell whether a job is under way here."""
        return (job.request_id, job.attempt) in self._pending

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        entry = self._pending.get((job.request_id, job.attempt))
        if entry is None:
            return
        worker, stop = entry.lane.worker, Stop(job.request_id, job.attempt, tokens).to_bytes()
        session, home = self._hub.session(worker), self._home(worker)
        if session is not None:
            session.send(Kind.STOP, stop, self._wall_clock() + STOP_SECONDS)
        elif home is not None and self._relay is not None:
            await self._relay.send(home, Kind.STOP, worker, stop)

    # --- what the hub tells ------------------------------------------------------------------------------------

    def on_results(self, worker: bytes, data: bytes) -> tuple[int, int]:
        """See `LinkReader.on_results`."""
        strange = self._pair(decode_results(data), worker)
        if self._relay is not None:
            strange = [result for result in strange if not self._pass_to_host(worker, result)]
        partial = sum(not result.final for result in strange)
        return len(strange) - partial, partial

    def on_fresh(self, worker: bytes) -> None:
        """See `LinkReader.on_fresh`."""
        session = self._hub.session(worker)
        guests = [guest.job for guest in self._guests.values() if guest.worker == worker]
        for pack in _packs([*self._sent_to(worker), *guests]):
            self._put(session, pack)
        if self._relay is not None:
            self._relay.stir()

    def on_ended(self, session: LinkSession) -> None:
        """See `LinkReader.on_ended`."""
        for papers in session.lost_papers():
            self._papers.put_back(session.worker, papers)
        if not self._hub.has(session.worker):
            self.on_moved(session.worker)

    # --- what other processes send -----------------------------------------------------------------------------

    def on_moved(self, worker: bytes) -> None:
        """See `RelayReader.on_moved`: what the worker has in hand is sent after it, which runs it once."""
        if self._hub.has(worker):
            return
        home = self._home(worker)
        if home is None or self._relay is None:
            for entry in [entry for entry in self._pending.values() if entry.lane.worker == worker]:
                self._finish(entry, WorkerGone())
            return
        for pack in _packs(self._sent_to(worker)):
            self._relay.post(home, Kind.PACK, worker, encode_pack(pack))

    def on_relayed(self, sender: str, kind: int, worker: bytes, payload: bytes) -> None:
        """See `RelayReader.on_relayed`."""
        if kind == Kind.RESULTS:
            self._pair(decode_results(payload), worker)
            return
        if kind == NOT_HERE:
            for job in decode_pack(payload).jobs:
                entry = self._pending.get((job.request_id, job.attempt))
                if entry is not None and not self._hub.has(worker):
                    self._finish(entry, WorkerGone())
            return
        session = self._hub.session(worker)
        if session is None:
            if kind == Kind.PACK and self._relay is not None:
                self._relay.post(sender, NOT_HERE, worker, payload)
            return
        if kind == Kind.PACK:
            self._host(sender, worker, session, decode_pack(payload))
        elif kind == Kind.PAPERS:
            papers = decode_papers(payload)
            session.send(Kind.PAPERS, payload, self._wall_clock() + PAPERS_SECONDS, papers)
        elif kind == Kind.STOP:
            session.send(Kind.STOP, payload, self._wall_clock() + STOP_SECONDS)

    def _host(self, process: str, worker: bytes, session: LinkSession, pack: Pack) -> None:
        now = self._wall_clock()
        for key in [key for key, guest in self._guests.items() if guest.job.deadline_at + GUEST_GRACE_SECONDS < now]:
            del self._guests[key]
        early = []
        for job in pack.jobs:
            key = (job.request_id, job.attempt)
            self._guests[key] = _Guest(process, worker, job)
            known = self._take_early(key)
            if known is not None and known[0] == worker:
                early.append(known[1])
        self._put(session, pack)
        for result in early:
            self._pass_to_host(worker, result)

    def _pass_to_host(self, worker: bytes, result: Result) -> bool:
        """Send a result to the process that waits for it; one that comes before its job is kept for a while."""
        key = (result.request_id, result.attempt)
        guest = self._guests.get(key)
        if guest is None or guest.worker != worker or self._relay is None:
            if result.final and len(result.outputs or b"") <= EARLY_RESULT_BYTES:
                self._take_early(key)
                self._early[key] = (worker, result)
                self._early_bytes += len(result.outputs or b"")
                while len(self._early) > EARLY_RESULTS or self._early_bytes > EARLY_RESULTS_BYTES:
                    self._take_early(next(iter(self._early)))
            return False
        if result.final:
            del self._guests[key]
        self._relay.post(guest.process, Kind.RESULTS, worker, encode_results([result]))
        return True

    def _take_early(self, key: _Key) -> tuple[bytes, Result] | None:
        known = self._early.pop(key, None)
        if known is not None:
            self._early_bytes -= len(known[1].outputs or b"")
        return known

    def _home(self, worker: bytes) -> str | None:
        return None if self._relay is None else self._relay.home(worker)

    def _sent_to(self, worker: bytes) -> list[Job]:
        entries = self._pending.values()
        return [one.job for one in entries if one.sent and one.lane.worker == worker and one.ended is not None]

    # --- outbound ----------------------------------------------------------------------------------------------

    def _packs_in_flight(self, worker: bytes) -> int:
        session = self._hub.session(worker)
        if session is None:
            return 1 if self._home(worker) is None else PACKS_IN_FLIGHT
        return session.window

    def _carry_at_once(
        self, worker: bytes, pack: Pack, entries: Sequence[Waiting], sent: Callable[[Exception | None], None]
    ) -> bool:
        del entries
        session = self._hub.session(worker)
        if session is None:
            return False
        self._put(session, pack)
        sent(None)
        return True

    async def _carry(self, worker: bytes, pack: Pack, entries: Sequence[Waiting]) -> None:
        del entries
        session, home = self._hub.session(worker), self._home(worker)
        if session is None and home is not None and self._relay is not None:
            await self._relay.send(home, Kind.PACK, worker, encode_pack(pack))
        else:
            self._put(session, pack)

    async def _carry_papers(self, worker: bytes, papers: Papers) -> None:
        session = self._hub.session(worker)
        home = self._home(worker)
        if session is None and home is not None and self._relay is not None:
            await self._relay.send(home, Kind.PAPERS, worker, encode_papers(papers))
            return
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


def _packs(jobs: Iterable[Job]) -> list[Pack]:
    """Put jobs into packs of one model each."""
    by_model: dict[bytes, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(job.model_id, []).append(job)
    return [
        Pack(tuple(found[start : start + JOBS_SENT_ANEW]))
        for found in by_model.values()
        for start in range(0, len(found), JOBS_SENT_ANEW)
    ]
