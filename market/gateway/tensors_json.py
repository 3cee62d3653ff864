"""Open Inference Protocol v2 bodies, JSON with or without binary tensor data, checked against the model's manifest.

Decides whether a body is a request the model takes and says exactly which field is not, before anything is paid. It
never touches payment. Called by the inference route; `encode_answer` and `encode_answer_for` write the outputs back.

Binary tensor data (the protocol's extension): `Inference-Header-Content-Length` gives the length of the JSON; the raw
bytes of the inputs that name a `binary_data_size` follow it in order. A length of 0 means that the whole body is the
data of the model's only input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.protocol.errors import TensorError
from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.sealed import TENSOR, UNITS, declared_units, is_sealed
from contracts.protocol.tensors import ITEM_BYTES, Tensor, pack_bytes
from contracts.protocol.values import value_class
from market.errors import InvalidRequest, TensorData, WrongTensorName, WrongTensorShape
from market.gateway.tensors_check import (
    check_all,
    check_datatype,
    check_shape,
    input_spec,
    names,
    raw_tensor,
    shorten,
)
from market.gateway.tensors_fill import fill

MODEL_VERSION = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_ID_CHARACTERS = 256
# They speak about the transport of tensors, not to the model, and so are no part of what is hashed and signed.
_BINARY_OUTPUTS = "binary_data_output"
_BINARY_SIZE = "binary_data_size"
_ORDER = frozenset({"priority", "timeout", "triton_enable_empty_final_response"})
# Stock clients send these for models that keep a state between requests; none here does.
_SEQUENCE = frozenset({"sequence_id", "sequence_start", "sequence_end"})
TRANSPORT_PARAMETERS = frozenset({"binary_data", _BINARY_OUTPUTS, _BINARY_SIZE}) | _ORDER | _SEQUENCE
# The one task that has parameters; its worker knows their names and bounds.
_TASK_WITH_PARAMETERS = "text-generation"
# How a model's requests look to those who cannot read them.
SEALED_TASK = "sealed"
MAX_SEALED_BYTES = 1 << 30
# What other servers offer beside tensors in the body; ignoring them would answer another question than was asked.
_NOT_OFFERED = ("shared_memory_region", "classification")


@value_class(frozen=True, slots=True)
class InferenceBody:
    """A checked request: tensors in the manifest's order, requested output names (empty: all), the caller's id.

    `binary` says per requested output whether its data shall come raw; `binary_default` for all that it does not name.
    """

    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Any]
    id: str | None
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_default: bool = False


def parse_json(body: bytes | memoryview) -> dict[str, Any]:
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


def decode_request(body: bytes, manifest: Manifest, header_length: str | None = None) -> InferenceBody:
    """Read and check an inference request; `header_length` is the `Inference-Header-Content-Length` header.

    Raises:
        InvalidRequest: not the shape of an OIP v2 request, or lengths that lie.
        WrongTensorName | WrongTensorShape | WrongTensorType | TensorData | PayloadTooLarge: names the tensor.
    """
    if header_length is None:
        text, data = body, None
    else:
        size = _header_length(header_length, len(body))
        if size == 0:
            return _raw_body(body, manifest)
        view = memoryview(body)
        text, data = body[:size], _Data(view[size:])
    raw = parse_json(text)
    request_id = raw.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_ID_CHARACTERS):
        raise InvalidRequest(f"expected a text of at most {MAX_ID_CHARACTERS} characters.", field="id")
    parameters = check_parameters(raw.get("parameters"))
    if is_sealed(parameters):
        manifest = sealed_view(manifest)
    outputs, binary = check_outputs(raw.get("outputs"), manifest)
    # Looking for the words costs nothing; for a value among a million numbers as much as reading them.
    truths = b"true" in text or b"false" in text
    tensors = _inputs(raw.get("inputs"), manifest, data, truths=truths)
    if data is not None:
        data.finish()
    return InferenceBody(
        tensors=tensors,
        # What is sealed has one output, and the worker reads no names of others.
        outputs=() if is_sealed(parameters) else outputs,
        parameters=model_parameters(parameters, manifest),
        id=request_id,
        binary=binary,
        binary_default=_truth(parameters.get(_BINARY_OUTPUTS), f"parameters.{_BINARY_OUTPUTS}"),
    )


def encode_answer(
    model_name: str, request_id: str | None, outputs: Sequence[Tensor], *, parameters: Mapping[str, Any] | None = None
) -> bytes:
    """Write the OIP v2 answer as JSON; tensor data flat, in row-major order, NaN and infinities as null."""
    answer = _answer_head(model_name, request_id, parameters)
    answer["outputs"] = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": _flat(tensor)}
        for tensor in outputs
    ]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_answer_for(
    body: InferenceBody, model_name: str, outputs: Sequence[Tensor], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """Write the answer in the order and form the request asked for.

    Returns the body and, if raw tensor data follow its JSON, the length of the JSON in bytes.
    """
    outputs = in_order(body, outputs)
    if not (body.binary_default or any(body.binary.values())):
        return encode_answer(model_name, body.id, outputs, parameters=parameters), None
    answer = _answer_head(model_name, body.id, parameters)
    rows: list[dict[str, Any]] = []
    raw: list[bytes | memoryview] = []
    for tensor in outputs:
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if body.binary.get(tensor.name, body.binary_default):
            row["parameters"] = {_BINARY_SIZE: len(tensor.data)}
            raw.append(tensor.data)
        else:
            row["data"] = _flat(tensor)
        rows.append(row)
    answer["outputs"] = rows
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((head, *raw)), len(head) if raw else None


def in_order(body: InferenceBody, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return an answer's tensors in the order in which the request named them."""
    if not body.outputs:
        return outputs
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[name] for name in body.outputs if name in by_name]


