"""Generations that go on beside the queue: partial results as they come, one signed result at the end.

A thread looks ten times a second for what must stop: streams whose client is gone, and deadlines. Of a stream that was
stopped, only what the client was sent is signed for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from contracts.protocol.messages import Job, Result
from contracts.protocol.tensors import Tensor, encode_tensors
from workers import telemetry
from workers.admission import Admitted
from workers.errors import JobCancelled, JobError, JobTooLate
from workers.models.generation.heard import Finished
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import GenerationRequest
from workers.models.pipelines.base import Answer
from workers.papers import SignedWork
from workers.receipts import Signer, Unsigned, failed, veiled

LOOK_SECONDS = 0.1
# A process that says nothing for so long after a deadline hangs.
HANG_SECONDS = 30.0

log = structlog.get_logger(__name__)

Deliver = Callable[[Sequence[tuple[Job, Result]], Sequence[SignedWork]], None]
_GENERATED, _READ = telemetry.TOKENS.labels("generated"), telemetry.TOKENS.labels("read")
LookUp = Callable[[Sequence[Job]], Sequence[int | None]]


class Generations:
    """All generations of one worker."""

    def __init__(self, signer: Signer, *, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._clock = clock
        self._deliver: Deliver = lambda _, __: None
        self._cancelled: LookUp = lambda jobs: [None] * len(jobs)
        self._running: set[_Generation] = set()
        self._lock = threading.Lock()
        self._delivering = threading.Lock()
        self._wake = threading.Event()
        self._news: list[tuple[Job, Result]] = []
        self._work: list[SignedWork] = []
        self._watching = False

    def attach(self, deliver: Deliver, cancelled: LookUp) -> None:
        """Say where results go, and how to learn of each job how many tokens its client was sent when it left."""
        self._deliver = deliver
        self._cancelled = cancelled

    @property
    def active(self) -> int:
        """How many go on."""
        return len(self._running)

    def start(self, model: GenerationModel, admitted: Admitted, request: GenerationRequest) -> None:
        """Start one.

        Raises:
            ExecutionFailed: the model's process cannot be started.
        """
        one = _Generation(self, model, admitted, request)
        with self._lock:
            self._running.add(one)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="generations", daemon=True).start()
        model.after_each_round(self.flush)
        try:
            one.start()
        except Exception:
            self._running.discard(one)
            raise
        self._wake.set()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until none goes on and all is delivered; tells whether that came about."""
        until = time.monotonic() + timeout_seconds
        while (self._running or self._news) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        with self._delivering:  # what was taken from the news may still be on its way
            return not (self._running or self._news)

    def flush(self) -> None:
        """Deliver the news, in order; what cannot be delivered now is tried again."""
        with self._delivering:
            with self._lock:
                news, self._news = self._news, []
                work, self._work = self._work, []
            if not news and not work:
                return
            try:
                self._deliver(news, work)
            except Exception as error:  # the broker is away; the generation goes on
                log.warning("results-not-delivered", error=type(error).__name__, results=len(news))
                with self._lock:
                    self._news[:0] = news
                    self._work[:0] = work
                self._wake.set()  # the watch may have found nothing to do meanwhile

    def tell(self, job: Job, result: Result, signed: SignedWork | None = None) -> None:
        """Keep news for the next delivery."""
        with self._lock:
            self._news.append((job, result))
            if signed is not None:
                self._work.append(signed)

    def end(self, one: _Generation, outcome: Answer | JobError) -> None:
        """Sign an answer, or say what went wrong."""
        job, signed = one.admitted.job, None
        sealed: Unsigned | JobError = (
            veiled(one.admitted, outcome)
            if isinstance(outcome, JobError)
            else self._signer.seal(one.admitted, outcome, time.perf_counter() - one.started)
        )
        if isinstance(sealed, JobError):
            result = failed(job, sealed)
        else:
            ((result, signed),) = self._signer.sign([sealed])
        telemetry.JOBS.labels(result.code or "ok").inc()
        telemetry.GENERATION_SECONDS.observe(time.perf_counter() - one.started)
        self.tell(job, result, signed)
        self._running.discard(one)

    def _watch(self) -> None:
        while True:
            if not self._running and not self._news:
                self._wake.wait()
            self._wake.clear()
            try:
                self._look()
            except Exception as error:  # the broker is away; deadlines go on
                log.warning("cancellations-not-read", error=type(error).__name__)
            self.flush()
            time.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        now = self._clock()
        running = [one for one in tuple(self._running) if one.is_started]
        for one in running:
            late = now - one.admitted.job.deadline_at
            if late >= HANG_SECONDS:
                log.warning("generation-hangs", request=one.admitted.job.request_id.hex())
                one.model.kill()
            elif late >= 0:
                one.stop_at_deadline()
        for model in {one.model for one in running}:
            model.watch()
        streams = [one for one in running if one.admitted.job.stream]
        if streams:
            for one, sent in zip(streams, self._cancelled([s.admitted.job for s in streams]), strict=True):
                if sent is not None:
                    one.cancel(sent)


