"""Protobuf requests to checked tensors and answers back; payment in metadata or in `market_…` parameters.

Decides whether a message is a request the model takes, by the same checks as the HTTP codec. It never touches a
connection. Called by the gRPC service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, pack_bytes
from market.errors import InvalidRequest, TensorData
from market.gateway.grpc.messages import ModelInferRequest, ModelInferResponse, fill_parameters, plain_parameters
from market.gateway.headers import REQUEST_HEADERS, PaymentHeaders, answer_headers, read_headers
from market.gateway.serving import Served
from market.gateway.tensors_check import check_all, check_datatype, check_shape, input_spec, raw_tensor
from market.gateway.tensors_json import (
    MAX_ID_CHARACTERS,
    MODEL_VERSION,
    InferenceBody,
    check_outputs,
    check_parameters,
    in_order,
    model_parameters,
)

# Where each datatype stands in InferTensorContents; the sixteen-bit floats travel as raw contents only.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
PARAMETER_PREFIX = "market_"
_PAYMENT_PARAMETERS = {name.lower().replace("-", "_"): name for name in REQUEST_HEADERS}


def parse(data: bytes) -> Any:
    """Parse a ModelInferRequest.

    Raises:
        InvalidRequest: not one.
    """
    try:
        return ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest("the message is not a ModelInferRequest.", field="message") from error


def read_payment(message: Any, metadata: Mapping[str, str]) -> PaymentHeaders:
    """Read the payment of one request: its `market_…` parameters, and for what they leave out the call's metadata.

    Raises:
        InvalidVoucher: the voucher is malformed.
        InvalidRequest: another value is malformed, or a parameter of this prefix means nothing.
    """
    given = dict(metadata)
    for key, value in plain_parameters(message.parameters).items():
        if not key.startswith(PARAMETER_PREFIX):
            continue
        header = _PAYMENT_PARAMETERS.get(key)
        if header is None or not isinstance(value, str):
            raise InvalidRequest(
                "expected a text." if header else f"there are {', '.join(_PAYMENT_PARAMETERS)}.",
                field=f"parameters.{key[:80]}",
            )
        given[header.lower()] = value
    return read_headers(given)


def decode(message: Any, manifest: Manifest) -> InferenceBody:
    """Read and check a ModelInferRequest.

    Raises:
        InvalidRequest: raw and typed contents disagree with each other or with the inputs.
        WrongTensorName | WrongTensorShape | WrongTensorType | TensorData | PayloadTooLarge: names the tensor.
    """
    if len(message.id) > MAX_ID_CHARACTERS:
        raise InvalidRequest(f"expected a text of at most {MAX_ID_CHARACTERS} characters.", field="id")
    parameters = check_parameters(plain_parameters(message.parameters))
    outputs, _ = check_outputs(
        [{"name": row.name, "parameters": plain_parameters(row.parameters)} for row in message.outputs], manifest
    )
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(f"{len(raw)} for {len(message.inputs)} inputs.", field="raw_input_contents")
    given: dict[str, Tensor] = {}
    for index, row in enumerate(message.inputs):
        where = f"inputs[{index}]"
        spec = input_spec(row.name, manifest, given, where)
        check_datatype(row.datatype, spec, where)
        shape = check_shape(list(row.shape), spec, manifest.max_elements, where)
        check_parameters(plain_parameters(row.parameters), f"{where}.parameters")
        if raw:
            if row.HasField("contents") and row.contents.ByteSize():
                raise InvalidRequest("comes both typed and raw.", field=f"{where}.contents")
            data = raw[index]
        else:
            data = _typed(row.contents, spec, f"{where}.contents")
        given[spec.name] = raw_tensor(spec, shape, data, manifest, where)
    return InferenceBody(
        tensors=check_all(given, manifest),
        outputs=outputs,
        parameters=model_parameters(
            {key: value for key, value in parameters.items() if not key.startswith(PARAMETER_PREFIX)}, manifest
        ),
        id=message.id or None,
        binary_default=True,
    )


def encode(served: Served, model: str) -> Any:
    """Write the answer, tensors raw; the receipt stands in its `market_…` parameters, beside the model's own."""
    answer = served.answer
    message = ModelInferResponse(model_name=model, model_version=MODEL_VERSION, id=served.body.id or "")
    fill_parameters(message.parameters, answer.parameters)
    fill_parameters(
        message.parameters, {name.lower().replace("-", "_"): text for name, text in answer_headers(answer).items()}
    )
    for tensor in in_order(served.body, answer.tensors):
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(bytes(tensor.data))
    return message


def _typed(contents: Any, spec: TensorSpec, where: str) -> bytes:
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        raise TensorData(f"{spec.datatype} travels as raw contents only.", field=where)
    other = next((found.name for found, _ in contents.ListFields() if found.name != field), None)
    if other is not None:
        raise TensorData(f"{spec.name} is {spec.datatype}; {other} is not its field, {field} is.", field=where)
    values = getattr(contents, field)
    if spec.datatype == "BYTES":
        return pack_bytes(values, spec.name)
    dtype = NUMPY_DTYPES[spec.datatype]
    if field not in ("int_contents", "uint_contents"):
        return np.array(values, dtype=dtype).tobytes()
    wide = np.array(values, dtype=np.int64)
    limits = np.iinfo(dtype)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise TensorData(f"{spec.name} has a number outside {spec.datatype}.", field=where)
    return wide.astype(dtype).tobytes()