def check_outputs(raw: Any, manifest: Manifest) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Return the names of the requested outputs, and for those that say so whether their data shall come raw.

    Raises:
        InvalidRequest: not a list of outputs.
        WrongTensorName: not an output of the model, or asked for twice.
    """
    if raw is None:
        return (), {}
    if not isinstance(raw, list):
        raise InvalidRequest("expected a list of outputs.", field="outputs")
    known = {spec.name for spec in manifest.outputs}
    binary: dict[str, bool] = {}
    wanted: list[str] = []
    for index, row in enumerate(raw):
        where = f"outputs[{index}]"
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or name not in known or name in wanted:
            raise WrongTensorName(
                f"{shorten(name)} is not an output, or asked for twice; there are {names(manifest.outputs)}.",
                field=where,
            )
        wanted.append(name)
        parameters = check_parameters(row.get("parameters"), f"{where}.parameters")
        if "binary_data" in parameters:
            binary[name] = _truth(parameters["binary_data"], f"{where}.parameters.binary_data")
    return tuple(wanted), binary


def check_parameters(raw: Any, where: str = "parameters") -> dict[str, Any]:
    """Return parameters as they are; None are none.

    Raises:
        InvalidRequest: not an object of texts, numbers and truth values, or one asks for what is not offered.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InvalidRequest("expected an object.", field=where)
    for key, value in raw.items():
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise InvalidRequest("a parameter is a text, a number or a truth value.", field=f"{where}.{shorten(key)}")
    for key in _NOT_OFFERED:
        if raw.get(key):
            raise InvalidRequest(f"{key} is not offered here; send and take tensor data.", field=f"{where}.{key}")
    return raw


