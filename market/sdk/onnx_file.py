"""What an ONNX file takes and gives, read from the file itself: a walk over its protobuf fields, weights skipped.

Knows nothing of what the tensors mean. No runtime is needed, so that an owner's machine need not have one.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts.protocol.errors import ManifestError

# onnx.proto: TensorProto.DataType.
_TYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 70


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An input or output; a free dimension is its name, "" if it has none. `datatype` is "" if OIP has none."""

    name: str
    datatype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The outside of a graph, the operators that it is made of, and the files beside it that hold weights."""

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    external: frozenset[str]
    operators: frozenset[str] = frozenset()


def read_onnx(path: Path) -> OnnxFile:
    """Read the graph's inputs and outputs.

    Raises:
        ManifestError: the file is missing, or no ONNX model.
    """
    try:
        with path.open("rb") as stream:
            # Not closed by hand: slices of it may live on in an error's traceback.
            return _model(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}.", field="entry") from error
    except (ValueError, IndexError) as error:
        raise ManifestError(f"{path.name} is no ONNX model.", field="entry") from error


def _model(view: memoryview) -> OnnxFile:
    graph = next((value for number, value in _fields(view) if number == 7 and isinstance(value, memoryview)), None)
    if graph is None:
        raise ValueError
    inputs, outputs, weights, external, operators = [], [], set(), set(), set()
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            operators.add(_operator(value))
        elif number == 5:
            name, places = _weight(value)
            weights.add(name)
            external |= places
        elif number == 11:
            inputs.append(_tensor(value))
        elif number == 12:
            outputs.append(_tensor(value))
    if not outputs:
        raise ValueError
    given = tuple(one for one in inputs if one.name not in weights)
    return OnnxFile(given, tuple(outputs), frozenset(external), frozenset(operators))


def _operator(view: memoryview) -> str:
    return next((bytes(text).decode() for key, text in _fields(view) if key == 4 and isinstance(text, memoryview)), "")


def _weight(view: memoryview) -> tuple[str, set[str]]:
    name, places = "", set()
    for number, value in _fields(view):
        if number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == 13 and isinstance(value, memoryview):
            entry = {key: bytes(text).decode() for key, text in _fields(value) if isinstance(text, memoryview)}
            if entry.get(1) == "location":
                places.add(entry.get(2, ""))
    return name, places


def _tensor(view: memoryview) -> OnnxTensor:
    name, datatype = "", ""
    shape: tuple[int | str, ...] = ()
    for number, value in _fields(view):
        if number == 1 and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == 2 and isinstance(value, memoryview):
            for kind, tensor in _fields(value):
                if kind == 1 and isinstance(tensor, memoryview):
                    datatype, shape = _type(tensor)
    return OnnxTensor(name, datatype, shape)


def _type(view: memoryview) -> tuple[str, tuple[int | str, ...]]:
    datatype: str = ""
    shape: list[int | str] = []
    for number, value in _fields(view):
        if number == 1 and isinstance(value, int):
            datatype = _TYPES.get(value, "")
        elif number == 2 and isinstance(value, memoryview):
            shape = [_dimension(dim) for key, dim in _fields(value) if key == 1 and isinstance(dim, memoryview)]
    return datatype, tuple(shape)


def _dimension(view: memoryview) -> int | str:
    for number, value in _fields(view):
        if number == 1 and isinstance(value, int):
            return value if 0 < value < 1 << 63 else ""
        if number == 2 and isinstance(value, memoryview):
            return bytes(value).decode()
    return ""


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value: a number, or the bytes of a text or message."""
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield key >> 3, value
        elif kind == _BYTES:
            size, at = _varint(view, at)
            if at + size > len(view):
                raise ValueError
            yield key >> 3, view[at : at + size]
            at += size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift >= _MAX_VARINT_BITS:
            raise ValueError
