"""Reads an ONNX file as bytes and says whether a stranger's model may be opened at all; runs nothing of it.

A walk over the file's own structure, with bounds, before any native code sees it. Decides which operators, versions and
sizes are taken; what the graph computes it does not judge. Called in the process that opens the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workers.errors import UnsafePackage
from workers.models.operators import ALLOWED, OPSETS

MAX_NODES = 200_000
MAX_DEPTH = 4
MAX_RANK = 16
MAX_ELEMENTS = 1 << 34
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class _Seen:
    nodes: int = 0


def screen(data: bytes, name: str, files: frozenset[str]) -> None:
    """Check one ONNX file; `files` are the names beside it under which its weights may lie.

    Raises:
        UnsafePackage: malformed, or something in it is not taken from strangers.
    """
    seen, graphs = _Seen(), 0
    for number, value in _fields(data, name):
        if number == 8:
            said = dict(_fields(_bytes(value, name), name))
            _opset(_text(said.get(1, b""), name), _number(said.get(2, 0), name), name)
        elif number == 25:
            raise UnsafePackage("functions of a model's own are not taken.", field=name)
        elif number == 7:
            graphs += 1
    if graphs != 1:
        raise UnsafePackage(f"{graphs} graphs; a model has one.", field=name)
    for number, value in _fields(data, name):
        if number == 7:
            _graph(_bytes(value, name), name, files, seen, 0)


def _opset(domain: str, version: int, name: str) -> None:
    taken = OPSETS.get("" if domain == "ai.onnx" else domain)
    # Domains that exporters name without using them say nothing; their operators are refused one by one.
    if taken is not None and version not in taken:
        raise UnsafePackage(f"operators of {domain or 'ai.onnx'!r}, version {version}, are not taken.", field=name)


def _graph(data: bytes, name: str, files: frozenset[str], seen: _Seen, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UnsafePackage(f"graphs within graphs, deeper than {MAX_DEPTH}.", field=name)
    for number, value in _fields(data, name):
        if number == 1:
            seen.nodes += 1
            if seen.nodes > MAX_NODES:
                raise UnsafePackage(f"more than {MAX_NODES} nodes.", field=name)
            _node(_bytes(value, name), name, files, seen, depth)
        elif number == 5:
            _tensor(_bytes(value, name), name, files)
        elif number == 15:
            raise UnsafePackage("sparse tensors are not taken.", field=name)


def _node(data: bytes, name: str, files: frozenset[str], seen: _Seen, depth: int) -> None:
    operator, domain = "", ""
    for number, value in _fields(data, name):
        if number == 4:
            operator = _text(value, name)
        elif number == 7:
            domain = _text(value, name)
        elif number == 5:
            _attribute(_bytes(value, name), name, files, seen, depth)
    if operator not in ALLOWED.get("" if domain == "ai.onnx" else domain, ()):
        raise UnsafePackage(f"the operator {domain + '.' if domain else ''}{operator} is not taken.", field=name)


def _attribute(data: bytes, name: str, files: frozenset[str], seen: _Seen, depth: int) -> None:
    for number, value in _fields(data, name):
        if number in (6, 11):
            _graph(_bytes(value, name), name, files, seen, depth + 1)
        elif number in (5, 10):
            _tensor(_bytes(value, name), name, files)
        elif number in (22, 23):
            raise UnsafePackage("sparse tensors are not taken.", field=name)


def _tensor(data: bytes, name: str, files: frozenset[str]) -> None:
    elements, rank = 1, 0
    for number, value in _fields(data, name):
        if number == 1:
            sizes = list(_varints(value, name)) if isinstance(value, bytes) else [value]
            for size in sizes:
                rank += 1
                elements *= size
                if size < 0 or size >= 1 << 63 or rank > MAX_RANK or elements > MAX_ELEMENTS:
                    raise UnsafePackage("a tensor of absurd size.", field=name)
        elif number == 13:
            said = dict(_fields(_bytes(value, name), name))
            if _text(said.get(1, b""), name) == "location":
                location = _text(said.get(2, b""), name)
                if location not in files:
                    raise UnsafePackage(f"weights in {location[:80]!r}, which is not the package's.", field=name)


# --- protobuf, as much as is needed ----------------------------------------------------------------------------------


def _fields(data: bytes, name: str) -> Iterator[tuple[int, int | bytes]]:
    place, end = 0, len(data)
    view = memoryview(data)
    while place < end:
        key, place = _varint(data, place, name)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(data, place, name)
            yield key >> 3, value
        elif kind == _BYTES:
            length, place = _varint(data, place, name)
            if length > end - place:
                raise UnsafePackage("not an ONNX file: it ends within a field.", field=name)
            yield key >> 3, bytes(view[place : place + length])
            place += length
        elif kind in (_FIXED64, _FIXED32):
            width = 8 if kind == _FIXED64 else 4
            if width > end - place:
                raise UnsafePackage("not an ONNX file: it ends within a field.", field=name)
            yield key >> 3, int.from_bytes(data[place : place + width], "little")
            place += width
        else:
            raise UnsafePackage("not an ONNX file.", field=name)


def _varint(data: bytes, place: int, name: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise UnsafePackage("not an ONNX file: a number without end.", field=name)


def _varints(data: bytes, name: str) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place, name)
        yield value


def _bytes(value: int | bytes, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise UnsafePackage("not an ONNX file: a number where a message should be.", field=name)
    return value


def _text(value: int | bytes, name: str) -> str:
    return _bytes(value, name).decode("utf-8", "replace")


def _number(value: int | bytes, name: str) -> int:
    if not isinstance(value, int):
        raise UnsafePackage("not an ONNX file: a message where a number should be.", field=name)
    return value
