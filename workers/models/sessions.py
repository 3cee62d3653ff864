"""Loaded models: checked against their manifest, warmed up, and unloaded oldest first above a memory budget.

Decides how many rows a model runs at once, by measuring on this machine. Called by `workers.execution`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import NUMPY_DTYPES
from workers.errors import ExecutionFailed, ModelUnusable
from workers.models.runtime import InferenceSession, open_session
from workers.models.store import Package

FREE_SIZE = 16  # a free dimension other than the batch, at warm-up
WARM_UP_SECONDS = 3.0
KNEE = 0.95  # the smallest batch within this of the best rate is taken
# Loaded weights, arenas and activations together, relative to the files.
MEMORY_FACTOR = 2

log = structlog.get_logger(__name__)

_ORT_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory; `batch_cap` rows run at once."""

    package: Package
    session: InferenceSession
    batch_cap: int

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Raises:
            ExecutionFailed: onnxruntime refuses these inputs.
        """
        try:
            values = self.session.run(list(outputs), dict(inputs))
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ExecutionFailed(_first_line(error)) from error
        return dict(zip(outputs, (np.asarray(value) for value in values), strict=True))


class SessionCache:
    """The models in memory, under a budget of bytes."""

    def __init__(self, *, provider: str, threads: int, memory_budget_bytes: int) -> None:
        self._provider = provider
        self._threads = threads
        self._budget = memory_budget_bytes
        self._loaded: OrderedDict[bytes, LoadedModel] = OrderedDict()
        self._caps: dict[bytes, int] = {}

    def get(self, package: Package) -> LoadedModel:
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
        while len(self._loaded) > 1 and self._bytes() > self._budget:
            gone, _ = self._loaded.popitem(last=False)
            log.info("model-unloaded", model=gone.hex())
        return model

    def cap(self, model_id: bytes) -> int:
        """Return how many rows of a model run at once, as measured when it was first loaded; 1 before."""
        return self._caps.get(model_id, 1)

    def loaded(self) -> int:
        """Return how many models are in memory."""
        return len(self._loaded)

    def _bytes(self) -> int:
        return MEMORY_FACTOR * sum(model.package.size for model in self._loaded.values())

    def _load(self, package: Package) -> LoadedModel:
        manifest = package.manifest
        started = time.monotonic()
        try:
            session = open_session(package.read(manifest.entry), provider=self._provider, threads=self._threads)
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ModelUnusable(f"{manifest.entry}: {_first_line(error)}", field=manifest.entry) from error
        _check("inputs", manifest.inputs, session.get_inputs())
        _check("outputs", manifest.outputs, session.get_outputs())
        cap = self._caps.get(package.model_id)
        if cap is None:
            cap = self._caps[package.model_id] = _warm_up(session, manifest)
        log.info(
            "model-loaded",
            model=package.model_id.hex(),
            providers=session.get_providers(),
            batch_cap=cap,
            seconds=round(time.monotonic() - started, 2),
        )
        return LoadedModel(package, session, cap)


def _check(what: str, specs: Sequence[TensorSpec], nodes: Sequence[Any]) -> None:
    by_name = {node.name: node for node in nodes}
    if what == "inputs" and set(by_name) != {spec.name for spec in specs}:
        raise ModelUnusable(
            f"the model takes {sorted(by_name)}, its manifest says {sorted(spec.name for spec in specs)}.", field=what
        )
    for spec in specs:
        node = by_name.get(spec.name)
        if node is None:
            raise ModelUnusable(f"the model has no {spec.name}.", field=what)
        if _ORT_TYPES.get(node.type) != spec.datatype:
            raise ModelUnusable(
                f"{spec.name} is {node.type} in the model, {spec.datatype} in the manifest.", field=what
            )
        if len(node.shape) != len(spec.shape) or any(
            isinstance(size, int) and said not in (size, -1) for size, said in zip(node.shape, spec.shape, strict=True)
        ):
            raise ModelUnusable(
                f"{spec.name} is {node.shape} in the model, {list(spec.shape)} in the manifest.", field=what
            )


def _warm_up(session: InferenceSession, manifest: Manifest) -> int:
    """Run the model on made-up inputs; returns the batch at which it gives (nearly) most rows a second."""
    axis, outputs = manifest.batch_axis, [spec.name for spec in manifest.outputs]
    deadline_at = time.monotonic() + WARM_UP_SECONDS
    rates: dict[int, float] = {}
    size = 1
    while size <= (manifest.max_batch if axis is not None else 1):
        inputs = {spec.name: _sample(spec, axis, size) for spec in manifest.inputs}
        try:
            session.run(outputs, inputs)
            started = time.perf_counter()
            session.run(outputs, inputs)
        except Exception as error:  # onnxruntime raises its own unrelated classes
            # Made-up values may be nonsense to a model that real ones suit.
            log.info("warm-up-ended", batch=size, reason=_first_line(error))
            break
        rates[size] = size / max(time.perf_counter() - started, 1e-9)
        if time.monotonic() > deadline_at:
            break
        size *= 2
    best = max(rates.values(), default=0.0)
    return next((size for size, rate in sorted(rates.items()) if rate >= KNEE * best), 1)


def _sample(spec: TensorSpec, batch_axis: int | None, batch: int) -> NDArray[Any]:
    shape = tuple(
        (batch if axis == batch_axis else FREE_SIZE) if size < 0 else size for axis, size in enumerate(spec.shape)
    )
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=object)
    dtype = NUMPY_DTYPES[spec.datatype]
    return np.ones(shape, dtype) if dtype.kind in "iu" else np.zeros(shape, dtype)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
