"""Loaded models: checked against their manifest, warmed up, and unloaded oldest first above a memory budget.

Decides how many rows a model runs at once, by measuring on this machine. Called by `workers.execution`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, TypeAlias

import structlog

from workers.errors import ExecutionFailed, ModelUnusable
from workers.models.generation.model import GenerationModel
from workers.models.graph import Graph, first_line
from workers.models.pipelines.base import Pipeline
from workers.models.pipelines.choose import open_pipeline
from workers.models.runtime import open_session
from workers.models.store import Package

WARM_UP_SECONDS = 3.0
KNEE = 0.95  # the smallest batch within this of the best rate is taken
# Loaded weights, arenas and activations together, relative to the files.
MEMORY_FACTOR = 2

Model: TypeAlias = Pipeline[Any] | GenerationModel

log = structlog.get_logger(__name__)


class SessionCache:
    """The models in memory, under a budget of bytes."""

    def __init__(
        self,
        *,
        provider: str,
        threads: int,
        memory_budget_bytes: int,
        generations: int = 8,
        generation_memory_bytes: int = 2 << 30,
    ) -> None:
        self._provider = provider
        self._threads = threads
        self._budget = memory_budget_bytes
        self._generations = generations
        self._generation_memory = generation_memory_bytes
        self._loaded: OrderedDict[bytes, Model] = OrderedDict()
        self._caps: dict[bytes, int] = {}

    def get(self, package: Package) -> Model:
        """Return a loaded model, loading it and unloading others as needed.

        Raises:
            ModelUnusable: the runtime refuses it, or it contradicts its manifest.
        """
        known = self._loaded.get(package.model_id)
        if known is not None:
            self._loaded.move_to_end(package.model_id)
            return known
        model = self._load(package)
        self._loaded[package.model_id] = model
        while self._bytes() > self._budget:
            # A model in the midst of a generation stays, and so does the one just asked for.
            gone = next((i for i, one in self._loaded.items() if one is not model and not _is_busy(one)), None)
            if gone is None:
                break
            unloaded = self._loaded.pop(gone)
            if isinstance(unloaded, GenerationModel):
                unloaded.close()
            log.info("model-unloaded", model=gone.hex())
        return model

    def close(self) -> None:
        """End the processes of models that have one."""
        for model in self._loaded.values():
            if isinstance(model, GenerationModel):
                model.close()

    def cap(self, model_id: bytes) -> int:
        """Return how many rows of a model run at once, as measured when it was first loaded; 1 before."""
        return self._caps.get(model_id, 1)

    def loaded(self) -> int:
        """Return how many models are in memory."""
        return len(self._loaded)

    def _bytes(self) -> int:
        return MEMORY_FACTOR * sum(model.package.size for model in self._loaded.values())

    def _load(self, package: Package) -> Model:
        manifest = package.manifest
        started = time.monotonic()
        if manifest.task == "text-generation":
            self._caps[package.model_id] = self._generations
            return GenerationModel(
                package,
                provider=self._provider,
                threads=self._threads,
                most_active=self._generations,
                cache_bytes=self._generation_memory,
            )
        try:
            session = open_session(package.read(manifest.entry), provider=self._provider, threads=self._threads)
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ModelUnusable(f"{manifest.entry}: {first_line(error)}", field=manifest.entry) from error
        model = open_pipeline(package, Graph(session))
        cap = self._caps.get(package.model_id)
        if cap is None:
            cap = self._caps[package.model_id] = _warm_up(model)
        model.batch_cap = cap
        log.info(
            "model-loaded",
            model=package.model_id.hex(),
            task=manifest.task,
            providers=session.get_providers(),
            batch_cap=cap,
            seconds=round(time.monotonic() - started, 2),
        )
        return model


def _is_busy(model: Model) -> bool:
    return isinstance(model, GenerationModel) and model.active > 0


def _warm_up(model: Pipeline[Any]) -> int:
    """Run the model on made-up inputs; returns the batch at which it gives (nearly) most rows a second."""
    manifest, outputs = model.manifest, model.graph_outputs
    deadline_at = time.monotonic() + WARM_UP_SECONDS
    rates: dict[int, float] = {}
    size = 1
    while size <= (manifest.max_batch if manifest.batch_axis is not None else 1):
        try:
            inputs = model.sample(size)
            model.graph.run(inputs, outputs)
            started = time.perf_counter()
            model.graph.run(inputs, outputs)
        except ExecutionFailed as error:
            # Made-up values may be nonsense to a model that real ones suit.
            log.info("warm-up-ended", batch=size, reason=error.detail)
            break
        rates[size] = size / max(time.perf_counter() - started, 1e-9)
        if time.monotonic() > deadline_at:
            break
        size *= 2
    best = max(rates.values(), default=0.0)
    return next((size for size, rate in sorted(rates.items()) if rate >= KNEE * best), 1)
