"""What both lanes do alike: jobs wait for their worker, travel in packs, and are paired with their results.

What waits for a worker goes out in one message as soon as the worker has room, without a timer; models take turns, and
within a model clients. Must never block the event loop, never trust a result (the use case does the checking), and
never let a late or doubled result reach anybody. A lane says how a message is carried; see
`market.inference.ports.Dispatcher` for the rest.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from contracts import tracing
from contracts.futures import end_all, resolve, rest
from contracts.protocol.messages import Job, Pack, Papers, Result
from market.adapters.turns import TurnQueue
from market.errors import DeadlineExceeded, Overloaded, RedisUnreachable, RequestInProgress, WorkerHangs
from market.inference.ports import PaperSource, WorkerGone

PACKS_IN_FLIGHT = 2
# So few go together: a message of its own costs more than waiting for them.
LEAST_SHARED = 4
# A worker that is busy with a pack for so long loses nothing if the next one is gathered for half of that time.
COMPUTED_SECONDS = 0.02
BATCHES_PER_PACK = 4
MAX_WAITING = 4_096
MAX_LONG = 256
MAX_PACK_INPUT_BYTES = 4 << 20
SWEEP_SECONDS = 0.05
# After so many sweeps with nothing under way a lane rests. Papers come a moment after the last job: a second is enough.
QUIET_SWEEPS = 20
LIVENESS_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Waiting:
    """One job between `submit` and its outcome, which `ended` is told once; it is None from then on.

    `leave_at` is when its worker has had time enough, unix seconds.
    """

    job: Job
    ended: Callable[[Result | Exception], None] | None
    lane: Lane
    blob: tuple[str, bytes] | None = None
    pack: Flight | None = None
    on_partial: Callable[[Result], None] | None = None
    long: bool = False
    sent: bool = False
    trace: str | None = None
    leave_at: float = math.inf


@dataclass(slots=True, eq=False)
class Flight:
    """One pack under way; `open` counts its jobs without outcome, `since` is when it was sent, monotonic seconds."""

    open: int
    since: float


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for and runs at one worker; queues per model, since a pack holds jobs of one model.

    Long jobs run beside each other for as long as they take, so they hold no flight once they are sent. Its packs
    keep the worker busy for `seconds` at least, the last one that was served did for `last_seconds`; the last one of
    all ended at `done_at`, monotonic.
    """

    worker: bytes
    queues: dict[bytes, TurnQueue[Waiting]] = field(default_factory=dict)
    waiting: int = 0
    flights: int = 0
    under_way: int = 0
    long: int = 0
    scheduled: bool = False
    gathering: bool = False
    seconds: float = 0.0
    last_seconds: float = 0.0
    done_at: float = 0.0

    @property
    def computes(self) -> bool:
        """Whether its packs take so long that a whole batch, a little later, is worth more than a message at once."""
        return self.seconds >= COMPUTED_SECONDS


