"""What a manifest demands of a request's tensors, whatever the transport: names, datatypes, shapes, sizes, values.

Decides before anything is paid or copied whether a tensor is one the model takes, and names the field that is not.
It never parses a transport. Called by the JSON, binary and gRPC codecs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from contracts.protocol.errors import TensorError
from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import ITEM_BYTES, NUMPY_DTYPES, Tensor, unpack_bytes
from market.errors import PayloadTooLarge, TensorData, WrongTensorName, WrongTensorShape, WrongTensorType

# A manifest's owner may say that the model takes NaN and infinities (masks of -inf, say).
NON_FINITE_OPTION = "non_finite_inputs"
_BF16_EXPONENT = 0x7F80


def input_spec(name: object, manifest: Manifest, given: Mapping[str, Tensor], where: str) -> TensorSpec:
    """Return the manifest's input of this name, given for the first time.

    Raises:
        WrongTensorName: there is none, or it came before.
    """
    spec = next((spec for spec in manifest.inputs if spec.name == name), None)
    if spec is None:
        raise WrongTensorName(f"{shorten(name)} is not an input; expected {names(manifest.inputs)}.", field=where)
    if spec.name in given:
        raise WrongTensorName(f"{name!r} is given twice.", field=where)
    return spec


def check_datatype(datatype: object, spec: TensorSpec, where: str) -> None:
    """Hold a tensor's datatype against its spec.

    Raises:
        WrongTensorType: another one.
    """
    if datatype != spec.datatype:
        raise WrongTensorType(f"{spec.name} is {spec.datatype}, not {shorten(datatype)}.", field=f"{where}.datatype")


def check_shape(shape: Any, spec: TensorSpec, max_elements: int, where: str) -> tuple[int, ...]:
    """Return a tensor's shape as a tuple if the model takes it; -1 in the spec takes any size of at least one.

    Raises:
        WrongTensorShape: not a list of sizes, or not the model's.
        PayloadTooLarge: more elements than the manifest allows.
    """
    where = f"{where}.shape"
    if not isinstance(shape, (list, tuple)) or not all(type(size) is int and size >= 0 for size in shape):
        raise WrongTensorShape(f"expected a list of sizes, got {shorten(shape)}.", field=where)
    fits = len(shape) == len(spec.shape) and all(
        size == wanted or (wanted == -1 and size >= 1) for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise WrongTensorShape(f"{spec.name} takes {list(spec.shape)}, not {shorten(shape)}.", field=where)
    elements = prod(shape)
    if elements > max_elements:
        raise PayloadTooLarge(
            f"{spec.name} has {elements} elements; the model takes at most {max_elements}.", field=where
        )
    return tuple(shape)


def check_all(given: Mapping[str, Tensor], manifest: Manifest) -> tuple[Tensor, ...]:
    """Return the inputs in the manifest's order, none missing, all of the same number of rows.

    Raises:
        WrongTensorName: an input is missing.
        WrongTensorShape: the inputs disagree on the number of rows.
        PayloadTooLarge: more rows than the model takes.
    """
    if len(given) != len(manifest.inputs):
        missing = [spec for spec in manifest.inputs if spec.name not in given]
        raise WrongTensorName(f"missing {names(missing)}.", field="inputs")
    tensors = tuple(given[spec.name] for spec in manifest.inputs)
    axis = manifest.batch_axis
    if axis is None:
        return tensors
    rows = {tensor.shape[axis] for tensor in tensors if len(tensor.shape) > axis}
    if len(rows) > 1:
        counts = ", ".join(f"{t.name} {t.shape[axis]}" for t in tensors if len(t.shape) > axis)
        raise WrongTensorShape(f"the inputs disagree on the number of rows: {counts}.", field="inputs")
    if rows and max(rows) > manifest.max_batch:
        raise PayloadTooLarge(f"{max(rows)} rows; the model takes at most {manifest.max_batch}.", field="inputs")
    return tensors


def raw_tensor(
    spec: TensorSpec, shape: tuple[int, ...], data: bytes | memoryview, manifest: Manifest, where: str
) -> Tensor:
    """Take raw little-endian bytes as a tensor of a checked shape.

    Raises:
        TensorData: too few or too many bytes, lengths that lie, or values the datatype or the model does not take.
    """
    if spec.datatype == "BYTES":
        return _raw_texts(spec, shape, data, manifest, where)
    expected = prod(shape) * ITEM_BYTES[spec.datatype]
    if len(data) != expected:
        raise TensorData(
            f"{spec.name} has {len(data)} bytes where shape {list(shape)} of {spec.datatype} takes {expected}.",
            field=where,
        )
    if spec.datatype == "BOOL":
        if expected and np.frombuffer(data, dtype=np.uint8).max() > 1:
            raise TensorData(f"{spec.name} has a byte other than 0 and 1.", field=where)
    elif "F" in spec.datatype and not manifest.options.get(NON_FINITE_OPTION) and not _finite(spec.datatype, data):
        raise TensorData(f"{spec.name} has a number that is not finite.", field=where)
    return Tensor(spec.name, spec.datatype, shape, data)


def check_texts(items: Sequence[bytes], spec: TensorSpec, manifest: Manifest, where: str) -> None:
    """Hold the elements of a BYTES input against UTF-8, as texts are; models of images take any bytes.

    Raises:
        TensorData: names the first element that is not UTF-8.
    """
    if manifest.task.startswith("image-"):
        return
    for index, item in enumerate(items):
        try:
            item.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TensorData(f"element {index} of {spec.name} is not UTF-8: {error.reason}.", field=where) from error


def bfloat16(values: Any) -> Any:
    """Round float32 numbers to bfloat16, nearest even, as uint16; infinities stay."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def names(specs: Sequence[TensorSpec]) -> str:
    """List tensor names for an error message."""
    return ", ".join(spec.name for spec in specs)


def shorten(value: object) -> str:
    """Write a caller's value into an error message, at most 80 characters of it."""
    if isinstance(value, (list, tuple)) and len(value) > 20:
        value = [*value[:20], "..."]
    try:
        text = repr(value)
    except RecursionError:
        return "something nested too deep"
    return text if len(text) <= 80 else text[:77] + "..."


def _raw_texts(
    spec: TensorSpec, shape: tuple[int, ...], data: bytes | memoryview, manifest: Manifest, where: str
) -> Tensor:
    elements = prod(shape)
    if len(data) < 4 * elements:
        raise TensorData(f"{spec.name} has {len(data)} bytes, too few for {elements} elements.", field=where)
    try:
        items = unpack_bytes(data, spec.name)
    except TensorError as error:
        raise TensorData(error.detail, field=where) from error
    if len(items) != elements:
        raise TensorData(
            f"{spec.name} has {len(items)} elements where shape {list(shape)} has {elements}.", field=where
        )
    check_texts(items, spec, manifest, where)
    return Tensor(spec.name, spec.datatype, shape, data)


def _finite(datatype: str, data: bytes | memoryview) -> bool:
    if datatype == "BF16":
        return not bool(((np.frombuffer(data, "<u2") & _BF16_EXPONENT) == _BF16_EXPONENT).any())
    return bool(np.isfinite(np.frombuffer(data, NUMPY_DTYPES[datatype])).all())
