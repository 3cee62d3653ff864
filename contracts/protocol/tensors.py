"""Canonical tensor codec: one byte string for one set of tensors and parameters, so that its SHA-256 names it.

Layout, little endian:
    magic `IMT1` · u32 length and canonical JSON of the parameters · u16 tensor count · per tensor, sorted by name:
    u16 length and UTF-8 name · u8 datatype · u8 rank · u64 each dimension · u64 length and data.
Data is C order; BYTES elements each carry a u32 length. Decoding is strict: anything but the canonical form is refused,
so that two different byte strings never mean the same request.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.errors import TensorError
from contracts.protocol.hashing import sha256
from contracts.protocol.values import value_class

MAGIC = b"IMT1"
MAX_RANK = 16
MAX_TENSORS = 256
MAX_NAME_BYTES = 256
MAX_ELEMENTS = 1 << 40

# Open Inference Protocol v2 datatypes; the position is the code on the wire.
DATATYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "BF16",
)
_CODE = {name: code for code, name in enumerate(DATATYPES)}
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
# Numpy has no bfloat16: an array of this type holds its bits and says what they are.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_FROM_NUMPY = {dtype: name for name, dtype in NUMPY_DTYPES.items()} | {BFLOAT16: "BF16"}
ITEM_BYTES = {name: dtype.itemsize for name, dtype in NUMPY_DTYPES.items()} | {"BF16": 2}


@value_class(frozen=True, slots=True)
class Tensor:
    """A named tensor as bytes: little endian, C order; BYTES elements carry a u32 length each."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @property
    def elements(self) -> int:
        """The product of the shape; 1 for a scalar."""
        return prod(self.shape)

    @classmethod
    def from_numpy(cls, name: str, array: NDArray[Any]) -> Tensor:
        """Take an array's bytes; object and string arrays become BYTES.

        Raises:
            TensorError: the array's dtype has no datatype in the protocol.
        """
        if (datatype := _FROM_NUMPY.get(array.dtype)) is not None:
            return cls(name, datatype, array.shape, array.tobytes())
        shape = tuple(int(n) for n in array.shape)
        if array.dtype.kind in "OSU":
            return cls(name, "BYTES", shape, pack_bytes(array.reshape(-1).tolist(), name))
        datatype = _FROM_NUMPY.get(array.dtype.newbyteorder("<"))
        if datatype is None:
            raise TensorError(f"numpy dtype {array.dtype} has no datatype here.", field=name)
        little = array.astype(NUMPY_DTYPES[datatype], copy=False)
        return cls(name, datatype, shape, little.tobytes())

    def to_numpy(self) -> NDArray[Any]:
        """View the bytes as a read-only array; BYTES become an object array of bytes, BF16 its raw uint16.

        Raises:
            TensorError: the data does not fill the shape.
        """
        self.check()
        if self.datatype == "BYTES":
            array = np.empty(self.elements, dtype=object)
            array[:] = unpack_bytes(self.data, self.name)
            return array.reshape(self.shape)
        dtype = NUMPY_DTYPES["UINT16"] if self.datatype == "BF16" else NUMPY_DTYPES[self.datatype]
        return np.frombuffer(self.data, dtype=dtype).reshape(self.shape)

    def to_marked_numpy(self) -> NDArray[Any]:
        """Return `to_numpy`, but BF16 as an array of the type BFLOAT16, which `from_numpy` takes for what it is."""
        array = self.to_numpy()
        return array.view(BFLOAT16) if self.datatype == "BF16" else array

    def check(self) -> None:
        """Check datatype, shape and byte count against each other.

        Raises:
            TensorError: names the tensor and the two numbers that disagree.
        """
        if self.datatype not in _CODE:
            raise TensorError(
                f"unknown datatype {self.datatype!r}.", field=self.name, remedy=f"Use one of {', '.join(DATATYPES)}."
            )
        if len(self.shape) > MAX_RANK or any(n < 0 for n in self.shape) or self.elements > MAX_ELEMENTS:
            raise TensorError(f"shape {list(self.shape)} is not possible.", field=self.name)
        if self.datatype == "BYTES":
            count = len(unpack_bytes(self.data, self.name))
            if count != self.elements:
                raise TensorError(f"{count} elements for {self.elements} of the shape.", field=self.name)
            return
        expected = self.elements * ITEM_BYTES[self.datatype]
        if len(self.data) != expected:
            raise TensorError(
                f"{len(self.data)} bytes where shape {list(self.shape)} of {self.datatype} takes {expected}.",
                field=self.name,
            )


