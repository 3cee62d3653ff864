"""Loaded models: checked against their manifest, warmed up, and unloaded oldest first above a memory budget.

Decides how many rows a model runs at once, by measuring on this machine. Called by `workers.execution`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog

from workers.models.deaths import Deaths
from workers.models.generation.model import GenerationModel
from workers.models.isolated.model import IsolatedModel
from workers.models.opening import open_model, warm_up
from workers.models.pipelines.base import Pipeline
from workers.models.sandbox import Confinement
from workers.models.store import Package
from workers.models.tuned import Tuned, TunedStore
from workers.settings import WorkerSettings

# Loaded weights, arenas and activations together, relative to the files.
MEMORY_FACTOR = 2

# Those that run in a process of their own.
Housed: TypeAlias = GenerationModel | IsolatedModel
Model: TypeAlias = Pipeline[Any] | Housed

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
        self._confined: dict[bytes, Confinement] = {}
        self.deaths = Deaths()

    def confine(self, model_id: bytes, confinement: Confinement) -> None:
        """Say that a model is a stranger's, and how it is to run."""
        self._confined[model_id] = confinement

    def is_confined(self, model_id: bytes) -> bool:
        """Tell whether a model runs as a stranger's."""
        return model_id in self._confined

    def note_trial(self, model_id: bytes, rows: int) -> None:
        """Take over how many rows run best at once, as a trial on the CPU found; what is tuned or a card's stays."""
        if self._provider == "cpu" and self._tuned(model_id) is None:
            self._caps[model_id] = rows

    def get(self, package: Package) -> Model:
        """Return a loaded model, loading it and unloading others as needed.

        Raises:
            ModelUnusable: the runtime refuses it, or it contradicts its manifest.
            ModelWithdrawn: its process ended too often.
        """
        self.deaths.check(package.model_id)
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
            if isinstance(unloaded, Housed):
                unloaded.close()
            log.info("model-unloaded", model=gone.hex())
        return model

    def close(self) -> None:
        """End the processes of models that have one."""
        for model in self._loaded.values():
            if isinstance(model, Housed):
                model.close()

    def cap(self, model_id: bytes) -> int:
        """Return how many rows of a model run at once, as measured when it was tried or first loaded; 1 before."""
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
                confinement=self._confined.get(package.model_id),
                deaths=self.deaths,
            )
        entry = tuned.entry if tuned else manifest.entry
        provider = tuned.provider if tuned else self._provider
        cap = self._caps.get(package.model_id, tuned.batch if tuned else 0)
        confinement = self._confined.get(package.model_id)
        model: Pipeline[Any] | IsolatedModel
        if confinement is not None:
            model = IsolatedModel(
                package,
                entry=entry,
                provider=provider,
                threads=threads,
                cuda_graphs=self._cuda_graphs,
                confinement=confinement,
                batch=cap,
                deaths=self.deaths,
            )
            cap, providers = model.batch_cap, model.providers
        else:
            model = open_model(package, entry=entry, provider=provider, threads=threads, cuda_graphs=self._cuda_graphs)
            cap = model.batch_cap = cap or warm_up(model)
            providers = model.graph.session.get_providers()
        self._caps[package.model_id] = cap
        log.info(
            "model-loaded",
            model=package.model_id.hex(),
            task=manifest.task,
            entry=entry,
            providers=providers,
            batch_cap=cap,
            isolated=confinement is not None,
            tuned=tuned is not None,
            seconds=round(time.monotonic() - started, 2),
        )
        return model


def _is_busy(model: Model) -> bool:
    return isinstance(model, GenerationModel) and model.active > 0


def open_sessions(settings: WorkerSettings, provider: str) -> SessionCache:
    """Return an empty cache of models, with what was measured on this machine at hand."""
    return SessionCache(
        provider=provider,
        threads=settings.threads,
        memory_budget_bytes=settings.memory_budget_bytes,
        generations=settings.generations,
        generation_memory_bytes=settings.generation_memory_bytes,
        cuda_graphs=settings.cuda_graphs,
        tuned=TunedStore(settings.state_dir).get,
    )
