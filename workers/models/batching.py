"""Which requests run together: those whose tensors differ in the batch axis only, up to the model's cap. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def group(requests: Sequence[Arrays], batch_axis: int | None, cap: int) -> list[list[int]]:
    """Return the positions of the requests that run together, in order; at most `cap` rows a group if it can be."""
    if batch_axis is None:
        return [[i] for i in range(len(requests))]
    open_groups: dict[tuple[Any, ...], tuple[list[int], int]] = {}
    done: list[list[int]] = []
    # Requests are mostly alike: rows and what else tells groups apart, by the looks of a request.
    seen: dict[tuple[Any, ...], tuple[int | None, tuple[Any, ...]]] = {}
    for i, request in enumerate(requests):
        looks = tuple([(name, array.dtype, array.shape) for name, array in request.items()])
        known = seen.get(looks)
        if known is None:
            rest = [(name, dtype, shape[:batch_axis] + shape[batch_axis + 1 :]) for name, dtype, shape in sorted(looks)]
            known = seen[looks] = _rows(request, batch_axis), tuple(rest)
        rows, key = known
        if rows is None:
            done.append([i])
            continue
        members, count = open_groups.get(key, ([], 0))
        if members and count + rows > cap:
            done.append(members)
            members, count = [], 0
        members.append(i)
        open_groups[key] = (members, count + rows)
    done.extend(members for members, _ in open_groups.values())
    return done


def join(requests: Sequence[Arrays], batch_axis: int) -> dict[str, NDArray[Any]]:
    """Concatenate requests of one group along the batch axis."""
    return {name: np.concatenate([request[name] for request in requests], batch_axis) for name in requests[0]}


def split(outputs: Arrays, requests: Sequence[Arrays], batch_axis: int) -> list[dict[str, NDArray[Any]]] | None:
    """Give each request its rows of the joint outputs; None if an output does not follow the batch."""
    sizes = [_rows(request, batch_axis) or 0 for request in requests]
    total = sum(sizes)
    if any(array.ndim <= batch_axis or array.shape[batch_axis] != total for array in outputs.values()):
        return None
    pieces: list[dict[str, NDArray[Any]]] = [{} for _ in requests]
    before = (slice(None),) * batch_axis
    for name, array in outputs.items():
        start = 0
        for piece, size in zip(pieces, sizes, strict=True):
            piece[name] = array[(*before, slice(start, start + size))]
            start += size
    return pieces


def _rows(request: Arrays, batch_axis: int) -> int | None:
    rows = None
    for array in request.values():
        if array.ndim <= batch_axis or rows not in (None, array.shape[batch_axis]):
            return None
        rows = array.shape[batch_axis]
    return rows
