"""Compares what two workers answered to one input: floats by their relative distance, all else exactly.

Pure. Rows of probabilities are compared by their logarithms, which are what was there before the softmax but for a
constant: a softmax that is sure of itself hides differences, and one that is not enlarges honest noise.

Measured 2026-11 on six real models on CPUs, before their last softmax: threads, optimisation levels, batches and
versions of onnxruntime move a result by 3.1e-5 relative L2 at most; int8 and bf16 substitutes move it by 2.6e-3 at
least. Of another one (Magika) a batch moves it by 4.3e-4. The tolerance stands between, where the model's manifest
names none. Called by `market.inference.audits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import AUDIT_TOLERANCE, Manifest
from contracts.protocol.tensors import Tensor

DEFAULT_TOLERANCE = 1e-3
# What of floats has half the bits rounds by so much more.
HALF_FACTOR = 10.0
# Off the CPU fp32 may be computed in tf32, with ten bits of mantissa.
ACCELERATOR_TOLERANCE = 1e-2
CPU = "cpu"
_HALF = ("FP16", "BF16")
_FLOATS = (*_HALF, "FP32", "FP64")
# An answer smaller than this share of the usual size is compared as if it had it.
_LEAST_SHARE = 0.1
_SUM_OFF = 1e-4
# So many tolerances apart is slight, unless it is as far as another model's answers are.
_SLIGHT = 10.0
_ANOTHER = 0.5
# Below this float32 has few digits, or none.
_LEAST_PROBABILITY = 1e-30


class Verdict(StrEnum):
    """How two answers differ: not at all; so that an honest worker might once; or so that none could.

    Slight are values on the edge between two, such as labels, and distances not far beyond the tolerance.
    """

    SAME = "same"
    SLIGHT = "slight"
    FAR = "far"


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of two answers: `error` is relative L2, infinite where there is no such number."""

    verdict: Verdict
    error: float = 0.0
    detail: str = ""

    @property
    def same(self) -> bool:
        """Whether one model may have given both answers."""
        return self.verdict is Verdict.SAME


def tolerance_of(manifest: Manifest, default: float) -> float | None:
    """Return the relative L2 distance that honest answers of a model keep to; None if it cannot be audited.

    Text generations draw their tokens, and a model with variants is honestly served in several precisions.
    """
    if manifest.task == "text-generation":
        return None
    said = manifest.options.get(AUDIT_TOLERANCE)
    if said is not None:
        return float(said) or None
    return None if manifest.options.get("variants") else default


def tolerance_between(manifest: Manifest, tolerance: float, providers: tuple[str, str]) -> float:
    """Return the tolerance for answers made on two kinds of machine; the manifest's own counts for all kinds."""
    if AUDIT_TOLERANCE in manifest.options or all(provider == CPU for provider in providers):
        return tolerance
    return max(tolerance, ACCELERATOR_TOLERANCE)


def compare(
    first: tuple[Sequence[Tensor], Mapping[str, Any]],
    second: tuple[Sequence[Tensor], Mapping[str, Any]],
    limit: float,
    usual: Mapping[str, float] = MappingProxyType({}),
) -> Difference:
    """Compare the tensors and parameters of two answers to one request; `limit` is the tolerance for fp32.

    `usual` is how large the values of each output usually are (`size_of`): what is next to nothing beside that is not
    held against a worker, as where a ReLU lets nothing but the noise through.
    """
    (ours, said), (theirs, also_said) = first, second
    names, others = {one.name: one for one in ours}, {one.name: one for one in theirs}
    if names.keys() != others.keys():
        return Difference(Verdict.FAR, inf, f"outputs {sorted(names)} and {sorted(others)}")
    worst = Difference(Verdict.SAME)
    if dict(said) != dict(also_said):
        worst = Difference(Verdict.SLIGHT, inf, "the parameters differ")
    for name, one in sorted(names.items()):
        found = _tensors(one, others[name], limit, usual.get(name, 0.0))
        if _rank(found) > _rank(worst):
            worst = found
    return worst


