"""Generations that go on beside the queue: partial results as they come, one signed result at the end.

A thread looks ten times a second for what must stop: streams whose client is gone, and deadlines. Of a stream that was
stopped, only what the client was sent is signed for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog

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
from workers.receipts import Signer, Unsigned, failed

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
        one = _Generation(self, model, admitted)
        with self._lock:
            self._running.add(one)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="generations", daemon=True).start()
        model.after_each_round(self.flush)
        try:
            one.number = model.start(request, one)
        except JobError:
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
            outcome
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
        running = [one for one in tuple(self._running) if one.number]
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
    """One of them; hears of its tokens from its model's thread."""

    def __init__(self, owner: Generations, model: GenerationModel, admitted: Admitted) -> None:
        self.model = model
        self.admitted = admitted
        self.number = 0
        self.started = time.perf_counter()
        self._owner = owner
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._sent: int | None = None
        self._late = False

    def cancel(self, sent: int) -> None:
        """Stop, because the client is gone; it was sent that many tokens."""
        if self._sent is None:
            self._sent = sent
            self.model.stop(self.number)

    def stop_at_deadline(self) -> None:
        """Stop, because time is up."""
        if not self._late:
            self._late = True
            self.model.stop(self.number)

    def delta(self, text: str, tokens: int) -> None:
        """Pass new text on."""
        self._texts.append(text)
        self._tokens.append(tokens)
        _GENERATED.inc(tokens)
        job = self.admitted.job
        if job.stream and self._sent is None:
            outputs = encode_tensors(
                [Tensor.from_numpy("text", _texts(text)), Tensor.from_numpy("tokens", np.array([tokens], np.int64))]
            )
            self._owner.tell(job, Result(job.request_id, job.attempt, ok=True, outputs=outputs, final=False))

    def failed(self, error: JobError) -> None:
        """Pass on that nothing came of it."""
        self._owner.end(self, error)

    def finished(self, end: Finished) -> None:
        """Make the answer, cut to what the client was sent if it left."""
        _READ.inc(end.prompt_tokens)
        reason, made, texts = end.reason, end.completion_tokens, self._texts
        if self._sent is not None:
            reason, made, texts = "cancelled", 0, []
            for text, tokens in zip(self._texts, self._tokens, strict=True):
                if made + tokens > self._sent:
                    break
                made += tokens
                texts.append(text)
            if not made:
                self._owner.end(self, JobCancelled("the client left before it was sent anything."))
                return
        elif reason == "cancelled":  # by the deadline
            if not self.admitted.job.stream or not self._texts:
                self._owner.end(self, JobTooLate("the deadline passed before the text was whole.", field="deadline_at"))
                return
            reason, made = "length", sum(self._tokens)
        outputs = {
            "text": _texts("".join(texts)),
            "finish_reason": _texts(reason),
            "usage": np.array([end.prompt_tokens, made], np.int64),
        }
        if end.logprobs is not None:
            outputs["logprobs"] = np.array(end.logprobs[:made], np.float32)
        self._owner.end(self, Answer(outputs, units=end.prompt_tokens + made))


def _texts(text: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array([text.encode()], dtype=object)