def model_parameters(parameters: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return the parameters that the model is sent: a request's without those of its transport.

    Raises:
        InvalidRequest: one that the model's task does not know, or that asks for a sequence of requests.
    """
    for key in _SEQUENCE:
        if parameters.get(key) not in (None, 0, "", "0"):
            raise InvalidRequest("sequences are not offered; each request stands alone.", field=f"parameters.{key}")
    kept = {key: value for key, value in parameters.items() if key not in TRANSPORT_PARAMETERS}
    if manifest.task == SEALED_TASK:
        return _sealed_parameters(kept)
    if kept and manifest.task != _TASK_WITH_PARAMETERS:
        unknown = min(kept)
        raise InvalidRequest(
            f"{shorten(unknown)} means nothing to a model of the task {manifest.task!r}, which takes no parameters.",
            field=f"parameters.{unknown[:80]}",
            remedy="Leave it out.",
        )
    return kept


def _sealed_parameters(kept: dict[str, Any]) -> dict[str, Any]:
    for key in kept.keys() - {UNITS}:
        raise InvalidRequest(
            f"{shorten(key)} stands in the open beside what is sealed.",
            field=f"parameters.{key[:80]}",
            remedy="Seal the parameters together with the tensors.",
        )
    try:
        declared_units(kept)
    except TensorError as error:
        raise InvalidRequest(error.detail, field=f"parameters.{UNITS}", remedy=error.remedy) from error
    return kept


def sealed_view(manifest: Manifest) -> Manifest:
    """Return what a request of a model is held against that only its worker can read."""
    sealed = TensorSpec(TENSOR, "UINT8", (-1,))
    return replace(
        manifest,
        task=SEALED_TASK,
        inputs=(sealed,),
        outputs=(sealed,),
        batch_axis=None,
        max_elements=MAX_SEALED_BYTES,
        options={},
    )


class _Data:
    """The raw bytes behind the JSON, taken in the order of the inputs."""

    __slots__ = ("_left",)

    def __init__(self, view: memoryview) -> None:
        self._left = view

    def take(self, size: Any, where: str) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self._left):
            raise InvalidRequest(
                f"{shorten(size)} is not a size within the {len(self._left)} bytes left behind the JSON.", field=where
            )
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def finish(self) -> None:
        if len(self._left):
            raise InvalidRequest(f"{len(self._left)} bytes follow the last tensor.", field="body")


def _header_length(text: str, available: int) -> int:
    # ten digits hold any body; int() on a longer text would be work done for nothing
    size = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not 0 <= size <= available:
        raise InvalidRequest(
            f"{shorten(text)} is not a length within the {available} bytes of the body.", field=HEADER_LENGTH
        )
    return size


def _raw_body(body: bytes, manifest: Manifest) -> InferenceBody:
    if len(manifest.inputs) != 1:
        raise InvalidRequest(
            f"a body without JSON fits models of one input; this one has {len(manifest.inputs)}.", field=HEADER_LENGTH
        )
    spec = manifest.inputs[0]
    free = sum(size == -1 for size in spec.shape)
    known = prod(size for size in spec.shape if size != -1)
    if spec.datatype == "BYTES":
        if known != 1:
            raise WrongTensorShape(f"{spec.name} takes {list(spec.shape)}, not one text.", field="body")
        shape, data = (1,) * len(spec.shape), pack_bytes([body], spec.name)
    else:
        row_bytes = known * ITEM_BYTES[spec.datatype]
        if free > 1 or (free and (row_bytes == 0 or len(body) % row_bytes)):
            raise WrongTensorShape(
                f"{len(body)} bytes do not tell the free sizes of {list(spec.shape)}; send the shape in JSON.",
                field="body",
            )
        shape, data = tuple(len(body) // row_bytes if size == -1 else size for size in spec.shape), body
    shape = check_shape(shape, spec, manifest.max_elements, "body")
    tensor = raw_tensor(spec, shape, data, manifest, "body")
    return InferenceBody(check_all({spec.name: tensor}, manifest), (), {}, None, {}, binary_default=True)


def _inputs(raw: Any, manifest: Manifest, data: _Data | None, *, truths: bool) -> tuple[Tensor, ...]:
    if not isinstance(raw, list):
        raise InvalidRequest("expected a list of tensors.", field="inputs")
    given: dict[str, Tensor] = {}
    for index, row in enumerate(raw):
        where = f"inputs[{index}]"
        if not isinstance(row, dict):
            raise InvalidRequest("expected an object.", field=where)
        spec = input_spec(row.get("name"), manifest, given, where)
        check_datatype(row.get("datatype"), spec, where)
        shape = check_shape(row.get("shape"), spec, manifest.max_elements, where)
        given[spec.name] = _tensor(row, spec, shape, manifest, data, where, truths=truths)
    return check_all(given, manifest)


def _tensor(
    row: dict[str, Any],
    spec: TensorSpec,
    shape: tuple[int, ...],
    manifest: Manifest,
    data: _Data | None,
    where: str,
    *,
    truths: bool,
) -> Tensor:
    parameters = row.get("parameters")
    if parameters is not None:
        check_parameters(parameters, f"{where}.parameters")
        if _BINARY_SIZE in parameters:
            if "data" in row:
                raise InvalidRequest(f"{spec.name} comes both as `data` and as binary.", field=f"{where}.data")
            if data is None:
                raise InvalidRequest(
                    "binary tensor data need the header that gives the length of the JSON.", field=HEADER_LENGTH
                )
            taken = data.take(parameters[_BINARY_SIZE], f"{where}.parameters.{_BINARY_SIZE}")
            return raw_tensor(spec, shape, taken, manifest, where)
    if "data" not in row:
        raise TensorData(f"{spec.name} has no data.", field=f"{where}.data")
    return fill(spec, shape, row["data"], manifest, f"{where}.data", truths=truths)


def _truth(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest("expected true or false.", field=where)
    return bool(value)


def _answer_head(model_name: str, request_id: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": model_name, "model_version": MODEL_VERSION}
    if request_id is not None:
        answer["id"] = request_id
    if parameters:
        answer["parameters"] = dict(parameters)
    return answer


def _flat(tensor: Tensor) -> list[Any] | NDArray[Any]:
    array = tensor.to_numpy().reshape(-1)
    if tensor.datatype == "BYTES":
        return [item.decode("utf-8", "replace") for item in array]
    if tensor.datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return np.require(array, requirements=["C", "A"])