def _rank(found: Difference) -> tuple[int, float]:
    return list(Verdict).index(found.verdict), found.error


def size_of(tensor: Tensor) -> float:
    """Return the root of the mean square of a tensor's finite values, 0 for what is not compared by distance."""
    if tensor.datatype not in _FLOATS or not tensor.elements:
        return 0.0
    finite = np.nan_to_num(_floats(tensor).ravel(), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(finite).max()
    return float(largest * np.sqrt(np.mean((finite / largest) ** 2))) if largest else 0.0


def _tensors(one: Tensor, other: Tensor, limit: float, usual: float) -> Difference:
    name = one.name
    if one.datatype != other.datatype or one.shape != other.shape:
        shown = f"{one.datatype}{list(one.shape)} and {other.datatype}{list(other.shape)}"
        return Difference(Verdict.FAR, inf, f"{name} is {shown}")
    if one.datatype not in _FLOATS:
        if bytes(one.data) == bytes(other.data):
            return Difference(Verdict.SAME)
        return Difference(Verdict.SLIGHT, inf, f"{name}: {one.datatype} values differ")
    ours, theirs, least = _floats(one), _floats(other), _LEAST_SHARE * usual
    if one.datatype not in _HALF and are_probabilities(ours) and are_probabilities(theirs):
        # Where all is alike likely there is nothing but noise to divide by: logits are of the order of one.
        ours, theirs, least = centred_logarithms(ours), centred_logarithms(theirs), 1.0
    error = relative_distance(ours, theirs, least=least)
    limit *= HALF_FACTOR if one.datatype in _HALF else 1.0
    if error <= limit:
        return Difference(Verdict.SAME, error)
    verdict = Verdict.SLIGHT if error <= min(_SLIGHT * limit, max(limit, _ANOTHER)) else Verdict.FAR
    what = "not the same numbers are finite" if error == inf else f"{error:.2e} apart, relative L2"
    return Difference(verdict, error, f"{name}: {what}")


def relative_distance(one: NDArray[np.float64], other: NDArray[np.float64], *, least: float = 0.0) -> float:
    """Return the length of the difference over that of the longer array; infinite unless NaN and infinities agree.

    The longer one counts as if its values were of the size `least` on average, if they are not.
    """
    one, other = one.ravel(), other.ravel()
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~np.isfinite(other)], equal_nan=True) or not np.array_equal(
        finite, np.isfinite(other)
    ):
        return inf
    kept, theirs = one[finite], other[finite]
    largest = max(np.abs(kept).max(initial=0.0), np.abs(theirs).max(initial=0.0), least)
    if largest == 0.0:
        return 0.0
    # Scaled first: squares of very large or small numbers would not be finite, or nothing.
    kept, theirs = kept / largest, theirs / largest
    length = max(np.linalg.norm(kept), np.linalg.norm(theirs), np.sqrt(kept.size) * least / largest)
    return float(np.linalg.norm(kept - theirs) / length) if length else 0.0


def are_probabilities(array: NDArray[np.float64]) -> bool:
    """Tell whether every row, along the last axis, is positive and adds up to one, as after a softmax."""
    if array.ndim == 0 or array.shape[-1] < 2 or array.size == 0:
        return False
    return bool(np.all(array >= 0.0) and np.all(np.abs(array.sum(axis=-1) - 1.0) <= _SUM_OFF))


def centred_logarithms(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's logarithms, less their mean."""
    logarithms = np.log(np.maximum(array, _LEAST_PROBABILITY))
    centred: NDArray[np.float64] = logarithms - logarithms.mean(axis=-1, keepdims=True)
    return centred


def _floats(tensor: Tensor) -> NDArray[np.float64]:
    array = tensor.to_numpy()
    if tensor.datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64)
