"""Requests to a model's process and outcomes from it, as `workers.models.wire` carries them.

To the process: `["run", number, [[[name, datatype, shape, bytes]…], parameters as JSON, deadline]…]`. From it, once:
`["ready", {…}]` or `["unusable", code, detail, field]`; then `["did", number, [[position, units, tensors]…],
[[position, code, detail, field]…]]` until each request has its outcome. Tensors' bytes go beside, in order.

To be measured it is sent `["give", number]` for the outputs of a made-up row and `["time", number, rows, seconds]` for
how long a run takes; it says `["gave", number, tensors]`, `["took", number, seconds]` or `["failed", number, detail]`.

What the process says is a stranger's word: whatever does not fit the manifest or what was asked is garbled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from numpy.typing import NDArray

from contracts.protocol.errors import CodedError, TensorError
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from workers.errors import ExecutionFailed, InputsRefused, JobError, JobTooLate, OutOfMemory, OutOfTime
from workers.models.pipelines.base import Answer
from workers.models.serving import Outcomes, Request
from workers.models.wire import MOST_DATA_BYTES, Garbled, printable

MAX_UNITS = 1 << 48
_ERRORS: Mapping[str, type[JobError]] = {
    kind.code: kind for kind in (ExecutionFailed, InputsRefused, JobTooLate, OutOfMemory, OutOfTime)
}

Packed = tuple[list[Any], list[bytes | memoryview]]


def pack_requests(number: int, requests: Sequence[Request]) -> Packed:
    """Return a batch of requests as a message."""
    data: list[bytes | memoryview] = []
    said = [[_named(one.tensors, data), json.dumps(dict(one.parameters)), one.deadline_at] for one in requests]
    return ["run", number, said], data


def read_requests(said: list[Any], data: memoryview) -> list[Request]:
    """Return the requests of a message."""
    requests, offset = [], 0
    for rows, parameters, deadline_at in said:
        tensors, offset = _tensors(rows, data, offset)
        requests.append(Request(tensors, json.loads(parameters), deadline_at))
    return requests


def pack_outcomes(number: int, outcomes: Outcomes) -> Packed:
    """Return some requests' outcomes as a message."""
    data: list[bytes | memoryview] = []
    answers: list[Any] = []
    failures: list[Any] = []
    for i, outcome in outcomes.items():
        if isinstance(outcome, Answer):
            try:
                tensors = [Tensor.from_numpy(name, array) for name, array in outcome.outputs.items()]
            except TensorError as error:
                failures.append([i, ExecutionFailed.code, error.detail, error.field])
            else:
                answers.append([i, outcome.units, _named(tensors, data)])
        else:
            failures.append([i, outcome.code, printable(outcome.detail), outcome.field])
    return ["did", number, answers, failures], data


def read_outcomes(said: Any, data: memoryview, number: int, manifest: Manifest, waiting: AbstractSet[int]) -> Outcomes:
    """Return the outcomes of a message from the process; none of another number.

    Raises:
        Garbled: it is not what was asked for.
    """
    try:
        return _read_outcomes(said, data, number, manifest, waiting)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, CodedError) as error:
        raise Garbled(f"{type(error).__name__} in what it answered.") from error


def pack_given(number: int, outputs: Mapping[str, NDArray[Any]]) -> Packed:
    """Return a made-up row's outputs as a message: those of floating point, as far as a message holds them."""
    data: list[bytes | memoryview] = []
    room, tensors = MOST_DATA_BYTES, []
    for name, array in outputs.items():
        if array.dtype.kind == "f" and array.nbytes <= room:
            room -= array.nbytes
            tensors.append(Tensor.from_numpy(name, array))
    return ["gave", number, _named(tensors, data)], data


def read_given(said: Any, data: memoryview) -> dict[str, NDArray[Any]]:
    """Return the outputs of floating point that a process says a made-up row gives.

    Raises:
        Garbled: it says something else.
    """
    try:
        tensors, offset = _tensors(said, data, 0)
        if offset != len(data):
            raise ValueError(offset)
        given = {one.name: one.to_numpy() for one in tensors}
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, CodedError) as error:
        raise Garbled(f"{type(error).__name__} in what it gave.") from error
    return {name: array for name, array in given.items() if array.dtype.kind == "f"}


def _read_outcomes(said: Any, data: memoryview, number: int, manifest: Manifest, waiting: AbstractSet[int]) -> Outcomes:
    what, of, answers, failures = said
    if what != "did" or type(of) is not int:
        raise ValueError(what)
    if of != number:
        return {}
    outcomes: Outcomes = {}
    offset = 0
    for i, units, rows in answers:
        if type(units) is not int or not 0 <= units <= MAX_UNITS:
            raise ValueError(units)
        tensors, offset = _tensors(rows, data, offset)
        _check_specs(tensors, manifest)
        outcomes[_open(i, waiting, outcomes)] = Answer(
            {one.name: one.to_marked_numpy() for one in tensors}, units=units
        )
    if offset != len(data):
        raise ValueError(offset)
    for i, code, detail, field in failures:
        if not isinstance(detail, str) or not isinstance(field, str | None):
            raise TypeError(detail)
        outcomes[_open(i, waiting, outcomes)] = _ERRORS[code](printable(detail), field=field and printable(field))
    return outcomes


def _open(position: Any, waiting: AbstractSet[int], outcomes: Outcomes) -> int:
    if type(position) is not int or position not in waiting or position in outcomes:
        raise ValueError(position)
    return position


def _check_specs(tensors: Sequence[Tensor], manifest: Manifest) -> None:
    specs = {spec.name: spec for spec in manifest.outputs}
    if len(tensors) != len(specs) or {one.name for one in tensors} != set(specs):
        raise ValueError("names")
    for one in tensors:
        spec = specs[one.name]
        if one.datatype != spec.datatype or len(one.shape) != len(spec.shape):
            raise ValueError(one.name)
        if any(said not in (-1, size) for said, size in zip(spec.shape, one.shape, strict=True)):
            raise ValueError(one.name)


def _named(tensors: Sequence[Tensor], data: list[bytes | memoryview]) -> list[Any]:
    data.extend(one.data for one in tensors)
    return [[one.name, one.datatype, one.shape, len(one.data)] for one in tensors]


def _tensors(rows: Any, data: memoryview, offset: int) -> tuple[list[Tensor], int]:
    tensors = []
    for name, datatype, shape, size in rows:
        if type(size) is not int or not 0 <= size <= len(data) - offset:
            raise ValueError(size)
        if not isinstance(name, str) or not all(type(one) is int for one in shape):
            raise TypeError(name)
        tensors.append(Tensor(name, datatype, tuple(shape), data[offset : offset + size]))
        offset += size
    return tensors, offset
