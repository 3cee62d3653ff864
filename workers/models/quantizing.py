"""Makes a model smaller: weights as 8 or 4 bit integers, and says how far the answers move.

Both ways are onnxruntime's own (`onnxruntime.quantization`): int8 quantises weights and, as the model runs, activations
of matrix products, recurrences and embeddings; int4 keeps weights in blocks of 32 with a scale each and computes in
float. The package it came from is not touched. Called by `worker quantize`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import AUDIT_TOLERANCE, FILENAME, FileEntry, Manifest
from contracts.protocol.tensors import Tensor
from workers.errors import JobError, ModelUnusable
from workers.models import runtime
from workers.models.pipelines.base import Pipeline
from workers.models.store import Package, hash_file

PRECISIONS = ("int8", "int4")
# Rounded activations differ from one processor to the next, and with what else is in a batch.
QUANTIZED_TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output moved over all samples.

    `relative` is the length of the difference over the length of the output; `cosine` that between both, of all
    values as one vector; `largest` of a single value.
    """

    output: str
    relative: float
    cosine: float
    largest: float


def quantize(package: Package, into: Path, precision: str) -> Package:
    """Write a package with the same files but a quantised entry, and its manifest.

    Raises:
        ModelUnusable: the package is not of one ONNX file, nothing in it can be quantised, or onnxruntime refuses it.
    """
    manifest = package.manifest
    if not manifest.entry.endswith(".onnx"):
        raise ModelUnusable(
            f"{manifest.entry} is no ONNX file: a model for onnxruntime-genai is quantised where it is built.",
            field="entry",
            remedy="Build it again with `python -m onnxruntime_genai.models.builder -p int4`.",
        )
    if into.exists() and any(into.iterdir()):
        raise ModelUnusable(f"{into} is not empty.", field="into", remedy="Name another folder.")
    external = _weights_beside(package)
    left_out = {manifest.entry, *external, *manifest.options.get("variants", ())}
    into.mkdir(parents=True, exist_ok=True)
    try:
        for name in manifest.files:
            if name not in left_out:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package.folder / name, into / name)
        return _written(package, into, precision, external)
    except BaseException:
        shutil.rmtree(into)
        raise


def _written(package: Package, into: Path, precision: str, external: set[str]) -> Package:
    manifest = package.manifest
    target = into / manifest.entry
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # From a copy: onnxruntime writes beside what it reads.
        with TemporaryDirectory(dir=into.parent, prefix=".quantize-") as scratch:
            for name in (manifest.entry, *external):
                (Path(scratch) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package.folder / name, Path(scratch) / name)
            large = package.size > runtime.MAX_INLINE_BYTES
            runtime.quantize(Path(scratch) / manifest.entry, target, precision, large=large)
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ModelUnusable(f"onnxruntime cannot quantise it: {line}", field=manifest.entry) from error
    options = {name: value for name, value in manifest.options.items() if name != "variants"}
    if options.get(AUDIT_TOLERANCE) != 0:
        options[AUDIT_TOLERANCE] = max(options.get(AUDIT_TOLERANCE, 0), QUANTIZED_TOLERANCE)
    written = Manifest.parse(replace(manifest, files=_files(into), options=options).to_bytes())
    (into / FILENAME).write_bytes(written.to_bytes())
    made = Package(written.model_id, written, into)
    if made.size >= package.size:
        raise ModelUnusable(
            f"it would not become smaller: {package.size} bytes before, {made.size} after.",
            field=manifest.entry,
            remedy="Publish it as it is; it may be quantised already.",
        )
    return made


def differences(before: Pipeline[Any], after: Pipeline[Any], samples: Sequence[Sequence[Tensor]]) -> list[Difference]:
    """Run samples on both models, each alone, and compare every output of floating point.

    Raises:
        JobError: a sample cannot be run.
        ModelUnusable: there is no output to compare.
    """
    told: dict[str, tuple[list[NDArray[Any]], list[NDArray[Any]]]] = {}
    for tensors in samples:
        pair = []
        for model in (before, after):
            (answer,) = model.run([model.prepare(tensors, {})])
            if isinstance(answer, JobError):
                raise answer
            pair.append(answer.outputs)
        for name, array in pair[0].items():
            if np.issubdtype(array.dtype, np.floating) and array.shape == pair[1][name].shape:
                old, new = told.setdefault(name, ([], []))
                old.append(array.astype(np.float64).ravel())
                new.append(pair[1][name].astype(np.float64).ravel())
    if not told:
        raise ModelUnusable("no output of floating point can be compared.", field="outputs")
    return [_difference(name, np.concatenate(old), np.concatenate(new)) for name, (old, new) in told.items()]


def _difference(name: str, old: NDArray[Any], new: NDArray[Any]) -> Difference:
    apart, length = float(np.linalg.norm(old - new)), float(np.linalg.norm(old))
    both = length * float(np.linalg.norm(new))
    return Difference(
        output=name,
        relative=apart / length if length else apart,
        cosine=float(old @ new) / both if both else float(apart == 0.0),
        largest=float(np.max(np.abs(old - new), initial=0.0)),
    )


def _weights_beside(package: Package) -> set[str]:
    """Name the files that the entry keeps weights in."""
    try:
        import onnx
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise ModelUnusable(
            "the packages that quantise are not installed.",
            field="precision",
            remedy="Install the extra [convert]: pip install 'inference-market[convert]'.",
        ) from error
    entry = package.manifest.entry
    beside = entry.rpartition("/")[0]
    model = onnx.load(package.folder / entry, load_external_data=False)
    found = {
        item.value for tensor in model.graph.initializer for item in tensor.external_data if item.key == "location"
    }
    names = {f"{beside}/{name}" if beside else name for name in found}
    strange = sorted(names - package.manifest.files.keys())
    if strange:
        raise ModelUnusable(f"weights in {strange[0][:80]!r}, which is not the package's.", field=entry)
    return names


def _files(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