class PackingDispatcher(ABC):
    """Base of the lanes; `start` before the first `run`, `close` at the end."""

    def __init__(
        self,
        *,
        papers: PaperSource,
        is_live: Callable[[bytes], bool],
        max_batch: Callable[[bytes, bytes], int],
        wall_clock: Callable[[], float],
    ) -> None:
        self._papers = papers
        self._is_live = is_live
        self._max_batch = max_batch
        self._wall_clock = wall_clock
        self._lanes: dict[bytes, Lane] = {}
        self._pending: dict[tuple[bytes, str], Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_papers: set[bytes] = set()
        self._stirred = asyncio.Event()
        self.dropped_results = 0

    def start(self) -> None:
        """Begin to watch deadlines and signs of life; call it inside the event loop."""
        self._spawn(self._sweep())

    async def close(self) -> None:
        """Fail what waits, and send the last papers."""
        while self._tasks:
            await end_all(list(self._tasks))
            await asyncio.sleep(0)  # so that their ends are told
        for entry in list(self._pending.values()):
            self._finish(entry, DeadlineExceeded("The gateway is shutting down."))
        for worker in self._papers.waiting():
            with suppress(RedisUnreachable, WorkerGone):
                await self._send_papers(worker)

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
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        entry = self.submit(job, worker, partial(resolve, future), on_partial, long=long, client=client)
        try:
            return await future
        finally:
            entry.ended = None
            self._settle(entry)

    def submit(
        self,
        job: Job,
        worker: bytes,
        ended: Callable[[Result | Exception], None],
        on_partial: Callable[[Result], None] | None = None,
        *,
        long: bool = False,
        client: bytes | None = None,
        leave_at: float = math.inf,
    ) -> Waiting:
        """Put a job on its way and return at once; `ended` is called with its result or what `run` would raise.

        It is called with `WorkerHangs` if there is no result at `leave_at`, unix seconds.

        Raises:
            Overloaded | RequestInProgress: see `Dispatcher.run`; `ended` is not called.
        """
        key = (job.request_id, job.attempt)
        if key in self._pending:
            raise RequestInProgress(field="Market-Request-Id")
        lane = self._lanes.get(worker)
        if lane is None:
            lane = self._lanes[worker] = Lane(worker)
        if lane.waiting >= MAX_WAITING:
            raise Overloaded(f"{lane.waiting} requests wait for this worker.")
        if long and lane.long >= MAX_LONG:
            raise Overloaded(f"{lane.long} generations are at this worker.")
        job, blob = self._prepared(job)
        entry = Waiting(job, ended, lane, blob, on_partial=on_partial, long=long)
        entry.trace = tracing.current.get()
        entry.leave_at = leave_at
        lane.long += long
        self._pending[key] = entry
        queue = lane.queues.get(job.model_id)
        if queue is None:
            queue = lane.queues[job.model_id] = TurnQueue()
        queue.append(job.channel.payer if client is None else client, entry)
        lane.waiting += 1
        self._stirred.set()
        self._schedule(lane)
        return entry

    # --- what a lane decides -----------------------------------------------------------------------------------

    def _prepared(self, job: Job) -> tuple[Job, tuple[str, bytes] | None]:
        """Return the job as it travels, and what travels beside it."""
        return job, None

    def _packs_in_flight(self, worker: bytes) -> int:
        """Return how many packs the worker is sent before the first is answered."""
        del worker
        return PACKS_IN_FLIGHT

    @abstractmethod
    async def _carry(self, worker: bytes, pack: Pack, entries: Sequence[Waiting]) -> None:
        """Send a pack.

        Raises:
            RedisUnreachable | WorkerGone: it cannot be sent; nothing was.
        """

    def _carry_at_once(
        self, worker: bytes, pack: Pack, entries: Sequence[Waiting], sent: Callable[[Exception | None], None]
    ) -> bool:
        """Send a pack without a task if that is possible now; False if nothing was done.

        `sent` is called, now or later, with what `_carry` would raise.
        """
        del worker, pack, entries, sent
        return False

    @abstractmethod
    async def _carry_papers(self, worker: bytes, papers: Papers) -> None:
        """Send papers alone.

        Raises:
            RedisUnreachable | WorkerGone: they cannot be sent; nothing was.
        """

    def _by_reference(self, entry: Waiting, result: Result) -> None:
        """Finish with a result that names its outputs instead of carrying them."""
        self._finish(entry, result)

    def _forget_blob(self, name: str) -> None:
        """Drop what travelled beside a job that has its outcome."""
        del name

    # --- outbound ----------------------------------------------------------------------------------------------

    def _schedule(self, lane: Lane) -> None:
        # At the end of this turn of the loop, so that requests read in the same turn share a message.
        if not lane.scheduled:
            lane.scheduled = True
            asyncio.get_running_loop().call_soon(self._pump, lane)

    def _pump(self, lane: Lane) -> None:
        lane.scheduled = False
        while lane.waiting and lane.flights < self._packs_in_flight(lane.worker):
            if lane.flights and self._gathers(lane):
                return
            entries = self._next_pack(lane, self._share(lane))
            if not entries:
                return
            short = [entry for entry in entries if not entry.long]
            flight = Flight(len(short), time.monotonic())
            for entry in short:
                entry.pack = flight
            lane.flights += bool(short)
            lane.under_way += len(short)
            self._send(lane, entries)

    def _share(self, lane: Lane) -> int:
        """Return how many of a worker's jobs make one pack: what is outstanding, divided among the packs it may have.

        All in one would be answered together, so that their clients ask again together: worker and gateway would from
        then on wait for each other in turn.
        """
        return -(-(lane.waiting + lane.under_way) // self._packs_in_flight(lane.worker))

    def _gathers(self, lane: Lane) -> bool:
        """Tell whether what waits is better sent later, as one batch: the worker is busy, and others will ask again.

        Not for longer than half of what a pack takes; a worker that has nothing is sent whatever there is.
        """
        if not lane.computes or lane.long or lane.waiting >= self._share(lane):
            return False
        left = lane.done_at + lane.seconds / 2 - time.monotonic()
        if left <= 0:
            return False
        if not lane.gathering:
            lane.gathering = True
            asyncio.get_running_loop().call_later(left, self._gathered, lane)
        return True

    def _gathered(self, lane: Lane) -> None:
        lane.gathering = False
        self._schedule(lane)

    def _next_pack(self, lane: Lane, most: int) -> list[Waiting]:
        model_id, queue = next(iter(lane.queues.items()))
        # The model goes to the end, so that models take turns.
        del lane.queues[model_id]
        batch = max(1, self._max_batch(lane.worker, model_id))
        if lane.computes and most > batch:
            # What is left over of a batch costs the worker nearly as much as a whole one.
            most = -(-most // batch) * batch
        cap = min(max(most, LEAST_SHARED), batch * BATCHES_PER_PACK)
        entries: list[Waiting] = []
        size = 0
        while queue and len(entries) < cap and size < MAX_PACK_INPUT_BYTES:
            entry = queue.popleft()
            lane.waiting -= 1
            if entry.ended is not None:
                entries.append(entry)
                size += len(entry.job.inputs or b"")
        if queue:
            lane.queues[model_id] = queue
        return entries or (self._next_pack(lane, most) if lane.waiting else [])

    def _send(self, lane: Lane, entries: list[Waiting]) -> None:
        papers = self._papers.take_due(lane.worker)
        trace = tuple((entry.job.request_id.hex(), entry.trace) for entry in entries if entry.trace is not None)
        pack = Pack(tuple(entry.job for entry in entries), papers or Papers(), trace)

        def sent(error: Exception | None) -> None:
            if error is None:
                for entry in entries:
                    entry.sent = True
                return
            if papers is not None:
                self._papers.put_back(lane.worker, papers)
            for entry in entries:
                self._finish(entry, error)

        if not self._carry_at_once(lane.worker, pack, entries, sent):
            self._spawn(self._carry_and_tell(lane.worker, pack, entries, sent))

    async def _carry_and_tell(
        self, worker: bytes, pack: Pack, entries: Sequence[Waiting], sent: Callable[[Exception | None], None]
    ) -> None:
        try:
            await self._carry(worker, pack, entries)
        except (RedisUnreachable, WorkerGone) as error:
            sent(error)
        else:
            sent(None)

    async def _send_papers(self, worker: bytes) -> None:
        papers = self._papers.take(worker)
        if papers is None:
            return
        try:
            await self._carry_papers(worker, papers)
        except (RedisUnreachable, WorkerGone):
            self._papers.put_back(worker, papers)
            raise

    # --- inbound -----------------------------------------------------------------------------------------------

    def _pair(self, results: Sequence[Result], sender: bytes | None = None) -> list[Result]:
        """Hand results to who waits for them; returns those that nobody waits for, or not from this sender."""
        strange = []
        for result in results:
            entry = self._pending.get((result.request_id, result.attempt))
            if entry is None or entry.ended is None or sender not in (None, entry.lane.worker):
                strange.append(result)
            elif not result.final:
                self._pass_on(entry, result)
            elif result.ok and result.outputs is None and result.outputs_ref is not None:
                self._by_reference(entry, result)
            else:
                self._finish(entry, result)
        self.dropped_results += len(strange)
        return strange

    def _finish(self, entry: Waiting, outcome: Result | Exception) -> None:
        ended, entry.ended = entry.ended, None
        self._settle(entry, served=isinstance(outcome, Result) and outcome.ok)
        if ended is not None:
            ended(outcome)

    def _pass_on(self, entry: Waiting, partial: Result) -> None:
        if entry.on_partial is not None:
            try:
                entry.on_partial(partial)
            except Exception as error:  # one request's reader must not end the listener of all
                log.exception("partial-result-not-taken")
                self._finish(entry, error)

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _settle(self, entry: Waiting, *, served: bool = False) -> None:
        """Close an entry's account with its lane; further calls change nothing."""
        if self._pending.pop((entry.job.request_id, entry.job.attempt), None) is None:
            return
        entry.lane.long -= entry.long
        if entry.blob is not None:
            self._forget_blob(entry.blob[0])
        if entry.pack is None:
            return
        entry.pack.open -= 1
        entry.lane.under_way -= 1
        if entry.pack.open == 0:
            lane, now = entry.lane, time.monotonic()
            lane.flights -= 1
            if served:
                took = now - max(entry.pack.since, lane.done_at)
                # Of the last two, for a program that was kept waiting once says nothing.
                lane.seconds, lane.last_seconds = min(took, lane.last_seconds), took
            # A deadline, a failure or a client that left says nothing of how long the worker computes.
            lane.done_at = now
            if lane.waiting:
                self._schedule(lane)

    async def _sweep(self) -> None:
        next_liveness = 0.0
        quiet = 0
        while True:
            quiet = 0 if self._pending or self._idle_papers else quiet + 1
            await self._wait(resting=quiet > QUIET_SWEEPS)
            now = self._wall_clock()
            for entry in [entry for entry in self._pending.values() if entry.job.deadline_at <= now]:
                self._finish(entry, DeadlineExceeded())
            for entry in [entry for entry in self._pending.values() if entry.leave_at <= now]:
                self._finish(entry, WorkerHangs())
            if now >= next_liveness:
                next_liveness = now + LIVENESS_SECONDS
                dead = {worker for worker in self._lanes if not self._is_live(worker)}
                for entry in [entry for entry in self._pending.values() if entry.lane.worker in dead]:
                    self._finish(entry, WorkerGone())
                for worker in dead:
                    if not (self._lanes[worker].flights or self._lanes[worker].waiting or self._lanes[worker].long):
                        del self._lanes[worker]
            await self._flush_papers()

    async def _wait(self, *, resting: bool) -> None:
        """Wait for the next sweep; a resting lane waits until it is given a job, a second at most."""
        if resting:
            await rest(self._stirred, LIVENESS_SECONDS)
        else:
            await asyncio.sleep(SWEEP_SECONDS)

    async def _flush_papers(self) -> None:
        """Send papers alone to workers that were idle with papers waiting at two sweeps in a row."""
        idle = set()
        for worker in self._papers.waiting():
            lane = self._lanes.get(worker)
            if lane is None or not (lane.waiting or lane.flights):
                idle.add(worker)
        for worker in idle & self._idle_papers:
            with suppress(RedisUnreachable, WorkerGone):
                await self._send_papers(worker)
        self._idle_papers = idle

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lane-task-failed", exc_info=error)
