"""A stranger's model as the worker holds it: a sandboxed process, restarted when it ends, ended when it is overdue.

A request that the process did not answer fails as data, whatever became of the process. Of requests that ran together
when it died, each runs alone once more, so that one client's inputs do not fail its neighbours'. Used by one thread.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest
from workers import telemetry
from workers.errors import (
    ExecutionFailed,
    JobError,
    ModelDied,
    ModelError,
    ModelUnusable,
    OutOfMemory,
    OutOfTime,
    UnsafePackage,
)
from workers.models.deaths import Deaths
from workers.models.isolated.messages import pack_requests, read_given, read_outcomes
from workers.models.pipelines.base import Answer
from workers.models.sandbox import Confinement, resident_bytes, start
from workers.models.serving import Batches, Outcomes, Request
from workers.models.sizes import Size
from workers.models.store import Package
from workers.models.timing import MIN_RUNS
from workers.models.wire import Garbled, Message, Wire, printable

LOOK_SECONDS = 0.25
# A batch has so long even if its requests' deadlines are nearer: to end a model costs more than a late answer.
LEAST_RUN_SECONDS = 5.0
MOST_RESTARTS = 2  # of one pack
_END_SECONDS = 5.0
_BY_SIZE: Mapping[str, type[JobError]] = {"overdue": OutOfTime, "memory": OutOfMemory}
_ERRORS = {kind.code: kind for kind in (UnsafePackage, ModelUnusable)}

log = structlog.get_logger(__name__)


class IsolatedModel:
    """One loaded model, whose task is any but text generation."""

    def __init__(
        self,
        package: Package,
        *,
        confinement: Confinement,
        entry: str | None = None,
        provider: str = "cpu",
        threads: int = 1,
        cuda_graphs: bool = False,
        batch: int = 0,
        deaths: Deaths | None = None,
    ) -> None:
        """Start the process and wait until it has opened the model.

        Raises:
            UnsafePackage: something in the file is not taken from strangers.
            ModelUnusable: it crashed, took too long or too much memory, or the runtime refuses it.
        """
        self.package = package
        self._entry = entry or package.manifest.entry
        self._confinement = confinement
        self._deaths = deaths or Deaths()
        self._orders = {
            "folder": str(package.folder.resolve()),
            "entry": self._entry,
            "provider": provider,
            "threads": threads,
            "cuda_graphs": cuda_graphs,
        }
        self._batch = batch
        self._answered = Size()
        self._number = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._ready = False
        self.providers: tuple[str, ...] = ()
        try:
            self._await_ready()
        except _Ended as ended:
            raise ModelUnusable(f"{self._entry}: {ended.detail}", field=self._entry) from None
        finally:
            if not self._ready:
                self.close()

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    @property
    def batch_cap(self) -> int:
        """How many rows run at once, as the process measured."""
        return self._batch

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return None if self._process is None else self._process.pid

    def serve(self, requests: Sequence[Request]) -> Batches:
        """Yield the outcomes batch by batch; together they are one for each request.

        What ends the process by its size, larger than all that the model answered, does not count against the model.
        """
        left = dict(enumerate(requests))
        restarts, alone, unexplained = 0, False, ""
        while left:
            chosen = dict([next(iter(left.items()))]) if alone else dict(left)
            began = time.perf_counter()
            try:
                for outcomes, seconds in self._run(chosen):
                    for i, outcome in outcomes.items():
                        if isinstance(outcome, Answer):
                            self._answered = self._answered.with_other(Size.of([left[i].tensors]))
                        del left[i]
                    yield outcomes, seconds
            except _Ended as ended:
                self._end()
                again = ended.cause in ("died", "memory") and len(chosen) > 1 and restarts < MOST_RESTARTS
                unexplained = ended.detail if again else ""
                too_large = self._too_large(ended, chosen)
                counts = not again and too_large is None
                self._deaths.note(self.package.model_id, ended.cause, ended.detail, counts=counts)
                error = too_large or ModelDied(f"the model's process ended: {ended.detail}")
                last = restarts == MOST_RESTARTS
                failed, fate = self._fate(ended, error, list(left), list(chosen), again=again, last=last)
                for i in failed:
                    del left[i]
                if failed:
                    yield dict.fromkeys(failed, fate), time.perf_counter() - began
                restarts, alone = restarts + 1, True
        if unexplained:  # no request alone brought it down
            self._deaths.count(self.package.model_id, unexplained)

    def _too_large(self, ended: _Ended, ran: Mapping[int, Request]) -> JobError | None:
        """Return the refusal of inputs larger than any that the model answered, where they ended its process."""
        kind = _BY_SIZE.get(ended.cause)
        if kind is None or self._answered == Size():
            return None
        if Size.of([one.tensors for one in ran.values()]).is_within(self._answered):
            return None
        return kind(f"the model's process was ended: {ended.detail}")

    def _fate(
        self, ended: _Ended, error: JobError, left: list[int], ran: list[int], *, again: bool, last: bool
    ) -> tuple[list[int], JobError]:
        """Return which of the requests that are left have failed, and by what."""
        try:
            self._deaths.check(self.package.model_id)
        except JobError as withdrawn:
            return left, withdrawn
        self._spawn()  # opens the model while we go on
        if again:
            return [], error
        # Of an overdue batch the deadlines are gone too; whoever lies or does not open is not asked again.
        return (left if last or ended.cause != "died" else [i for i in ran if i in left]), error

    def give(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of floating point of a made-up row.

        Raises:
            ExecutionFailed: it gives none, or the process ended.
        """
        try:
            return read_given(*self._exchange("gave", "give"))
        except Garbled as error:
            self._end()
            raise ExecutionFailed(f"the model's process ended: {error}") from error

    def median_seconds(self, rows: int, seconds: float) -> float:
        """Return how long a run of made-up rows takes, as the process says, measured for `seconds`.

        Raises:
            ExecutionFailed: it cannot run them, or the process ended.
        """
        took, _ = self._exchange("took", "time", rows, seconds, seconds=seconds)
        if not isinstance(took, float) or not 0 < took < math.inf:
            self._end()
            raise ExecutionFailed("the model's process ended: it took no time.")
        return took

    def close(self) -> None:
        """End the process for good."""
        self._end()

    def _exchange(self, due: str, what: str, *more: Any, seconds: float = 0.0) -> Message:
        """Ask the process for a measurement; it has as long as a batch for each run, and `seconds`."""
        try:
            wire = self._await_ready()
            self._number += 1
            seconds += (MIN_RUNS + 1) * self._confinement.run_seconds
            overdue, until = _Ended("overdue", f"no answer after {seconds:.0f} s."), time.monotonic() + seconds
            try:
                wire.sock.settimeout(seconds)
                wire.send([what, self._number, *more])
            except OSError:
                raise self._died() from None
            match self._next(wire, until, overdue)[0]:
                case ["failed", self._number, str() as detail], _:
                    raise ExecutionFailed(printable(detail))
                case [said, self._number, value], data if said == due:
                    return value, data
            raise _Ended("garbled", "it did not say what was measured.")
        except _Ended as ended:
            self._end()
            raise ExecutionFailed(f"the model's process ended: {ended.detail}") from None

    # --- one batch --------------------------------------------------------------------------------------------------

    def _run(self, requests: Mapping[int, Request]) -> Batches:
        wire = self._await_ready()
        deadline_at = max(one.deadline_at for one in requests.values())
        seconds = min(self._confinement.run_seconds, max(deadline_at - time.time(), LEAST_RUN_SECONDS))
        until = time.monotonic() + seconds
        overdue = _Ended("overdue", f"no answer after {seconds:.0f} s.")
        self._number += 1
        started = time.perf_counter()
        try:
            wire.sock.settimeout(seconds)
            wire.send(*pack_requests(self._number, list(requests.values())))
        except TimeoutError:
            raise overdue from None
        except OSError:
            raise self._died() from None
        names, waiting = list(requests), set(range(len(requests)))
        while waiting:
            for said, data in self._next(wire, until, overdue):
                outcomes = self._read(said, data, waiting)
                waiting -= outcomes.keys()
                now = time.perf_counter()
                if outcomes:
                    yield {names[i]: outcome for i, outcome in outcomes.items()}, now - started
                started = now

    def _read(self, said: Any, data: memoryview, waiting: set[int]) -> Outcomes:
        try:
            return read_outcomes(said, data, self._number, self.manifest, waiting)
        except Garbled as error:
            raise _Ended("garbled", str(error)) from error

    def _next(self, wire: Wire, until: float, overdue: _Ended) -> list[Message]:
        """Wait for messages."""
        look_at = time.monotonic() + LOOK_SECONDS
        while True:
            now = time.monotonic()
            if now >= until:
                raise overdue
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                self._check_memory()
            wire.sock.settimeout(min(until, look_at) - now + 1e-3)
            try:
                messages = wire.take()
            except TimeoutError:
                continue
            except (EOFError, OSError):
                raise self._died() from None
            except Garbled as error:
                raise _Ended("garbled", str(error)) from error
            if messages:
                return messages

    def _check_memory(self) -> None:
        assert self._process is not None
        held, most = resident_bytes(self._process.pid), self._confinement.memory_bytes
        if held > most:
            raise _Ended("memory", f"it held {held >> 20} MiB of memory, {most >> 20} allowed.")

    # --- the process ------------------------------------------------------------------------------------------------

    def _spawn(self) -> Wire:
        self._process, ours = start(
            "workers.models.isolated.host",
            {**self._orders, "batch": self._batch},
            folder=self.package.folder,
            provider=str(self._orders["provider"]),
            confinement=self._confinement,
        )
        telemetry.MODEL_STARTS.inc()
        self._wire, self._ready = Wire(ours), False
        return self._wire

    def _await_ready(self) -> Wire:
        """Start the process if there is none and wait until it serves."""
        wire = self._wire or self._spawn()
        if self._ready:
            return wire
        seconds = self._confinement.load_seconds
        overdue = _Ended("load", f"not open after {seconds:.0f} s.")
        said = self._next(wire, time.monotonic() + seconds, overdue)[0][0]
        try:
            match said:
                case ["ready", {"batch": int() as batch, "providers": [*providers]}] if 1 <= batch <= 1 << 20:
                    self._batch = min(batch, self.manifest.max_batch)
                    self.providers = tuple(str(one)[:100] for one in providers[:10])
                case ["unusable", str() as code, str() as detail, str() | None as field]:
                    kind = _ERRORS.get(code, ModelUnusable)
                    raise kind(printable(detail), field=field and printable(field))
                case _:
                    raise _Ended("garbled", "it did not say that it is ready.")
        except ModelError as error:
            if not self.providers:
                raise
            raise _Ended("load", str(error)) from error
        self._ready = True
        return wire

    def _died(self) -> _Ended:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        cause = "died" if self._ready else "load"
        what = "it died" if self._ready else "the process that opened it died"
        return _Ended(cause, f"{what} ({self._process.returncode}).")

    def _end(self) -> None:
        process, wire = self._process, self._wire
        self._process, self._wire, self._ready = None, None, False
        if process is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        if wire is not None:
            wire.sock.close()


class _Ended(Exception):
    """The process ended, or must."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


def try_package(package: Package, confinement: Confinement, *, threads: int = 1) -> int:
    """Have a package's entry opened and run on the CPU by a process that may die; returns if it may be opened here.

    What is returned is how many rows run best at once on so many threads, 0 for as many as the runtime takes.

    Raises:
        UnsafePackage: something in the file is not taken from strangers.
        ModelUnusable: it crashed, took too long or too much memory, or the runtime refuses it.
    """
    model = IsolatedModel(package, confinement=confinement, threads=threads)
    model.close()
    log.info("model-tried", model=package.model_id.hex(), sandbox=confinement.bubblewrap is not None)
    return model.batch_cap
