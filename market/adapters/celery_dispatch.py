"""The own lane: carries jobs to workers as Celery tasks and brings their results back to this process.

What waits for a worker goes out in one message as soon as the worker has room, without a timer; results of all workers
arrive on one list that one listener reads. Must never block the event loop, never trust a result (the use case does the
checking), and never let a late or doubled result reach anybody. Implements `market.inference.ports.Dispatcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from contracts.protocol.celery_message import task_message
from contracts.protocol.errors import MessageError
from contracts.protocol.messages import (
    INLINE_LIMIT_BYTES,
    REPLY_TTL_SECONDS,
    TASK_FILE_PAPERS,
    TASK_RUN,
    Job,
    Pack,
    Papers,
    Result,
    blob_key,
    cancel_key,
    decode_results,
    encode_pack,
    encode_papers,
    reply_key,
    worker_queue,
)
from market.adapters.redis_client import open_redis, reachable
from market.errors import DeadlineExceeded, Overloaded, RedisUnreachable, RequestInProgress
from market.inference.ports import PaperSource, WorkerGone

PACKS_IN_FLIGHT = 2
BATCHES_PER_PACK = 4
MAX_WAITING = 4_096
MAX_LONG = 256
MAX_PACK_INPUT_BYTES = 4 << 20
SWEEP_SECONDS = 0.05
LIVENESS_SECONDS = 1.0
LISTEN_SECONDS = 4
REPLIES_AT_ONCE = 256

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """One job between `run` and its result."""

    job: Job
    future: asyncio.Future[Result]
    lane: _Lane
    blob: tuple[str, bytes] | None = None
    pack: _Flight | None = None
    on_partial: Callable[[Result], None] | None = None
    long: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    """One pack under way; `open` counts its jobs without outcome."""

    open: int


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for and runs at one worker; queues per model, since a pack holds jobs of one model.

    Long jobs run beside each other for as long as they take, so they hold no flight once they are sent.
    """

    worker: bytes
    queues: dict[bytes, deque[_Waiting]] = field(default_factory=dict)
    waiting: int = 0
    flights: int = 0
    long: int = 0
    scheduled: bool = False


