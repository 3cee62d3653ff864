"""JSON to canonical bytes and back for one model's plain requests, with all that repeats made once.

A plain body has one input tensor with a flat list of numbers and asks for nothing else; its canonical form then is a
fixed head for each shape, and the numbers. What is not so is left to `tensors_json`, whose checks made the heads and
which says what is wrong. Decides nothing. Called by `plain_http`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, encode_tensors
from market.gateway.tensors_check import check_all, check_shape
from market.gateway.tensors_fill import SHORT, STRUCT_CODES, STRUCT_TYPES
from market.gateway.tensors_json import MODEL_VERSION, InferenceBody

_SHAPES_KEPT = 256
_ROW = frozenset({"name", "datatype", "shape", "data"})
_INTEGERS = frozenset({int})
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class _Shape:
    """One shape of the input: it as a tuple, how its numbers are packed, and what precedes them canonically."""

    shape: tuple[int, ...]
    pack: struct.Struct
    count: int
    head: bytes


class PlainCodec:
    """One model's codec, under the name by which clients call it."""

    def __init__(self, model: str, manifest: Manifest) -> None:
        self.manifest = manifest
        self._spec = manifest.inputs[0]
        self._code = STRUCT_CODES.get(self._spec.datatype) if len(manifest.inputs) == 1 else None
        self._types = STRUCT_TYPES.get(self._code or "", frozenset())
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        head = orjson.dumps({"model_name": model, "model_version": MODEL_VERSION})
        self._answer_head = head[:-1] + b',"outputs":[{"name":'
        self._answers: dict[tuple[str, str, tuple[int, ...]], tuple[bytes, np.dtype[Any]]] = {}

    def decode(self, body: bytes) -> tuple[InferenceBody, bytes] | None:
        """Return a plain body and its canonical form; None where another must look at it."""
        if self._code is None:
            return None
        try:
            raw = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        rows = raw.get("inputs") if type(raw) is dict and len(raw) == 1 else None
        if type(rows) is not list or len(rows) != 1:
            return None
        row = rows[0]
        if type(row) is not dict or row.keys() != _ROW:
            return None
        spec, sizes, data = self._spec, row["shape"], row["data"]
        if row["name"] != spec.name or row["datatype"] != spec.datatype or type(data) is not list:
            return None
        if type(sizes) is not list or not _INTEGERS.issuperset(map(type, sizes)):
            return None
        known = self._shapes.get(tuple(sizes)) or self._learn(sizes)
        if known is None or len(data) != known.count or not self._types.issuperset(map(type, data)):
            return None
        try:
            packed = known.pack.pack(*data)
        except (struct.error, OverflowError):
            return None
        return InferenceBody(
            (Tensor(spec.name, spec.datatype, known.shape, packed),), (), {}, None
        ), known.head + packed

    def _learn(self, sizes: list[int]) -> _Shape | None:
        spec, manifest = self._spec, self.manifest
        try:
            shape = check_shape(sizes, spec, manifest.max_elements, "inputs[0]")
            tensor = Tensor(spec.name, spec.datatype, shape, b"")
            check_all({spec.name: tensor}, manifest)
            count = tensor.elements
            if not 0 < count <= SHORT:
                return None
            pack = struct.Struct(f"<{count}{self._code}")
            blob = encode_tensors([Tensor(spec.name, spec.datatype, shape, bytes(pack.size))])
        except CodedError:
            return None
        if len(self._shapes) >= _SHAPES_KEPT:
            self._shapes.clear()
        made = self._shapes[shape] = _Shape(shape, pack, count, blob[: -pack.size])
        return made

    def encode(self, tensors: tuple[Tensor, ...]) -> bytes | None:
        """Write the answer of one numeric output; None where another must write it."""
        if len(tensors) != 1:
            return None
        tensor = tensors[0]
        key = (tensor.name, tensor.datatype, tensor.shape)
        known = self._answers.get(key)
        if known is None:
            dtype = NUMPY_DTYPES.get(tensor.datatype)
            if dtype is None:
                return None
            rest = orjson.dumps({"datatype": tensor.datatype, "shape": tensor.shape})
            head = self._answer_head + orjson.dumps(tensor.name) + b"," + rest[1:-1] + b',"data":'
            if len(self._answers) >= _SHAPES_KEPT:
                self._answers.clear()
            known = self._answers[key] = (head, dtype)
        # Blobs lie in messages as they fall; orjson wants numbers on their own boundaries.
        array = np.frombuffer(bytes(tensor.data), known[1])
        return b"".join((known[0], orjson.dumps(array, option=_NUMPY), b"}]}"))
