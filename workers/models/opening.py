"""Opens a package's ONNX file as the pipeline of its task: screened, loaded, tried, and measured for its best batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import structlog

from contracts.protocol.errors import CodedError
from workers.errors import ExecutionFailed, ModelUnusable, OutOfMemory
from workers.models.graph import Graph, first_line
from workers.models.pipelines.base import Pipeline
from workers.models.pipelines.choose import open_pipeline
from workers.models.runtime import PROVIDERS, open_session
from workers.models.screening import screen
from workers.models.store import Package

WARM_UP_SECONDS = 3.0
KNEE = 0.95  # the smallest batch within this of the best rate is taken

log = structlog.get_logger(__name__)


def screen_file(package: Package, name: str) -> None:
    """Screen one of a package's ONNX files.

    Raises:
        UnsafePackage: something in it is not taken from strangers.
    """
    screen(package.read(name), name, frozenset(_beside(package, name)))


def open_model(
    package: Package, *, entry: str, provider: str, threads: int, cuda_graphs: bool = False, memory_bytes: int = 0
) -> Pipeline[Any]:
    """Open one of a package's ONNX files and the pipeline of its task, not yet measured; the limit is of a card.

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
            memory_bytes=memory_bytes,
        )
    except CodedError:
        raise
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise ModelUnusable(f"{entry}: {first_line(error)}", field=entry) from error
    on_cuda = session.get_providers()[0] == PROVIDERS["cuda"]
    return open_pipeline(package, Graph(session, cuda_graphs=cuda_graphs and on_cuda))


def try_model(model: Pipeline[Any], entry: str) -> None:
    """Run one row of made-up inputs.

    Raises:
        ModelUnusable: it takes more memory than allowed.
    """
    try:
        model.graph.run(model.sample(1), model.graph_outputs)
    except OutOfMemory as error:
        raise ModelUnusable(f"one row takes more memory than allowed: {error.detail}", field=entry) from error
    except ExecutionFailed as error:
        # Made-up values may be nonsense to a model that real ones suit.
        log.info("trial-run-refused", reason=error.detail)


def warm_up(model: Pipeline[Any]) -> int:
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


def _beside(package: Package, entry: str) -> dict[str, str]:
    """Return the files in an ONNX file's folder: as the file would name them, and as the package does."""
    folder = entry.rpartition("/")[0]
    start = f"{folder}/" if folder else ""
    return {name.removeprefix(start): name for name in package.manifest.files if name.startswith(start)}


def _weight_files(package: Package, entry: str) -> dict[str, str]:
    """Return those that may hold its weights."""
    return {
        name: file
        for name, file in _beside(package, entry).items()
        if name.endswith((".data", "_data", ".bin", ".weight")) or name.startswith(f"{Path(entry).name}.")
    }
