"""Open Inference Protocol v2 JSON tensors, checked against the model's manifest before anything is paid.

Decides whether a body is a request the model takes and says exactly which field is not. It never touches payment.
Called by the inference route; `encode_answer` writes the outputs back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor
from market.errors import (
    InvalidRequest,
    PayloadTooLarge,
    TensorData,
    WrongTensorName,
    WrongTensorShape,
    WrongTensorType,
)

MODEL_VERSION = "1"
MAX_ID_CHARACTERS = 256
# Asked by stock clients about the transport of this answer; JSON is always a right answer to them.
_TRANSPORT_PARAMETERS = frozenset({"binary_data", "binary_data_output", "binary_data_size"})


@dataclass(frozen=True, slots=True)
class InferenceBody:
    """A checked request body: tensors in the manifest's order, requested output names (empty: all), the caller's id."""

    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Any]
    id: str | None


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a body as one JSON object.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}.", field="body") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("the body is not a JSON object.", field="body")
    return parsed


def decode_request(body: bytes, manifest: Manifest) -> InferenceBody:
    """Read and check an inference request.

    Raises:
        InvalidRequest: not the shape of an OIP v2 request.
        WrongTensorName | WrongTensorShape | WrongTensorType | TensorData | PayloadTooLarge: names the tensor.
    """
    raw = parse_json(body)
    request_id = raw.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_ID_CHARACTERS):
        raise InvalidRequest(f"expected a text of at most {MAX_ID_CHARACTERS} characters.", field="id")
    return InferenceBody(
        tensors=_inputs(raw.get("inputs"), manifest),
        outputs=_outputs(raw.get("outputs"), manifest),
        parameters=_parameters(raw.get("parameters")),
        id=request_id,
    )


def encode_answer(
    model_name: str, request_id: str | None, outputs: Sequence[Tensor], *, parameters: Mapping[str, Any] | None = None
) -> bytes:
    """Write the OIP v2 answer; tensor data flat, in row-major order."""
    answer: dict[str, Any] = {"model_name": model_name, "model_version": MODEL_VERSION}
    if request_id is not None:
        answer["id"] = request_id
    if parameters:
        answer["parameters"] = dict(parameters)
    answer["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "data": _flat(tensor),
        }
        for tensor in outputs
    ]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _flat(tensor: Tensor) -> list[Any] | NDArray[Any]:
    array = tensor.to_numpy().reshape(-1)
    if tensor.datatype == "BYTES":
        return [item.decode("utf-8", "replace") for item in array]
    if tensor.datatype == "BF16":
        widened = (array.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(widened)
    return np.require(array, requirements=["C", "A"])


def _inputs(raw: Any, manifest: Manifest) -> tuple[Tensor, ...]:
    if not isinstance(raw, list):
        raise InvalidRequest("expected a list of tensors.", field="inputs")
    wanted = {spec.name: spec for spec in manifest.inputs}
    given: dict[str, Tensor] = {}
    for index, row in enumerate(raw):
        where = f"inputs[{index}]"
        if not isinstance(row, dict):
            raise InvalidRequest("expected an object.", field=where)
        name = row.get("name")
        if not isinstance(name, str) or name not in wanted:
            raise WrongTensorName(f"{name!r} is not an input; expected {_names(manifest.inputs)}.", field=where)
        if name in given:
            raise WrongTensorName(f"{name!r} is given twice.", field=where)
        given[name] = _tensor(row, wanted[name], where, manifest.max_elements)
    missing = [spec for spec in manifest.inputs if spec.name not in given]
    if missing:
        raise WrongTensorName(f"missing {_names(missing)}.", field="inputs")
    tensors = tuple(given[spec.name] for spec in manifest.inputs)
    _check_batch(tensors, manifest)
    return tensors


def _check_batch(tensors: Sequence[Tensor], manifest: Manifest) -> None:
    axis = manifest.batch_axis
    if axis is None:
        return
    rows = {tensor.name: tensor.shape[axis] for tensor in tensors if len(tensor.shape) > axis}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise WrongTensorShape(f"the inputs disagree on the number of rows: {counts}.", field="inputs")
    count = next(iter(rows.values()), 0)
    if count > manifest.max_batch:
        raise PayloadTooLarge(f"{count} rows; the model takes at most {manifest.max_batch}.", field="inputs")


def _tensor(row: dict[str, Any], spec: TensorSpec, where: str, max_elements: int) -> Tensor:
    datatype = row.get("datatype")
    if datatype != spec.datatype:
        raise WrongTensorType(f"{spec.name} is {spec.datatype}, not {datatype!r}.", field=f"{where}.datatype")
    shape = _shape(row.get("shape"), spec, f"{where}.shape")
    elements = prod(shape)
    if elements > max_elements:
        raise PayloadTooLarge(
            f"{spec.name} has {elements} elements; the model takes at most {max_elements}.", field=f"{where}.shape"
        )
    parameters = row.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        raise InvalidRequest("binary tensor data is not taken here; send `data`.", field=f"{where}.parameters")
    if "data" not in row:
        raise TensorData(f"{spec.name} has no data.", field=f"{where}.data")
    return _fill(spec, shape, row["data"], f"{where}.data")


def _shape(raw: Any, spec: TensorSpec, where: str) -> tuple[int, ...]:
    if not isinstance(raw, list) or not all(type(size) is int and size >= 0 for size in raw):
        raise WrongTensorShape(f"expected a list of sizes, got {_short(raw)}.", field=where)
    fits = len(raw) == len(spec.shape) and all(
        size == wanted or (wanted == -1 and size >= 1) for size, wanted in zip(raw, spec.shape, strict=True)
    )
    if not fits:
        raise WrongTensorShape(f"{spec.name} takes {list(spec.shape)}, not {_short(raw)}.", field=where)
    return tuple(raw)


def _fill(spec: TensorSpec, shape: tuple[int, ...], raw: Any, where: str) -> Tensor:
    if not isinstance(raw, list):
        raise TensorData(f"expected a list, got {type(raw).__name__}.", field=where)
    if spec.datatype == "BYTES":
        items = _flatten(raw)
        if not all(isinstance(item, str) for item in items):
            raise TensorData(f"{spec.name} takes texts.", field=where)
        _check_count(len(items), shape, spec, where)
        array = np.empty(len(items), dtype=object)
        array[:] = items
        try:
            return Tensor.from_numpy(spec.name, array.reshape(shape))
        except UnicodeEncodeError as error:
            raise TensorData(f"{spec.name} holds a text that is not Unicode.", field=where) from error
    if spec.datatype not in NUMPY_DTYPES:
        raise WrongTensorType(f"{spec.datatype} cannot be sent as JSON.", field=where)
    try:
        array = np.array(raw)
    except ValueError as error:
        raise TensorData(f"{spec.name} is ragged or mixes lists and numbers.", field=where) from error
    _check_count(array.size, shape, spec, where)
    if array.ndim > 1 and array.shape != shape:
        raise WrongTensorShape(f"the nested data have shape {list(array.shape)}, not {list(shape)}.", field=where)
    dtype = NUMPY_DTYPES[spec.datatype]
    return Tensor(spec.name, spec.datatype, shape, _cast(array.reshape(-1), dtype, spec, where).tobytes())


def _cast(array: NDArray[Any], dtype: np.dtype[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    kind = array.dtype.kind
    if dtype.kind == "b":
        if kind != "b":
            raise TensorData(f"{spec.name} takes true and false.", field=where)
    elif dtype.kind in "iu":
        if kind not in "iu":
            raise TensorData(f"{spec.name} takes whole numbers of {spec.datatype}.", field=where)
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise TensorData(
                f"{spec.name} has {low if low < limits.min else high}, outside {spec.datatype}.", field=where
            )
    else:
        if kind not in "fiu":
            raise TensorData(f"{spec.name} takes numbers.", field=where)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if not np.isfinite(cast).all():
            raise TensorData(f"{spec.name} has a number that is not finite in {spec.datatype}.", field=where)
        return cast
    return array.astype(dtype)


def _check_count(count: int, shape: tuple[int, ...], spec: TensorSpec, where: str) -> None:
    if count != prod(shape):
        raise TensorData(f"{spec.name} has {count} elements where shape {list(shape)} has {prod(shape)}.", field=where)


def _flatten(raw: list[Any]) -> list[Any]:
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


def _outputs(raw: Any, manifest: Manifest) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise InvalidRequest("expected a list of outputs.", field="outputs")
    known = {spec.name for spec in manifest.outputs}
    names = []
    for index, row in enumerate(raw):
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or name not in known or name in names:
            raise WrongTensorName(
                f"{name!r} is not an output, or asked for twice; there are {_names(manifest.outputs)}.",
                field=f"outputs[{index}]",
            )
        names.append(name)
    return tuple(names)


def _parameters(raw: Any) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InvalidRequest("expected an object.", field="parameters")
    for key, value in raw.items():
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise InvalidRequest("a parameter is a text, a number or a truth value.", field=f"parameters.{key}")
    return {key: value for key, value in raw.items() if key not in _TRANSPORT_PARAMETERS}


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
