"""The two tasks a gateway may call by name. Thin: decode, hand over, reply. What went wrong is in the reply."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import redis
import structlog

from contracts.protocol.celery_message import read_task_message
from contracts.protocol.errors import MessageError
from contracts.protocol.messages import (
    INLINE_LIMIT_BYTES,
    REPLY_TTL_SECONDS,
    TASK_FILE_PAPERS,
    TASK_RUN,
    Job,
    Papers,
    Result,
    blob_key,
    cancel_key,
    decode_pack,
    decode_papers,
    encode_results,
    worker_queue,
)
from workers import telemetry
from workers.announce import Announcer
from workers.app import app
from workers.errors import AnsweredOtherwise, JournalUnwritable
from workers.line import Command, Line
from workers.node import Node
from workers.papers import SignedWork
from workers.receipts import failed
from workers.sitting import Sitting

log = structlog.get_logger(__name__)
_joined: list[tuple[Node, Announcer]] = []
_lines = threading.local()


def join(node: Node, announcer: Announcer) -> None:
    """Say whose tasks these are; called once, before the Celery worker starts."""
    _joined[:] = [(node, announcer)]

    node.executor.generations.attach(partial(_deliver, node), lambda jobs: _cancelled(node.redis, jobs))


@app.task(name=TASK_RUN)
def run(data: bytes) -> None:
    """Run a pack of jobs and push their results to where the gateway listens; then what else comes soon."""
    _sit(data)


@app.task(name=TASK_FILE_PAPERS)
def file_papers(data: bytes) -> None:
    """Keep papers that came without jobs."""
    _file_papers(data)


def _sit(data: bytes) -> None:
    """Run a pack, and handle the messages that come soon after it."""
    node, _ = _joined[0]
    sitting = Sitting(_line(node.redis), worker_queue(node.key.address))
    for task, argument in chain([(TASK_RUN, data)], _messages(sitting)):
        try:
            _HANDLERS[task](argument, sitting)
        except Exception:
            # The next message may be here already: it came for the answers to this one.
            log.exception("message-failed", task=task)


def _messages(sitting: Sitting) -> Iterator[tuple[str, bytes]]:
    """Yield the calls that come soon, each with its argument."""
    while True:
        try:
            message = sitting.next_message()
        except (redis.RedisError, OSError):
            return  # Celery connects anew, and says so
        if message is None:
            return
        try:
            task, argument = read_task_message(message)
        except MessageError:
            task, argument = "", b""
        if task in _HANDLERS:
            yield task, argument
        else:
            log.warning("unreadable-message", queue=sitting.queue)


def _run(data: bytes, sitting: Sitting) -> None:
    node, announcer = _joined[0]
    started = time.perf_counter()
    try:
        pack = decode_pack(data)
    except MessageError as error:
        log.warning("unreadable-pack", detail=error.detail)
        return
    announcer.in_flight = len(pack.jobs)
    telemetry.remember_traces(pack.trace)
    told: set[int] = set()

    def tell(served: Sequence[tuple[Job, Result]], work: Sequence[SignedWork]) -> None:
        _deliver(node, served, work)
        told.update(id(result) for _, result in served)

    results, work = node.executor.run([(job, _inputs(node.redis, job)) for job in pack.jobs], early=tell)
    served = [(job, result) for job, result in zip(pack.jobs, results, strict=True) if result is not None]
    left = [pair for pair in served if id(pair[1]) not in told]
    _deliver(node, left, work, sitting)
    # After the answers, for which clients wait: these are of earlier work.
    _keep_papers(node, pack.papers)
    announcer.in_flight = 0
    telemetry.PACK_SECONDS.observe(time.perf_counter() - started)


def _file_papers(data: bytes, _sitting: Sitting | None = None) -> None:
    node, _ = _joined[0]
    try:
        papers = decode_papers(data)
    except MessageError as error:
        log.warning("unreadable-papers", detail=error.detail)
        return
    _keep_papers(node, papers)


_HANDLERS: dict[str, Callable[[bytes, Sitting], None]] = {TASK_RUN: _run, TASK_FILE_PAPERS: _file_papers}


def _keep_papers(node: Node, papers: Papers) -> None:
    note = papers.credit_note
    if note is not None and note.gateway not in node.gateways:
        # One could send notes of as many others as it draws keys, each of which is kept and asked the chain about.
        papers = replace(papers, credit_note=None)
    if not papers.countersigned and papers.credit_note is None:
        return
    try:
        node.journal.keep((), papers)
    except sqlite3.Error as error:
        log.warning("papers-not-kept", error=str(error))


def _cancelled(client: redis.Redis, jobs: Sequence[Job]) -> list[int | None]:
    """Return of each job how many tokens its client was sent when it left, None if it did not leave."""
    values: Any = client.mget([cancel_key(job.request_id, job.attempt) for job in jobs])
    return [None if value is None else int(value) if value.isdigit() else 0 for value in values]


def _inputs(client: redis.Redis, job: Job) -> bytes | None:
    if job.inputs is not None or job.inputs_ref is None:
        return job.inputs
    found = client.get(job.inputs_ref)
    return found if isinstance(found, bytes) else None


def _deliver(
    node: Node,
    served: Sequence[tuple[Job, Result]],
    work: Sequence[SignedWork],
    sitting: Sitting | None = None,
) -> None:
    """Keep the receipts and then answer: one that was answered for and not kept is lost if the gateway vanishes.

    Where they cannot be kept, the jobs fail and go to another worker: nobody is served for nothing. So does a job to
    which this worker has signed another answer before. With the last answers of a `sitting` goes what it asks.
    """
    if work:
        try:
            refused = {(one.receipt.request_id, one.worker_signature) for one in node.journal.keep(work)}
        except sqlite3.Error as error:
            unkept = JournalUnwritable(f"the worker's journal cannot be written: {error}.", field="WORKER_STATE_DIR")
            served = [(job, failed(job, unkept) if result.ok and result.final else result) for job, result in served]
        else:
            if refused:
                twice = AnsweredOtherwise("this worker gave the request another answer before.", field="request_id")
                served = [
                    (job, failed(job, twice) if (job.request_id, result.signature) in refused else result)
                    for job, result in served
                ]
    _reply(node.redis, served, sitting)


def _reply(client: redis.Redis, served: Sequence[tuple[Job, Result]], sitting: Sitting | None) -> None:
    by_list: dict[str, list[Result]] = defaultdict(list)
    commands: list[Command] = []
    for job, result in served:
        if result.outputs is not None and len(result.outputs) > INLINE_LIMIT_BYTES:
            name = blob_key("out", job.request_id, job.attempt)
            commands.append(("SET", name, result.outputs, "EX", REPLY_TTL_SECONDS))
            result = replace(result, outputs=None, outputs_ref=name)  # noqa: PLW2901  # the smaller one travels
        by_list[job.reply_to].append(result)
    commands += [("RPUSH", name, encode_results(rows)) for name, rows in by_list.items()]
    commands += [("EXPIRE", name, REPLY_TTL_SECONDS) for name in by_list]
    if not commands:
        return
    outcomes = _line(client).call(commands) if sitting is None else sitting.answer(commands)
    lives = len(outcomes) - len(by_list)
    for place, outcome in enumerate(outcomes):
        # A broker with a user for each worker forbids EXPIRE on reply lists: it could empty those of others.
        forbidden = place >= lives and isinstance(outcome, redis.exceptions.NoPermissionError)
        if isinstance(outcome, redis.RedisError) and not forbidden:
            raise outcome


def _line(client: redis.Redis) -> Line:
    """Return this thread's line to the broker; generations answer from a thread of their own."""
    known: tuple[redis.Redis, Line] | None = getattr(_lines, "line", None)
    if known is None or known[0] is not client:
        known = _lines.line = client, Line(client)
    return known[1]