class CeleryDispatcher:
    """One per gateway process; `start` before the first `run`, `close` at the end."""

    def __init__(
        self,
        redis_url: str,
        *,
        process_id: str,
        papers: PaperSource,
        is_live: Callable[[bytes], bool],
        max_batch: Callable[[bytes, bytes], int],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = open_redis(redis_url)
        # The listener blocks on its connection, so it has a client of its own.
        self._listening = open_redis(redis_url, max_connections=2)
        self._reply_to = reply_key(process_id)
        self._papers = papers
        self._is_live = is_live
        self._max_batch = max_batch
        self._wall_clock = wall_clock
        self._lanes: dict[bytes, _Lane] = {}
        self._pending: dict[tuple[bytes, str], _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_papers: set[bytes] = set()
        self.dropped_results = 0

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        return self._reply_to

    def start(self) -> None:
        """Begin to listen for results; call it inside the event loop."""
        self._spawn(self._listen())
        self._spawn(self._sweep())

    async def close(self) -> None:
        """Send the last papers, fail what waits and drop the connections."""
        while self._tasks:
            # Again until it is so: a time-out of the Redis client at the same moment can swallow a cancellation.
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.2)
        for entry in list(self._pending.values()):
            self._fail(entry, DeadlineExceeded("The gateway is shutting down."))
        with suppress(RedisUnreachable):
            for worker in self._papers.waiting():
                await self._send_papers(worker)
        await self._redis.aclose()
        await self._listening.aclose()

    async def run(
        self, job: Job, worker: bytes, on_partial: Callable[[Result], None] | None = None, *, long: bool = False
    ) -> Result:
        """See `Dispatcher.run`."""
        key = (job.request_id, job.attempt)
        if key in self._pending:
            raise RequestInProgress(field="Market-Request-Id")
        lane = self._lanes.get(worker)
        if lane is None:
            lane = self._lanes[worker] = _Lane(worker)
        if lane.waiting >= MAX_WAITING:
            raise Overloaded(f"{lane.waiting} requests wait for this worker.")
        if long and lane.long >= MAX_LONG:
            raise Overloaded(f"{lane.long} generations are at this worker.")
        blob = None
        if job.inputs is not None and len(job.inputs) > INLINE_LIMIT_BYTES:
            name = blob_key("in", job.request_id, job.attempt)
            blob = (name, job.inputs)
            job = replace(job, inputs=None, inputs_ref=name)
        entry = _Waiting(job, asyncio.get_running_loop().create_future(), lane, blob, on_partial=on_partial, long=long)
        lane.long += long
        self._pending[key] = entry
        lane.queues.setdefault(job.model_id, deque()).append(entry)
        lane.waiting += 1
        self._schedule(lane)
        try:
            return await entry.future
        finally:
            self._settle(entry)

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        with reachable():
            await self._redis.set(cancel_key(job.request_id, job.attempt), str(tokens), ex=REPLY_TTL_SECONDS)

    # --- outbound ----------------------------------------------------------------------------------------------

    def _schedule(self, lane: _Lane) -> None:
        # At the end of this turn of the loop, so that requests read in the same turn share a message.
        if not lane.scheduled:
            lane.scheduled = True
            asyncio.get_running_loop().call_soon(self._pump, lane)

    def _pump(self, lane: _Lane) -> None:
        lane.scheduled = False
        while lane.waiting and lane.flights < PACKS_IN_FLIGHT:
            entries = self._next_pack(lane)
            if not entries:
                return
            short = [entry for entry in entries if not entry.long]
            flight = _Flight(len(short))
            for entry in short:
                entry.pack = flight
            lane.flights += bool(short)
            self._spawn(self._send(lane, entries))

    def _next_pack(self, lane: _Lane) -> list[_Waiting]:
        model_id, queue = next(iter(lane.queues.items()))
        # The model goes to the end, so that models take turns.
        del lane.queues[model_id]
        cap = max(1, self._max_batch(lane.worker, model_id)) * BATCHES_PER_PACK
        entries: list[_Waiting] = []
        size = 0
        while queue and len(entries) < cap and size < MAX_PACK_INPUT_BYTES:
            entry = queue.popleft()
            lane.waiting -= 1
            if not entry.future.done():
                entries.append(entry)
                size += len(entry.job.inputs or b"")
        if queue:
            lane.queues[model_id] = queue
        return entries or (self._next_pack(lane) if lane.waiting else [])

    async def _send(self, lane: _Lane, entries: list[_Waiting]) -> None:
        papers = self._papers.take(lane.worker)
        pack = Pack(tuple(entry.job for entry in entries), papers or Papers())
        queue = worker_queue(lane.worker)
        message = task_message(TASK_RUN, encode_pack(pack), queue)
        try:
            with reachable():
                blobs = [(entry.blob, entry.job.deadline_at) for entry in entries if entry.blob is not None]
                if blobs:
                    async with self._redis.pipeline(transaction=False) as pipe:
                        for (name, data), deadline_at in blobs:
                            life = max(1, int(deadline_at - self._wall_clock()) + 10)
                            pipe.set(name, data, ex=life)
                        pipe.lpush(queue, message)
                        await pipe.execute()
                else:
                    await self._redis.lpush(queue, message)
        except RedisUnreachable as error:
            if papers is not None:
                self._papers.put_back(lane.worker, papers)
            for entry in entries:
                self._fail(entry, error)

    async def _send_papers(self, worker: bytes) -> None:
        papers = self._papers.take(worker)
        if papers is None:
            return
        queue = worker_queue(worker)
        try:
            with reachable():
                message = task_message(TASK_FILE_PAPERS, encode_papers(papers), queue)
                await self._redis.lpush(queue, message)
        except RedisUnreachable:
            self._papers.put_back(worker, papers)
            raise

    # --- inbound -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        delay = SWEEP_SECONDS
        while True:
            try:
                with reachable():
                    await self._listen_once()
                delay = SWEEP_SECONDS
            except RedisUnreachable as error:
                log.warning("reply-listener-disconnected", code=error.code, retry_in_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, 1.0)

    async def _listen_once(self) -> None:
        found = await self._listening.blpop([self._reply_to], timeout=LISTEN_SECONDS)
        if found is None:
            return
        self._take(found[1])
        if len(self._pending) > 1:
            more = await self._listening.lpop(self._reply_to, REPLIES_AT_ONCE)
            for reply in more if isinstance(more, list) else ():
                self._take(reply)

    def _take(self, reply: object) -> None:
        try:
            if not isinstance(reply, bytes):
                raise MessageError("not bytes.")
            results = decode_results(reply)
        except Exception as error:  # whatever a worker sends must not end the listener
            log.warning("unreadable-reply", error=type(error).__name__, detail=str(error))
            return
        for result in results:
            entry = self._pending.get((result.request_id, result.attempt))
            if entry is None or entry.future.done():
                self.dropped_results += 1
            elif not result.final:
                self._pass_on(entry, result)
            elif result.ok and result.outputs is None and result.outputs_ref is not None:
                self._spawn(self._fetch(entry, result))
            else:
                entry.future.set_result(result)
                self._settle(entry)

    def _pass_on(self, entry: _Waiting, partial: Result) -> None:
        if entry.on_partial is not None:
            try:
                entry.on_partial(partial)
            except Exception as error:  # one request's reader must not end the listener of all
                log.exception("partial-result-not-taken")
                self._fail(entry, error)

    async def _fetch(self, entry: _Waiting, result: Result) -> None:
        name = blob_key("out", result.request_id, result.attempt)
        try:
            # The name is computed, never taken from the worker: it could name somebody else's key.
            with reachable():
                data = await self._redis.getdel(name) if result.outputs_ref == name else None
        except RedisUnreachable as error:
            self._fail(entry, error)
            return
        if not entry.future.done():
            data = data if isinstance(data, bytes) else None
            entry.future.set_result(replace(result, outputs=data, outputs_ref=None))
        self._settle(entry)

    async def _forget(self, name: str) -> None:
        # Inputs nobody needs any more; were this to fail, their time runs out anyway.
        with suppress(RedisUnreachable), reachable():
            await self._redis.unlink(name)

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _settle(self, entry: _Waiting) -> None:
        """Close an entry's account with its lane; further calls change nothing."""
        if self._pending.pop((entry.job.request_id, entry.job.attempt), None) is None:
            return
        entry.lane.long -= entry.long
        if entry.blob is not None:
            self._spawn(self._forget(entry.blob[0]))
        if entry.pack is None:
            return
        entry.pack.open -= 1
        if entry.pack.open == 0:
            entry.lane.flights -= 1
            if entry.lane.waiting:
                self._schedule(entry.lane)

    def _fail(self, entry: _Waiting, error: Exception) -> None:
        if not entry.future.done():
            entry.future.set_exception(error)
        self._settle(entry)

    async def _sweep(self) -> None:
        next_liveness = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._wall_clock()
            for entry in [entry for entry in self._pending.values() if entry.job.deadline_at <= now]:
                self._fail(entry, DeadlineExceeded())
            if now >= next_liveness:
                next_liveness = now + LIVENESS_SECONDS
                dead = {worker for worker in self._lanes if not self._is_live(worker)}
                for entry in [entry for entry in self._pending.values() if entry.lane.worker in dead]:
                    self._fail(entry, WorkerGone())
                for worker in dead:
                    if not (self._lanes[worker].flights or self._lanes[worker].waiting or self._lanes[worker].long):
                        del self._lanes[worker]
            await self._flush_papers()

    async def _flush_papers(self) -> None:
        """Send papers alone to workers that were idle with papers waiting at two sweeps in a row."""
        idle = set()
        for worker in self._papers.waiting():
            lane = self._lanes.get(worker)
            if lane is None or not (lane.waiting or lane.flights):
                idle.add(worker)
        for worker in idle & self._idle_papers:
            with suppress(RedisUnreachable):
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
