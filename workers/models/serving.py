"""Serves a pack's requests on one loaded pipeline: read, grouped, run; where a group fails, each of it alone.

The same in the worker's own process and in a model's process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from workers.errors import ExecutionFailed, InputsRefused, JobError, JobTooLate, OutOfMemory, OutOfTime
from workers.models.pipelines.base import Answer, Pipeline

log = structlog.get_logger(__name__)

# By a request's position; with them go the seconds that their batch took, 0 where nothing ran.
Outcomes: TypeAlias = dict[int, Answer | CodedError]
Batches: TypeAlias = Iterator[tuple[Outcomes, float]]

# As much of the time that is left may a run take; the rest is for a node that cannot be ended, and for the way back.
RUN_SHARE = 0.97


@dataclass(frozen=True, slots=True)
class Request:
    """One request whose tensors agree with the manifest, and until when its answer is waited for, unix seconds."""

    tensors: Sequence[Tensor]
    parameters: Mapping[str, Any]
    deadline_at: float = math.inf


def serve(model: Pipeline[Any], requests: Sequence[Request]) -> Batches:
    """Yield the outcomes batch by batch; together they are one for each request."""
    works: dict[int, Any] = {}
    refused: Outcomes = {}
    for i, request in enumerate(requests):
        try:
            works[i] = model.prepare(request.tensors, request.parameters)
        except CodedError as error:
            refused[i] = error
        except Exception as error:
            refused[i] = stumbled(model.package.model_id, error)
    if refused:
        yield refused, 0.0
    names = list(works)
    for positions in model.group(list(works.values())):
        now = time.time()
        due = {names[p]: requests[names[p]].deadline_at - now for p in positions}
        late: Outcomes = {i: JobTooLate("its turn came too late.", field="deadline_at") for i in due if due[i] <= 0}
        if late:
            yield late, 0.0
        if len(late) < len(due):
            model.graph.until = time.monotonic() + RUN_SHARE * max(due.values())
            try:
                yield from _run_group(model, {i: works[i] for i in due if i not in late})
            finally:
                model.graph.until = math.inf


def _run_group(model: Pipeline[Any], works: Mapping[int, Any]) -> Batches:
    started = time.perf_counter()
    try:
        answers = model.run(list(works.values()))
    except OutOfTime as error:  # nor would any of them alone be in time
        answers = [error] * len(works)
    except Exception as error:
        if not isinstance(error, ExecutionFailed):
            error = stumbled(model.package.model_id, error)
        elif len(works) == 1:
            error = _blamed(model, error)
        if len(works) > 1:  # one of them is to blame: each alone then
            for i, one in works.items():
                yield from _run_group(model, {i: one})
            return
        answers = [error]
    yield dict(zip(works, answers, strict=True)), time.perf_counter() - started


def _blamed(model: Pipeline[Any], error: ExecutionFailed) -> JobError:
    """Return what made a graph fail on one request: the inputs, where it still runs on made-up ones.

    A fault of the worker's would close its circuit, and anybody could have that done for nothing by a token's number
    that is in no vocabulary. Where memory lacks another worker may have more.
    """
    if isinstance(error, OutOfMemory):
        return error
    try:
        model.graph.run(model.sample(1), model.graph_outputs)
    except Exception:  # whatever it is, the inputs were not to blame alone
        return error
    return InputsRefused(error.detail, field="inputs")


def stumbled(model_id: bytes, fault: Exception) -> ExecutionFailed:
    """Log a fault in the worker's own code, and return what a client is told of it."""
    log.error("unexpected", model=model_id.hex(), exc_info=fault)
    return ExecutionFailed("the worker stumbled over these inputs.")


def check_inputs(manifest: Manifest, tensors: Sequence[Tensor]) -> None:
    """Check names, datatypes, shapes and sizes against the manifest.

    Raises:
        InputsRefused: names the tensor and what disagrees.
    """
    specs = {spec.name: spec for spec in manifest.inputs}
    given = {tensor.name for tensor in tensors}
    if given != set(specs):
        raise InputsRefused(f"inputs {sorted(given)}, the model takes {sorted(specs)}.", field="inputs")
    for tensor in tensors:
        spec = specs[tensor.name]
        if tensor.datatype != spec.datatype:
            raise InputsRefused(f"{tensor.datatype}, the model takes {spec.datatype}.", field=tensor.name)
        fits = len(tensor.shape) == len(spec.shape) and all(
            size == said or (said == -1 and size > 0) for size, said in zip(tensor.shape, spec.shape, strict=True)
        )
        if not fits:
            raise InputsRefused(f"shape {list(tensor.shape)}, the model takes {list(spec.shape)}.", field=tensor.name)
        if tensor.elements > manifest.max_elements:
            raise InputsRefused(f"{tensor.elements} elements, {manifest.max_elements} allowed.", field=tensor.name)
