"""Generations that nobody pays for: to see whether a model works here, and how fast."""

from __future__ import annotations

import threading
import time

from workers.errors import ExecutionFailed, JobError
from workers.models.generation.heard import Finished
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import GenerationRequest


class Trial:
    """What was heard of one; times are `time.perf_counter`'s."""

    def __init__(self) -> None:
        self.text = ""
        self.started_at = time.perf_counter()
        self.first_at = 0.0
        self.ended_at = 0.0
        self.end: Finished | None = None
        self.error: JobError | None = None
        self.done = threading.Event()

    def delta(self, text: str, tokens: int) -> None:  # noqa: ARG002
        """Keep new text."""
        self.first_at = self.first_at or time.perf_counter()
        self.text += text

    def finished(self, end: Finished) -> None:
        """Keep the end."""
        self.end, self.ended_at = end, time.perf_counter()
        self.done.set()

    def failed(self, error: JobError) -> None:
        """Keep the failure."""
        self.error = error
        self.done.set()


def run_trials(model: GenerationModel, request: GenerationRequest, *, count: int = 1, seconds: float) -> list[Trial]:
    """Run the same request some times side by side.

    Raises:
        JobError: one of them failed, or it took too long.
    """
    trials = [Trial() for _ in range(count)]
    for one in trials:
        model.start(request, one)
    until = time.monotonic() + seconds
    for one in trials:
        if not one.done.wait(max(until - time.monotonic(), 0)):
            model.kill()
            raise ExecutionFailed(f"a trial of {request.max_tokens} tokens took more than {seconds:.0f} s.")
        if one.error is not None:
            raise one.error
    return trials