class _Generation:
    """One of them, of one text or several; hears of their tokens from its model's thread."""

    def __init__(
        self, owner: Generations, model: GenerationModel, admitted: Admitted, request: GenerationRequest
    ) -> None:
        self.model = model
        self.admitted = admitted
        self.started = time.perf_counter()
        self._owner = owner
        self._request = request
        self._numbers: list[int] = []
        self._deltas: list[tuple[int, str, int]] = []  # which text, what was added to it, and the tokens of that
        self._ends: dict[int, Finished] = {}
        self._sent: int | None = None
        self._late = False
        self._over = False

    @property
    def is_started(self) -> bool:
        """Tell whether its model has been told of all its texts."""
        return len(self._numbers) == self._request.n

    def start(self) -> None:
        """Have the model begin every text.

        Raises:
            ExecutionFailed: the model's process cannot be started.
        """
        try:
            for index, request in enumerate(self._request.each()):
                self._numbers.append(self.model.start(request, _Text(self, index)))
                if self._over:  # an earlier one has failed meanwhile
                    self._stop()
                    return
        except Exception:
            self._over = True
            self._stop()
            raise

    def cancel(self, sent: int) -> None:
        """Stop, because the client is gone; it was sent that many tokens."""
        if self._sent is None:
            self._sent = sent
            self._stop()

    def stop_at_deadline(self) -> None:
        """Stop, because time is up."""
        if not self._late:
            self._late = True
            self._stop()

    def delta(self, index: int, text: str, tokens: int) -> None:
        """Pass on what was added to one of the texts."""
        if self._over:
            return
        self._deltas.append((index, text, tokens))
        _GENERATED.inc(tokens)
        job = self.admitted.job
        if job.stream and self._sent is None:
            tensors = [
                Tensor.from_numpy("text", _texts([text])),
                Tensor.from_numpy("tokens", np.array([tokens], np.int64)),
            ]
            if self._request.n > 1:
                tensors.append(Tensor.from_numpy("index", np.array([index], np.int64)))
            outputs = encode_tensors(tensors)
            self._owner.tell(job, Result(job.request_id, job.attempt, ok=True, outputs=outputs, final=False))

    def failed(self, error: JobError) -> None:
        """Pass on that nothing came of one of the texts, and so of none."""
        if not self._over:
            self._over = True
            self._owner.end(self, error)
            if self._request.n > 1:
                # Not here: who starts a generation may wait for the model's process, and that for this thread.
                threading.Thread(target=self._stop, name="generation-stop", daemon=True).start()

    def finished(self, index: int, end: Finished) -> None:
        """Note the end of one of the texts; the last makes the answer."""
        self._ends[index] = end
        if len(self._ends) == self._request.n and not self._over:
            self._over = True
            self._owner.end(self, self._answer())

    def _stop(self) -> None:
        for number in self._numbers:
            self.model.stop(number)

    def _answer(self) -> Answer | JobError:
        """Make the answer, cut to what the client was sent if it left."""
        ends = [self._ends[index] for index in range(self._request.n)]
        prompt = max(end.prompt_tokens for end in ends)
        _READ.inc(sum(end.prompt_tokens for end in ends))
        reasons, made, deltas = [end.reason for end in ends], [end.completion_tokens for end in ends], self._deltas
        if self._sent is not None:
            deltas = _first(deltas, self._sent)
            reasons, made = ["cancelled"] * len(ends), _tokens(deltas, len(ends))
            if not deltas:
                return JobCancelled("the client left before it was sent anything.")
        elif "cancelled" in reasons:  # by the deadline
            if not self.admitted.job.stream or not deltas:
                return JobTooLate("the deadline passed before the text was whole.", field="deadline_at")
            counted = _tokens(deltas, len(ends))
            for index, reason in enumerate(reasons):
                if reason == "cancelled":
                    reasons[index], made[index] = "length", counted[index]
        texts = ["".join(text for of, text, _ in deltas if of == index) for index in range(len(ends))]
        outputs = {
            "text": _texts(texts),
            "finish_reason": _texts(reasons),
            "usage": np.array([prompt, *made], np.int64),
            **self._chances(ends, made),
        }
        return Answer(outputs, units=prompt + sum(made))

    def _chances(self, ends: Sequence[Finished], made: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return what was asked of the tokens' chances, one text's tokens after the other's."""
        found: dict[str, NDArray[Any]] = {}
        if self._request.logprobs:
            each = [(end.logprobs or [])[:count] for end, count in zip(ends, made, strict=True)]
            found["logprobs"] = np.array([one for row in each for one in row], np.float32)
        if self._request.top_logprobs or {"top_tokens", "top_logprobs"} & set(self.admitted.job.outputs):
            rows = [row for end, count in zip(ends, made, strict=True) for row in end.top[:count]]
            shape = len(rows), len(rows[0]) if rows else 0
            found["top_tokens"] = _texts([text for row in rows for text, _ in row]).reshape(shape)
            found["top_logprobs"] = np.array([one for row in rows for _, one in row], np.float32).reshape(shape)
        return found


class _Text:
    """Hears of one of a generation's texts."""

    def __init__(self, whole: _Generation, index: int) -> None:
        self._whole = whole
        self._index = index

    def delta(self, text: str, tokens: int) -> None:
        """Hear of new text."""
        self._whole.delta(self._index, text, tokens)

    def finished(self, end: Finished) -> None:
        """Hear of the end."""
        self._whole.finished(self._index, end)

    def failed(self, error: JobError) -> None:
        """Hear that nothing came of it."""
        self._whole.failed(error)


def _first(deltas: Sequence[tuple[int, str, int]], tokens: int) -> list[tuple[int, str, int]]:
    """Return the first deltas that together have no more than so many tokens."""
    kept = []
    for one in deltas:
        tokens -= one[2]
        if tokens < 0:
            break
        kept.append(one)
    return kept


def _tokens(deltas: Sequence[tuple[int, str, int]], texts: int) -> list[int]:
    """Return how many tokens each text has."""
    counted = [0] * texts
    for index, _, tokens in deltas:
        counted[index] += tokens
    return counted


def _texts(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], dtype=object)
