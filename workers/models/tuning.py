"""Measures how a model runs best on this machine: ONNX file (precision), provider, threads and batch.

Every combination that is possible here is run on made-up inputs for a fraction of a second: a stranger's model in a
process of its own, confined as when it is served. Called by `worker tune`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from workers.errors import ExecutionFailed, JobError
from workers.models import timing
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import read_request
from workers.models.generation.trial import run_trials
from workers.models.isolated.model import IsolatedModel
from workers.models.opening import open_model
from workers.models.pipelines.base import Pipeline
from workers.models.runtime import PROVIDERS, available_providers
from workers.models.sandbox import Confinement
from workers.models.store import Package
from workers.models.tuned import Tuned, usable_cores

RUN_SECONDS = 0.3
# Of rates this close the one with fewer threads and the smaller batch is taken: it leaves room and answers sooner.
CLOSE = 0.95
TRIAL_TOKENS = 48
SIDE_BY_SIDE = 4
GENERATION_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Measured:
    """One combination: rows (of a generation: tokens) a second, and milliseconds of one run, or why it cannot be.

    `difference` is the largest difference of the outputs from the manifest's own ONNX file's.
    """

    entry: str
    provider: str
    threads: int
    batch: int
    rate: float = 0.0
    run_ms: float = 0.0
    difference: float = 0.0
    fault: str = ""


def measure(
    package: Package,
    *,
    say: Callable[[Measured], None],
    run_seconds: float = RUN_SECONDS,
    confinement: Confinement | None = None,
) -> list[Measured]:
    """Measure every combination; `say` hears of each as it is done. With a confinement it is a stranger's model."""
    rows = []
    generates = package.manifest.task == "text-generation"
    for row in _generations(package, confinement) if generates else _graphs(package, run_seconds, confinement):
        say(row)
        rows.append(row)
    return rows


def best(rows: list[Measured], *, now: Callable[[], float] = time.time) -> Tuned | None:
    """Return the best of what was measured, None if nothing ran."""
    top = max((row.rate for row in rows if not row.fault), default=0.0)
    if not top:
        return None
    near = [row for row in rows if not row.fault and row.rate >= CLOSE * top]
    row = min(near, key=lambda row: (row.threads, row.batch, -row.rate))
    return Tuned(row.entry, row.provider, row.threads, row.batch, round(row.rate, 2), int(now()))


def thread_counts() -> list[int]:
    """Return 1, 2, 4 … and the number of cores."""
    cores = usable_cores()
    return sorted({1, cores, *(1 << i for i in range(cores.bit_length()) if 1 << i <= cores)})


def _graphs(package: Package, run_seconds: float, confinement: Confinement | None) -> Iterator[Measured]:
    manifest = package.manifest
    entries = [manifest.entry, *(name for name in manifest.options.get("variants", []) if name != manifest.entry)]
    reference: dict[str, NDArray[Any]] | None = None
    for entry in entries:
        for provider in available_providers():
            for threads in thread_counts() if provider == "cpu" else [1]:
                try:
                    model = _open(package, entry, provider, threads, confinement)
                except CodedError as error:
                    yield Measured(entry, provider, threads, 1, fault=error.detail)
                    continue
                try:
                    if PROVIDERS[provider] not in model.providers:
                        yield Measured(entry, provider, threads, 1, fault="it does not run there")
                        continue
                    given = model.give()
                    reference = reference or given
                    difference = _difference(given, reference)
                    yield from _batches(model, manifest, entry, provider, threads, difference, run_seconds)
                except ExecutionFailed as error:
                    yield Measured(entry, provider, threads, 1, fault=error.detail)
                finally:
                    model.close()


class _Inside:
    """A trusted model in this process, asked as an isolated one is."""

    def __init__(self, model: Pipeline[Any]) -> None:
        self._model = model
        self.providers = tuple(model.graph.session.get_providers())

    def give(self) -> dict[str, NDArray[Any]]:
        return timing.give(self._model)

    def median_seconds(self, rows: int, seconds: float) -> float:
        return timing.median_seconds(self._model, rows, seconds)

    def close(self) -> None:
        del self._model


def _open(
    package: Package, entry: str, provider: str, threads: int, confinement: Confinement | None
) -> IsolatedModel | _Inside:
    if confinement is None:
        return _Inside(open_model(package, entry=entry, provider=provider, threads=threads))
    return IsolatedModel(
        package,
        confinement=confinement,
        entry=entry,
        provider=provider,
        threads=threads,
        batch=package.manifest.max_batch,
    )


def _batches(
    model: IsolatedModel | _Inside,
    manifest: Manifest,
    entry: str,
    provider: str,
    threads: int,
    difference: float,
    run_seconds: float,
) -> Iterator[Measured]:
    top, batch = 0.0, 1
    while batch <= (manifest.max_batch if manifest.batch_axis is not None else 1):
        try:
            seconds = model.median_seconds(batch, run_seconds)
        except ExecutionFailed as error:
            yield Measured(entry, provider, threads, batch, fault=error.detail)
            return
        rate = batch / seconds
        yield Measured(entry, provider, threads, batch, rate, seconds * 1_000, difference)
        if rate < 0.8 * top:
            return  # past the knee
        top, batch = max(top, rate), batch * 2


def _difference(given: dict[str, NDArray[Any]], reference: dict[str, NDArray[Any]]) -> float:
    found = 0.0
    for name, values in given.items():
        other = reference.get(name)
        if other is not None and values.dtype.kind == "f" and values.shape == other.shape and values.size:
            found = max(found, float(np.abs(values.astype(np.float64) - other).max()))
    return found


def _generations(package: Package, confinement: Confinement | None) -> Iterator[Measured]:
    entry = package.manifest.entry
    for provider in available_providers():
        for threads in thread_counts() if provider == "cpu" else [1]:
            try:
                model = GenerationModel(
                    package,
                    provider=provider,
                    threads=threads,
                    most_active=SIDE_BY_SIDE,
                    cache_bytes=2 << 30,
                    confinement=confinement,
                )
            except CodedError as error:
                yield Measured(entry, provider, threads, 1, fault=error.detail)
                continue
            try:
                if model.provider != provider:
                    yield Measured(entry, provider, threads, 1, fault=f"it runs on {model.provider} only")
                    continue
                for count in (1, SIDE_BY_SIDE):
                    yield _generate(model, entry, threads, count)
            finally:
                model.close()


def _generate(model: GenerationModel, entry: str, threads: int, count: int) -> Measured:
    prompt = [Tensor.from_numpy("prompt", np.array(["Once upon a time there was"], dtype=object))]
    request = read_request(model.manifest, prompt, {"max_tokens": TRIAL_TOKENS, "temperature": 1.0, "seed": 1})
    started = time.perf_counter()
    try:
        trials = run_trials(model, request, count=count, seconds=GENERATION_SECONDS)
    except JobError as error:
        return Measured(entry, model.provider, threads, count, fault=error.detail)
    seconds = time.perf_counter() - started
    tokens = sum(trial.end.completion_tokens for trial in trials if trial.end is not None)
    return Measured(entry, model.provider, threads, count, tokens / seconds, seconds * 1_000)
