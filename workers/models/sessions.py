"""Loaded models: checked against their manifest, warmed up, and unloaded oldest first above a memory budget.

Decides how many rows a model runs at once, by measuring on this machine. Called by `workers.execution`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from contracts.protocol.errors import CodedError
from workers.errors import ExecutionFailed, ModelUnusable
from workers.models.generation.model import GenerationModel
from workers.models.graph import Graph, first_line
from workers.models.pipelines.base import Pipeline
from workers.models.pipelines.choose import open_pipeline
from workers.models.runtime import PROVIDERS, open_session
from workers.models.store import Package
from workers.models.tuned import Tuned

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
        cuda_graphs: bool = False,
        tuned: Callable[[bytes], Tuned | None] = lambda _: None,
    ) -> None:
        self._provider = provider
        self._threads = threads
        self._budget = memory_budget_bytes
        self._generations = generations
        self._generation_memory = generation_memory_bytes
        self._cuda_graphs = cuda_graphs
        self._tuned = tuned
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
        manifest, started = package.manifest, time.monotonic()
        tuned = self._tuned(package.model_id)
        threads = self._threads or (tuned.threads if tuned else 0)
        if manifest.task == "text-generation":
            self._caps[package.model_id] = self._generations
            return GenerationModel(
                package,
                provider=tuned.provider if tuned else self._provider,
                threads=threads,
                most_active=self._generations,
                cache_bytes=self._generation_memory,
            )
        entry = tuned.entry if tuned else manifest.entry
        model = open_model(
            package,
            entry=entry,
            provider=tuned.provider if tuned else self._provider,
            threads=threads,
            cuda_graphs=self._cuda_graphs,
        )
        cap = self._caps.get(package.model_id)
        if cap is None:
            cap = self._caps[package.model_id] = tuned.batch if tuned else _warm_up(model)
        model.batch_cap = cap
        log.info(
            "model-loaded",
            model=package.model_id.hex(),
            task=manifest.task,
            entry=entry,
            providers=model.graph.session.get_providers(),
            batch_cap=cap,
            tuned=tuned is not None,
            seconds=round(time.monotonic() - started, 2),
        )
        return model


def open_model(
    package: Package, *, entry: str, provider: str, threads: int, cuda_graphs: bool = False
) -> Pipeline[Any]:
    """Open one of a package's ONNX files and the pipeline of its task, not yet measured.

    Raises:
        ModelUnusable: the runtime refuses it, or it contradicts its manifest.
    """
    try:
        session = open_session(
            package.read(entry),
            provider=provider,
            threads=threads,
            external={name: package.read(file) for name, file in _weight_files(package, entry).items()},
            cuda_graphs=cuda_graphs,
        )
    except CodedError:
        raise
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise ModelUnusable(f"{entry}: {first_line(error)}", field=entry) from error
    on_cuda = session.get_providers()[0] == PROVIDERS["cuda"]
    return open_pipeline(package, Graph(session, cuda_graphs=cuda_graphs and on_cuda))


def _weight_files(package: Package, entry: str) -> dict[str, str]:
    """Return the files that may hold an ONNX file's weights: as the file names them, and as the package does."""
    folder = entry.rpartition("/")[0]
    start = f"{folder}/" if folder else ""
    inside = {name.removeprefix(start): name for name in package.manifest.files if name.startswith(start)}
    return {
        name: file
        for name, file in inside.items()
        if name.endswith((".data", "_data", ".bin", ".weight")) or name.startswith(f"{Path(entry).name}.")
    }


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
