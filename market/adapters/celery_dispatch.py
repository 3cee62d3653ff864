"""The own lane: carries packs to workers as Celery tasks; results of all workers arrive on one list.

One listener reads that list. Large tensors travel by reference. Implements `market.inference.ports.Dispatcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from redis.exceptions import ConnectionError as ConnectionLost

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
from market.adapters.packing import SWEEP_SECONDS, PackingDispatcher, Waiting
from market.adapters.redis_client import open_redis, reachable, unreachable
from market.adapters.redis_line import RedisLine
from market.errors import RedisUnreachable
from market.inference.ports import PaperSource

LISTEN_SECONDS = 4
REPLIES_AT_ONCE = 256

log = structlog.get_logger(__name__)


class CeleryDispatcher(PackingDispatcher):
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
        super().__init__(papers=papers, is_live=is_live, max_batch=max_batch, wall_clock=wall_clock)
        self._redis = open_redis(redis_url)
        self._sending = RedisLine(self._redis)
        # The listener blocks on its connection, so it has one of its own.
        self._listening = RedisLine(self._redis)
        self._reply_to = reply_key(process_id)
        self._delay = SWEEP_SECONDS

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        return self._reply_to

    def start(self) -> None:
        """Begin to listen for results; call it inside the event loop."""
        self._spawn(self._listen())
        super().start()

    async def close(self) -> None:
        """Send the last papers, fail what waits and drop the connections."""
        await super().close()
        await self._sending.close()
        await self._listening.close()
        await self._redis.aclose()

    async def stop(self, job: Job, tokens: int) -> None:
        """See `Dispatcher.stop`."""
        with reachable():
            await self._redis.set(cancel_key(job.request_id, job.attempt), str(tokens), ex=REPLY_TTL_SECONDS)

    # --- outbound ----------------------------------------------------------------------------------------------

    def _prepared(self, job: Job) -> tuple[Job, tuple[str, bytes] | None]:
        if job.inputs is None or len(job.inputs) <= INLINE_LIMIT_BYTES:
            return job, None
        name = blob_key("in", job.request_id, job.attempt)
        return replace(job, inputs=None, inputs_ref=name), (name, job.inputs)

    def _carry_at_once(
        self, worker: bytes, pack: Pack, entries: Sequence[Waiting], sent: Callable[[Exception | None], None]
    ) -> bool:
        if any(entry.blob is not None for entry in entries):
            return False
        queue = worker_queue(worker)

        def answered(outcome: object) -> None:
            if isinstance(outcome, ConnectionLost):
                # It was closed while nothing was asked, by a restart of Redis, say.
                self._spawn(self._carry_and_tell(worker, pack, entries, sent))
            else:
                sent(unreachable(outcome) if isinstance(outcome, Exception) else None)

        return self._sending.send(("LPUSH", queue, task_message(TASK_RUN, encode_pack(pack), queue)), answered)

    async def _carry(self, worker: bytes, pack: Pack, entries: Sequence[Waiting]) -> None:
        queue = worker_queue(worker)
        message = task_message(TASK_RUN, encode_pack(pack), queue)
        with reachable():
            blobs = [(entry.blob, entry.job.deadline_at) for entry in entries if entry.blob is not None]
            if not blobs:
                await self._sending.call("LPUSH", queue, message)
                return
            async with self._redis.pipeline(transaction=False) as pipe:
                for (name, data), deadline_at in blobs:
                    life = max(1, int(deadline_at - self._wall_clock()) + 10)
                    pipe.set(name, data, ex=life)
                pipe.lpush(queue, message)
                await pipe.execute()

    async def _carry_papers(self, worker: bytes, papers: Papers) -> None:
        queue = worker_queue(worker)
        with reachable():
            await self._sending.call("LPUSH", queue, task_message(TASK_FILE_PAPERS, encode_papers(papers), queue))

    # --- inbound -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                with reachable():
                    await self._listen_once()
            except RedisUnreachable as error:
                delay = self._delay
                log.warning("reply-listener-disconnected", code=error.code, retry_in_seconds=delay)
                self._delay = min(2 * delay, 1.0)
                await asyncio.sleep(delay)

    async def _listen_once(self) -> None:
        """Take what comes until the connection fails."""
        await self._listening.open()
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: Exception) -> None:
            if not failed.done():
                failed.set_exception(error)

        def listen() -> None:
            if not self._listening.send(("BLPOP", self._reply_to, LISTEN_SECONDS), heard):
                fail(ConnectionLost("Connection closed by server."))

        def heard(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                fail(outcome)
                return
            self._delay = SWEEP_SECONDS
            if outcome is not None:
                self._take(outcome[1])
                if len(self._pending) > 1:
                    self._listening.send(("LPOP", self._reply_to, REPLIES_AT_ONCE), heard_more)
            listen()

        def heard_more(outcome: Any) -> None:
            if isinstance(outcome, list):
                for reply in outcome:
                    self._take(reply)

        listen()
        await failed

    def _take(self, reply: object) -> None:
        try:
            if not isinstance(reply, bytes):
                raise MessageError("not bytes.")
            results = decode_results(reply)
        except Exception as error:  # whatever a worker sends must not end the listener
            log.warning("unreadable-reply", error=type(error).__name__, detail=str(error))
            return
        self._pair(results)

    def _by_reference(self, entry: Waiting, result: Result) -> None:
        self._spawn(self._fetch(entry, result))

    async def _fetch(self, entry: Waiting, result: Result) -> None:
        name = blob_key("out", result.request_id, result.attempt)
        try:
            # The name is computed, never taken from the worker: it could name somebody else's key.
            with reachable():
                data = await self._redis.getdel(name) if result.outputs_ref == name else None
        except RedisUnreachable as error:
            self._finish(entry, error)
            return
        self._finish(entry, replace(result, outputs=data if isinstance(data, bytes) else None, outputs_ref=None))

    def _forget_blob(self, name: str) -> None:
        self._spawn(self._forget(name))

    async def _forget(self, name: str) -> None:
        # Inputs nobody needs any more; were this to fail, their time runs out anyway.
        with suppress(RedisUnreachable), reachable():
            await self._redis.unlink(name)
