"""From a pack of jobs to their results: admit, check against the manifest, run in batches, encode, sign.

A failure is data with a code, never an exception to the caller, and one bad job never harms its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from contracts.protocol.errors import CodedError, Retry, TensorError
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job, Result
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, encode_tensors
from contracts.protocol.typed_data import Domain
from workers import telemetry
from workers.admission import Admission, Admitted, Served
from workers.errors import ExecutionFailed, InputsGone, InputsRefused
from workers.models.batching import group, join, split
from workers.models.sessions import LoadedModel, SessionCache
from workers.papers import SignedWork
from workers.receipts import sign_receipt

log = structlog.get_logger(__name__)

# A batch that took this long is worth a reply of its own.
EARLY_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class _Ready:
    admitted: Admitted
    arrays: dict[str, NDArray[Any]]


class Executor:
    """Runs the packs of one worker, one at a time."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        admission: Admission,
        served: Mapping[bytes, Served],
        sessions: SessionCache,
    ) -> None:
        self._key = key
        self._domain = domain
        self._admission = admission
        self._served = served
        self._sessions = sessions

    def run(
        self,
        jobs: Sequence[tuple[Job, bytes | None]],
        *,
        early: Callable[[Sequence[tuple[Job, Result]], Sequence[SignedWork]], None] | None = None,
    ) -> tuple[list[Result], list[SignedWork]]:
        """Run jobs with their inputs (None where a reference led nowhere); results in the same order.

        `early` is told a batch's results and work at once where the next batch would keep them waiting for long; the
        work it was told is not returned again.
        """
        telemetry.PACKS.observe(len(jobs))
        results: dict[int, Result] = {}
        ready: dict[bytes, dict[int, _Ready]] = {}
        for i, (job, inputs) in enumerate(jobs):
            try:
                ready.setdefault(job.model_id, {})[i] = self._ready(job, inputs)
            except CodedError as error:
                results[i] = _failed(job, error)
        work: list[SignedWork] = []
        for model_id, members in ready.items():
            for outcomes in self._run_model(self._served[model_id], members):
                slow, fresh = False, []
                for i, outcome in outcomes.items():
                    job = jobs[i][0]
                    if isinstance(outcome, CodedError):
                        results[i] = _failed(job, outcome)
                    else:
                        result, signed = self._sign(members[i].admitted, *outcome)
                        results[i] = result
                        slow = slow or outcome[1] >= EARLY_SECONDS
                        if signed is not None:
                            fresh.append(signed)
                if slow and early is not None and len(results) < len(jobs):
                    early([(jobs[i][0], results[i]) for i in outcomes], fresh)
                else:
                    work.extend(fresh)
        for result in results.values():
            telemetry.JOBS.labels(result.code or "ok").inc()
        return [results[i] for i in range(len(jobs))], work

    def _ready(self, job: Job, inputs: bytes | None) -> _Ready:
        if inputs is None:
            raise InputsGone("the inputs are no longer kept.", field="inputs_ref")
        admitted = self._admission.check(job, inputs)
        manifest = self._served[job.model_id].package.manifest
        check_inputs(manifest, admitted.tensors)
        check_outputs(manifest, job.outputs)
        return _Ready(admitted, {tensor.name: _array(tensor) for tensor in admitted.tensors})

    def _run_model(
        self, served: Served, members: Mapping[int, _Ready]
    ) -> Iterator[dict[int, tuple[dict[str, NDArray[Any]], float] | CodedError]]:
        """Yield the outcomes batch by batch."""
        try:
            model = self._sessions.get(served.package)
        except CodedError as error:
            yield dict.fromkeys(members, error)
            return
        telemetry.LOADED_MODELS.set(self._sessions.loaded())
        names = list(members)
        axis = model.manifest.batch_axis
        for positions in group([members[i].arrays for i in names], axis, model.batch_cap):
            yield self._run_group(model, {names[p]: members[names[p]].arrays for p in positions})

    def _run_group(
        self, model: LoadedModel, arrays: Mapping[int, dict[str, NDArray[Any]]]
    ) -> dict[int, tuple[dict[str, NDArray[Any]], float] | CodedError]:
        names = [spec.name for spec in model.manifest.outputs]
        axis = model.manifest.batch_axis
        if len(arrays) > 1 and axis is not None:
            requests = list(arrays.values())
            try:
                outputs, seconds = _timed(model, join(requests, axis), names)
                pieces = split(outputs, requests, axis)
            except ExecutionFailed:
                pieces = None  # one of them is to blame: each alone then
            if pieces is not None:
                return {i: (piece, seconds) for i, piece in zip(arrays, pieces, strict=True)}
        alone: dict[int, tuple[dict[str, NDArray[Any]], float] | CodedError] = {}
        for i, one in arrays.items():
            try:
                alone[i] = _timed(model, one, names)
            except ExecutionFailed as error:
                alone[i] = error
        return alone

    def _sign(
        self, admitted: Admitted, outputs: dict[str, NDArray[Any]], seconds: float
    ) -> tuple[Result, SignedWork | None]:
        job = admitted.job
        wanted = job.outputs or tuple(outputs)
        try:
            blob = encode_tensors([Tensor.from_numpy(name, outputs[name]) for name in wanted])
        except TensorError as error:
            return _failed(job, ExecutionFailed(error.detail, field=error.field)), None
        receipt, signature = sign_receipt(admitted, blob, key=self._key, domain=self._domain)
        telemetry.EARNED.inc(job.worker_amount)
        result = Result(
            request_id=job.request_id,
            attempt=job.attempt,
            ok=True,
            outputs=blob,
            output_hash=receipt.output_hash,
            served_at=receipt.served_at,
            signature=signature,
            compute_ms=seconds * 1_000,
        )
        return result, SignedWork(receipt, signature, job.channel, job.voucher_amount, job.voucher_signature)


def _array(tensor: Tensor) -> NDArray[Any]:
    array = tensor.to_numpy()
    if tensor.datatype != "BYTES":
        return array
    # onnxruntime's strings are texts; of bytes it would take Python's way to print them
    try:
        texts = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InputsRefused("a text is not UTF-8.", field=tensor.name) from error
    decoded = np.empty(len(texts), dtype=object)
    decoded[:] = texts
    return decoded.reshape(array.shape)


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


def check_outputs(manifest: Manifest, wanted: Sequence[str]) -> None:
    """Check the requested output names.

    Raises:
        InputsRefused: a name the model does not give.
    """
    unknown = set(wanted) - {spec.name for spec in manifest.outputs}
    if unknown:
        raise InputsRefused(f"no output is called {min(unknown)}.", field="outputs")


def _timed(
    model: LoadedModel, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], float]:
    started = time.perf_counter()
    outputs = model.run(arrays, names)
    seconds = time.perf_counter() - started
    telemetry.COMPUTE.observe(seconds)
    return outputs, seconds


def _failed(job: Job, error: CodedError) -> Result:
    log.info("job-failed", request=job.request_id.hex(), code=error.code, detail=error.detail)
    return Result(
        request_id=job.request_id,
        attempt=job.attempt,
        ok=False,
        code=error.code,
        retry=Retry(error.retry),
        detail=error.detail,
        field=error.field,
    )
