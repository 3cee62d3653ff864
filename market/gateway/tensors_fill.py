"""JSON lists as tensor data: exactly as many elements as the shape has, each one a value of the datatype.

Decides what a number in JSON may become. Called by the JSON codec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, pack_bytes
from market.errors import TensorData, WrongTensorShape
from market.gateway.tensors_check import bfloat16, check_texts

# Up to this many numbers, packing them one by one costs less than making an array of them.
SHORT = 256
_INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
STRUCT_CODES = dict(zip(("BOOL", *_INTEGERS, "FP16", "FP32", "FP64"), "?BHIQbhiqefd", strict=True))
STRUCT_TYPES = {
    code: frozenset((int, float) if code in "efd" else (bool,) if code == "?" else (int,)) for code in "?BHIQbhiqefd"
}


def fill(
    spec: TensorSpec, shape: tuple[int, ...], raw: Any, manifest: Manifest, where: str, *, truths: bool = True
) -> Tensor:
    """Take a JSON list, flat or nested like the shape, as a tensor of a checked shape.

    `truths` says whether true or false may stand in it.

    Raises:
        TensorData: too few or too many elements, ragged, or values that the datatype does not take.
        WrongTensorShape: nested in another shape.
    """
    if not isinstance(raw, list):
        raise TensorData(f"expected a list, got {type(raw).__name__}.", field=where)
    if spec.datatype == "BYTES":
        items = _flatten(raw)
        if not all(isinstance(item, str) for item in items):
            raise TensorData(f"{spec.name} takes texts.", field=where)
        _check_count(len(items), shape, spec, where)
        try:
            encoded = [item.encode() for item in items]
        except UnicodeEncodeError as error:
            raise TensorData(f"{spec.name} holds a text that is not Unicode.", field=where) from error
        check_texts(encoded, spec, manifest, where)
        return Tensor(spec.name, spec.datatype, shape, pack_bytes(encoded, spec.name))
    if (data := _packed(raw, spec)) is not None and len(raw) == prod(shape):
        return Tensor(spec.name, spec.datatype, shape, data)
    try:
        array = np.array(raw)
    except ValueError as error:
        raise TensorData(f"{spec.name} is ragged or mixes lists and numbers.", field=where) from error
    _check_count(array.size, shape, spec, where)
    if array.ndim > 1 and array.shape != shape:
        raise WrongTensorShape(f"the nested data have shape {list(array.shape)}, not {list(shape)}.", field=where)
    flat = array.reshape(-1)
    # numpy makes 1 and 0 of them, where they stand among numbers.
    if truths and flat.dtype.kind in "iuf" and _has_truth(raw, array.ndim):
        raise TensorData(f"{spec.name} takes numbers of {spec.datatype}, and some are true or false.", field=where)
    if spec.datatype == "UINT64" and flat.dtype.kind == "f":
        flat = _exact(_flatten(raw), spec, where)
    data = _cast(flat, spec, where).tobytes() if flat.size else b""
    return Tensor(spec.name, spec.datatype, shape, data)


def _packed(raw: list[Any], spec: TensorSpec) -> bytes | None:
    """Write a short flat list of plain numbers; None where it takes the longer way, which also says what is wrong."""
    code = STRUCT_CODES.get(spec.datatype)
    if code is None or not 0 < len(raw) <= SHORT or not STRUCT_TYPES[code].issuperset(map(type, raw)):
        return None
    try:
        return struct.pack(f"<{len(raw)}{code}", *raw)
    except (struct.error, OverflowError):
        return None


def _exact(items: list[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    """Read numbers beyond int64, which numpy mixes with smaller ones only as floats."""
    if not all(type(item) is int and 0 <= item < 1 << 64 for item in items):
        raise TensorData(f"{spec.name} takes whole numbers of {spec.datatype}.", field=where)
    return np.array(items, dtype="<u8")


def _cast(array: NDArray[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    kind = array.dtype.kind
    dtype = NUMPY_DTYPES.get(spec.datatype)
    if dtype is None or dtype.kind == "f":
        if kind not in "fiu":
            raise TensorData(f"{spec.name} takes numbers.", field=where)
        with np.errstate(over="ignore"):
            cast = array.astype("<f4" if dtype is None else dtype)
            if dtype is None:  # BF16; rounding up may reach infinity
                rounded = bfloat16(cast)
                cast = (rounded.astype("<u4") << 16).view("<f4")
        if not np.isfinite(cast).all():
            raise TensorData(f"{spec.name} has a number that is not finite in {spec.datatype}.", field=where)
        return rounded if dtype is None else cast
    if dtype.kind == "b":
        if kind != "b":
            raise TensorData(f"{spec.name} takes true and false.", field=where)
        return array.astype(dtype)
    if kind not in "iu":
        raise TensorData(f"{spec.name} takes whole numbers of {spec.datatype}.", field=where)
    limits = np.iinfo(dtype)
    low, high = int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise TensorData(f"{spec.name} has {low if low < limits.min else high}, outside {spec.datatype}.", field=where)
    return array.astype(dtype, copy=False)


def _check_count(count: int, shape: tuple[int, ...], spec: TensorSpec, where: str) -> None:
    if count != prod(shape):
        raise TensorData(f"{spec.name} has {count} elements where shape {list(shape)} has {prod(shape)}.", field=where)


def _flatten(raw: list[Any]) -> list[Any]:
    if not any(isinstance(item, list) for item in raw):
        return raw
    flat: list[Any] = []
    waiting = [iter(raw)]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, list):
                waiting.append(iter(item))
                break
            flat.append(item)
        else:
            waiting.pop()
    return flat


def _has_truth(raw: list[Any], depth: int) -> bool:
    items: Iterable[Any] = raw
    for _ in range(depth - 1):
        items = chain.from_iterable(items)
    return bool in set(map(type, items))