def utf8(text: str, name: str) -> bytes:
    """Write a text as UTF-8.

    Raises:
        TensorError: it holds half a character, as of bytes that were no UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TensorError(
            f"the text is no Unicode at character {error.start + 1}.", field=name, remedy="Texts must be UTF-8."
        ) from error


def pack_bytes(items: Sequence[bytes | str], name: str) -> bytes:
    """Join byte strings (text as UTF-8) with a u32 length each."""
    parts = []
    for item in items:
        if not isinstance(item, (bytes, str)):
            raise TensorError(f"a BYTES element is {type(item).__name__}, not text or bytes.", field=name)
        raw = utf8(item, name) if isinstance(item, str) else item
        parts.append(struct.pack("<I", len(raw)) + raw)
    return b"".join(parts)


def unpack_bytes(data: bytes | memoryview, name: str) -> list[bytes]:
    """Split what `pack_bytes` joined.

    Raises:
        TensorError: a length points beyond the end.
    """
    items, offset, raw = [], 0, bytes(data)
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise TensorError("BYTES data ends inside a length.", field=name)
        (size,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + size > len(raw):
            raise TensorError("a BYTES length points beyond the data.", field=name)
        items.append(raw[offset : offset + size])
        offset += size
    return items


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON with sorted keys, no white space, UTF-8, no NaN: one text for one value."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TensorError(f"not canonical JSON: {error}.", field="parameters") from error


def encode_tensors(tensors: Sequence[Tensor], parameters: Mapping[str, Any] | None = None) -> bytes:
    """Encode tensors and parameters canonically.

    Raises:
        TensorError: a tensor contradicts itself, a name is doubled or too long, or there are too many.
    """
    if len(tensors) == 1 and not parameters:
        (only,) = tensors
        known = _HEADS.get((only.name, only.datatype, only.shape))
        if known is not None and len(only.data) == known[1]:
            return b"".join((known[0], only.data))
    if len(tensors) > MAX_TENSORS:
        raise TensorError(f"{len(tensors)} tensors, {MAX_TENSORS} allowed.", field="inputs")
    head = canonical_json(parameters) if parameters else b"{}"
    parts = [MAGIC, struct.pack("<I", len(head)), head, struct.pack("<H", len(tensors))]
    last: bytes | None = None
    for tensor in sorted(tensors, key=lambda tensor: tensor.name.encode()):
        name = tensor.name.encode()
        if name == last or not 0 < len(name) <= MAX_NAME_BYTES:
            raise TensorError("a tensor name is empty, too long or given twice.", field=tensor.name)
        last = name
        tensor.check()
        rank = len(tensor.shape)
        parts.append(
            struct.pack(
                f"<H{len(name)}sBB{rank}QQ",
                len(name),
                name,
                _CODE[tensor.datatype],
                rank,
                *tensor.shape,
                len(tensor.data),
            )
        )
        parts.append(bytes(tensor.data))
    blob = b"".join(parts)
    if len(tensors) == 1 and not parameters and tensors[0].datatype != "BYTES":
        _remember(blob, tensors[0])
    return blob


# Blobs of one tensor of numbers and no parameters: what precedes the numbers is the same each time. Heads with the
# number of bytes that follow them, by the tensor's looks; and what a head means, by the length of the whole blob.
_HEADS: dict[tuple[str, str, tuple[int, ...]], tuple[bytes, int]] = {}
_MEANINGS: dict[int, tuple[bytes, str, str, tuple[int, ...]]] = {}
_KEPT = 1_024


def _remember(blob: bytes, tensor: Tensor) -> None:
    """Remember the head of a blob in canonical form whose only tensor this is."""
    size = len(tensor.data)
    head = blob[: len(blob) - size]
    if len(_HEADS) >= _KEPT:
        _HEADS.clear()
    if len(_MEANINGS) >= _KEPT:
        _MEANINGS.clear()
    _HEADS[tensor.name, tensor.datatype, tensor.shape] = head, size
    _MEANINGS[len(blob)] = head, tensor.name, tensor.datatype, tensor.shape


def decode_tensors(blob: bytes) -> tuple[list[Tensor], dict[str, Any]]:
    """Decode a canonical blob; tensor data are views into it.

    Raises:
        TensorError: not exactly what `encode_tensors` writes.
    """
    known = _MEANINGS.get(len(blob))
    if known is not None and blob.startswith(known[0]):
        head, name, datatype, shape = known
        return [Tensor(name, datatype, shape, memoryview(blob)[len(head) :])], {}
    view = memoryview(blob)
    try:
        tensors, parameters = _decode(view)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise TensorError("the encoded tensors are cut short or malformed.", field="blob") from error
    if len(tensors) == 1 and not parameters and tensors[0].datatype != "BYTES":
        _remember(bytes(blob), tensors[0])
    return tensors, parameters


def _decode(view: memoryview) -> tuple[list[Tensor], dict[str, Any]]:
    if view[:4] != MAGIC:
        raise TensorError("the encoded tensors do not start with IMT1.", field="blob")
    (size,) = struct.unpack_from("<I", view, 4)
    offset = 8 + size
    head = bytes(view[8:offset])
    if head == b"{}":
        parameters: dict[str, Any] = {}
    else:
        try:
            parameters = json.loads(head)
        except ValueError as error:
            raise TensorError("the parameters are not JSON.", field="parameters") from error
        if not isinstance(parameters, dict) or canonical_json(parameters) != head:
            raise TensorError("the parameters are not in canonical form.", field="parameters")
    (count,) = struct.unpack_from("<H", view, offset)
    offset += 2
    tensors: list[Tensor] = []
    last = b""
    for _ in range(count):
        (length,) = struct.unpack_from("<H", view, offset)
        offset += 2
        name = bytes(view[offset : offset + length])
        offset += length
        code, rank = view[offset], view[offset + 1]
        offset += 2
        if code >= len(DATATYPES) or rank > MAX_RANK or not last < name or len(name) > MAX_NAME_BYTES:
            raise TensorError("a tensor header is malformed or out of order.", field="blob")
        last = name
        *shape, nbytes = struct.unpack_from(f"<{rank}QQ", view, offset)
        offset += 8 * (rank + 1)
        if offset + nbytes > len(view):
            raise TensorError("a tensor's data points beyond the end.", field="blob")
        tensor = Tensor(name.decode(), DATATYPES[code], tuple(shape), view[offset : offset + nbytes])
        tensor.check()
        tensors.append(tensor)
        offset += nbytes
    if offset != len(view):
        raise TensorError("bytes follow the last tensor.", field="blob")
    return tensors, parameters


# The SHA-256 of an encoded blob: a receipt's input or output hash.
content_hash = sha256
