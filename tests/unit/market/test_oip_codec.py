"""Open Inference Protocol bodies: every datatype there and back, JSON and binary, and no lie that gets through."""

import itertools
import json
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.tensors import DATATYPES, NUMPY_DTYPES, Tensor, pack_bytes
from market.errors import (
    InvalidRequest,
    PayloadTooLarge,
    TensorData,
    WrongTensorName,
    WrongTensorShape,
    WrongTensorType,
)
from market.gateway.problems import status_of
from market.gateway.tensors_json import InferenceBody, decode_request, encode_answer, encode_answer_for

Y = TensorSpec("y", "FP32", (-1, 3))


def manifest(*inputs: TensorSpec, outputs=(Y,), task="tensor", **more) -> Manifest:
    return Manifest(
        task=task,
        entry="model.onnx",
        files={"model.onnx": FileEntry(bytes(32), 1)},
        inputs=inputs or (TensorSpec("x", "FP32", (-1, 4)),),
        outputs=tuple(outputs),
        **{"batch_axis": 0, "max_batch": 64, "max_elements": 1 << 22, **more},
    )


TINY = manifest()
TEXTS = manifest(TensorSpec("text", "BYTES", (-1,)), task="text-embedding")


def binary(header: object, *data: bytes) -> tuple[bytes, str]:
    head = header if isinstance(header, bytes) else orjson.dumps(header)
    return head + b"".join(data), str(len(head))


def x_input(size: object = 16, shape: object = (1, 4), **more) -> dict:
    return {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}, **more}


ROW = np.array([[5.1, 3.5, 1.4, 0.2]], dtype="<f4")


def array_of(datatype: str, shape=(2, 3)) -> np.ndarray:
    rng = np.random.default_rng(7)
    if datatype == "BYTES":
        items = [b"", "žluťoučký".encode(), b"\x00" * 5, b"a", b"bc", b"def"]
        array = np.empty(6, dtype=object)
        array[:] = items
        return array.reshape(shape)
    if datatype == "BF16":
        return (rng.normal(size=shape).astype("<f4").view("<u4") >> 16).astype("<u2")
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, size=shape).astype(bool)
    info = np.iinfo(dtype)
    array = rng.integers(0, 100, size=shape).astype(dtype)
    array.flat[0], array.flat[-1] = info.min, info.max
    return array


def tensor_of(datatype: str, name="t") -> Tensor:
    array = array_of(datatype)
    if datatype == "BF16":
        return Tensor(name, "BF16", array.shape, array.tobytes())
    return Tensor.from_numpy(name, array)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_in_and_comes_out_binary(datatype):
    sent = tensor_of(datatype)
    m = manifest(TensorSpec("t", datatype, (-1, 3)), outputs=(TensorSpec("t", datatype, (-1, 3)),))
    head = {
        "inputs": [
            {"name": "t", "datatype": datatype, "shape": [2, 3], "parameters": {"binary_data_size": len(sent.data)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    body, length = binary(head, sent.data)
    decoded = decode_request(body, m, length)
    assert decoded.tensors == (sent,)
    assert decoded.parameters == {}
    assert decoded.binary_default is True
    content, header = encode_answer_for(decoded, "m", [sent], {})
    answer = json.loads(content[:header])
    assert answer["outputs"] == [
        {"name": "t", "datatype": datatype, "shape": [2, 3], "parameters": {"binary_data_size": len(sent.data)}}
    ]
    assert content[header:] == sent.data


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_in_and_comes_out_as_json(datatype):
    sent = tensor_of(datatype)
    if datatype == "BYTES":
        sent = Tensor.from_numpy("t", np.array([["a", "ž", ""], ["d", "e", "😀"]], dtype=object))
    m = manifest(TensorSpec("t", datatype, (-1, 3)), outputs=(TensorSpec("t", datatype, (-1, 3)),))
    row = json.loads(encode_answer("m", None, [sent]))["outputs"][0]
    assert len(row["data"]) == 6
    assert decode_request(orjson.dumps({"inputs": [row]}), m).tensors == (sent,)


def test_outputs_come_in_the_order_and_form_asked_for():
    specs = (TensorSpec("a", "FP32", (1,)), TensorSpec("b", "INT64", (1,)), TensorSpec("c", "FP16", (1,)))
    tensors = [Tensor.from_numpy(s.name, np.array([i], dtype=NUMPY_DTYPES[s.datatype])) for i, s in enumerate(specs)]
    m = manifest(outputs=specs)
    request = {
        "inputs": [x_input()],
        "outputs": [{"name": "c"}, {"name": "a", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True, "priority": 2, "timeout": 5, "sequence_id": 0},
        "id": "seven",
    }
    body, length = binary(request, ROW.tobytes())
    decoded = decode_request(body, m, length)
    assert decoded.outputs == ("c", "a")
    assert decoded.parameters == {}
    content, header = encode_answer_for(decoded, "m", tensors, {"k": 1})
    answer = json.loads(content[:header])
    assert [row["name"] for row in answer["outputs"]] == ["c", "a"]
    assert answer["outputs"][1]["data"] == [0.0]
    assert content[header:] == tensors[2].data
    assert (answer["id"], answer["parameters"]) == ("seven", {"k": 1})


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"temperature": 0.5}, "parameters.temperature"),
        ({"binary_data_output": True, "sequence_id": 7}, "parameters.sequence_id"),
        ({"sequence_start": True}, "parameters.sequence_start"),
        ({"wörter" * 40: None}, "parameters."),
    ],
)
def test_a_parameter_that_the_task_does_not_know_is_refused_by_its_name(parameters, field):
    body, length = binary({"inputs": [x_input()], "parameters": parameters}, ROW.tobytes())
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body, TINY, length)
    assert (refused.value.field or "").startswith(field)


def test_a_generation_takes_parameters_and_is_not_sent_those_of_the_transport():
    m = manifest(TensorSpec("prompt", "BYTES", (1,)), task="text-generation", batch_axis=None)
    row = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["A"]}
    body = orjson.dumps({"inputs": [row], "parameters": {"max_tokens": 5, "priority": 1, "sequence_id": 0}})
    assert decode_request(body, m).parameters == {"max_tokens": 5}


def test_nothing_binary_asked_for_is_plain_json():
    decoded = decode_request(orjson.dumps({"inputs": [x_input() | {"parameters": {}, "data": ROW.tolist()}]}), TINY)
    content, header = encode_answer_for(decoded, "m", [Tensor.from_numpy("y", ROW[:, :3])], {})
    assert header is None
    np.testing.assert_array_equal(np.array(json.loads(content)["outputs"][0]["data"], "f4"), ROW[0, :3])


def test_zero_header_length_takes_the_body_as_the_only_input():
    decoded = decode_request(np.tile(ROW, (3, 1)).tobytes(), TINY, "0")
    assert decoded.tensors[0].shape == (3, 4)
    assert decoded.binary_default
    text = decode_request("grüß dich".encode(), TEXTS, "0").tensors[0]
    assert text.to_numpy().tolist() == ["grüß dich".encode()]
    for body, m in (
        (b"\0" * 15, TINY),
        (b"", TINY),
        (b"\0" * 16, manifest(TensorSpec("x", "FP32", (-1, -1)))),
        (b"\0" * 16, manifest(TensorSpec("x", "FP32", (-1, 0)))),
        (b"\0" * 16, manifest(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("z", "FP32", (-1, 4)))),
        (b"\xff", TEXTS),
        (b"\0" * 16 * 65, TINY),
    ):
        with pytest.raises(CodedError):
            decode_request(body, m, "0")


GOOD = {"inputs": [x_input()]}


@pytest.mark.parametrize(
    ("length", "why"),
    [
        ("17x", "digits"),
        ("-1", "sign"),
        ("+9", "sign"),
        ("", "empty"),
        ("1" * 5000, "huge"),
        ("9999", "beyond"),
        ("٣", "digit"),
    ],
)
def test_header_lengths_that_lie(length, why):
    body, _ = binary(GOOD, ROW.tobytes())
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body, TINY, length)
    assert refused.value.field == "Inference-Header-Content-Length"


@pytest.mark.parametrize(
    ("header", "data", "error", "field"),
    [
        (b"{not json", b"", InvalidRequest, "body"),
        (b'{"id": "\xff\xfe"}', b"", InvalidRequest, "body"),
        (b"[]", b"", InvalidRequest, "body"),
        ({"inputs": [x_input(size=17)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size=-1)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size=True)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size=16.0)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size="16")]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size=2**63)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(size=12)]}, ROW.tobytes(), TensorData, "inputs[0]"),
        (GOOD, ROW.tobytes() + b"\0", InvalidRequest, "body"),
        (GOOD, b"", InvalidRequest, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [x_input(data=[1, 2, 3, 4])]}, ROW.tobytes(), InvalidRequest, "inputs[0].data"),
        ({"inputs": [x_input(shape=[2, 4])]}, ROW.tobytes(), TensorData, "inputs[0]"),
        ({"inputs": [x_input(shape=[0, 4], size=0)]}, b"", WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(shape=[1, -4])]}, ROW.tobytes(), WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(shape=[4])]}, ROW.tobytes(), WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(shape=[1.0, 4])]}, ROW.tobytes(), WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(shape="14")]}, ROW.tobytes(), WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(shape=[2**62, 4])]}, ROW.tobytes(), PayloadTooLarge, "inputs[0].shape"),
        ({"inputs": [x_input(shape=[1] * 10_000)]}, ROW.tobytes(), WrongTensorShape, "inputs[0].shape"),
        ({"inputs": [x_input(), x_input()]}, ROW.tobytes() * 2, WrongTensorName, "inputs[1]"),
        ({"inputs": [x_input(name="z")]}, ROW.tobytes(), WrongTensorName, "inputs[0]"),
        ({"inputs": [x_input(name=["x"])]}, ROW.tobytes(), WrongTensorName, "inputs[0]"),
        ({"inputs": []}, b"", WrongTensorName, "inputs"),
        ({"inputs": {"x": 1}}, b"", InvalidRequest, "inputs"),
        ({"inputs": [[]]}, b"", InvalidRequest, "inputs[0]"),
        ({}, b"", InvalidRequest, "inputs"),
        ({"inputs": [x_input(datatype="FP64")]}, ROW.tobytes(), WrongTensorType, "inputs[0].datatype"),
        ({"inputs": [x_input(parameters=7)]}, ROW.tobytes(), InvalidRequest, "inputs[0].parameters"),
        (GOOD | {"id": 7}, ROW.tobytes(), InvalidRequest, "id"),
        (GOOD | {"id": "i" * 257}, ROW.tobytes(), InvalidRequest, "id"),
        (GOOD | {"outputs": [{"name": "nope"}]}, ROW.tobytes(), WrongTensorName, "outputs[0]"),
        (GOOD | {"outputs": [{"name": "y"}, {"name": "y"}]}, ROW.tobytes(), WrongTensorName, "outputs[1]"),
        (GOOD | {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, ROW.tobytes(), InvalidRequest, None),
        (GOOD | {"outputs": [{"name": "y", "parameters": {"classification": 2}}]}, ROW.tobytes(), InvalidRequest, None),
        (GOOD | {"parameters": {"binary_data_output": "yes"}}, ROW.tobytes(), InvalidRequest, None),
        (GOOD | {"parameters": {"deep": {"er": 1}}}, ROW.tobytes(), InvalidRequest, None),
    ],
)
def test_binary_lies_are_named(header, data, error, field):
    body, length = binary(header, data)
    with pytest.raises(error) as refused:
        decode_request(body, TINY, length)
    if field is not None:
        assert refused.value.field == field
    assert 400 <= status_of(type(refused.value)) < 500
    assert len(refused.value.detail) < 300


def test_shared_memory_is_refused_by_name():
    header = {"inputs": [x_input(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16})]}
    with pytest.raises(InvalidRequest, match="shared_memory_region is not offered"):
        decode_request(*binary(header)[:1], TINY, binary(header)[1])


def test_binary_without_the_header_is_refused():
    body, _ = binary(GOOD, b"")
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body, TINY)
    assert refused.value.field == "Inference-Header-Content-Length"


@pytest.mark.parametrize(("datatype", "bits"), [("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"), ("BF16", None)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(datatype, bits, value):
    array = np.full((1, 4), 1.0)
    array[0, 2] = value
    data = array.astype(bits).tobytes() if bits else (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    spec = TensorSpec("x", datatype, (-1, 4))
    body, length = binary({"inputs": [x_input(size=len(data)) | {"datatype": datatype}]}, data)
    with pytest.raises(TensorData, match="not finite"):
        decode_request(body, manifest(spec), length)
    allowed = manifest(spec, options={"non_finite_inputs": True})
    assert decode_request(body, allowed, length).tensors[0].data == data


def test_json_has_no_nan():
    for text in (b"NaN", b"Infinity", b"1e999", b"null", b'"1"'):
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,' + text + b"]}]}"
        with pytest.raises(CodedError):
            decode_request(body, TINY)


def test_bool_bytes_are_zero_or_one():
    m = manifest(TensorSpec("x", "BOOL", (-1, 4)))
    body, length = binary({"inputs": [x_input(size=4) | {"datatype": "BOOL"}]}, b"\0\1\2\1")
    with pytest.raises(TensorData):
        decode_request(body, m, length)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (pack_bytes([b"ok", b"\xff\xfe"], "t"), "element 1 of text is not UTF-8"),
        (pack_bytes([b"ok"], "t"), "too few|1 elements"),
        (pack_bytes([b"a", b"b", b"c"], "t"), "3 elements"),
        (struct.pack("<I", 2**32 - 1) + b"abcd", "beyond"),
        (pack_bytes([b"abcd"], "t") + b"\0\0", "inside a length"),
    ],
)
def test_bytes_elements_that_lie(data, match):
    row = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(data)}}
    body, length = binary({"inputs": [row]}, data)
    with pytest.raises(TensorData, match=match):
        decode_request(body, TEXTS, length)


def test_models_of_bytes_take_any_bytes():
    m = manifest(TensorSpec("image", "BYTES", (-1,)), task="image-classification")
    data = pack_bytes([b"\xff\xd8\xff\xe0"], "image")
    row = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    body, length = binary({"inputs": [row]}, data)
    assert decode_request(body, m, length).tensors[0].to_numpy().tolist() == [b"\xff\xd8\xff\xe0"]


def test_ten_million_elements_are_refused_before_they_are_read():
    m = manifest(TensorSpec("x", "FP32", (-1, -1)), batch_axis=None)
    for shape in ([10_000_000, 1], [1, 10_000_000], [2**31, 2**31]):
        body, length = binary({"inputs": [x_input(shape=shape)]}, ROW.tobytes())
        with pytest.raises(PayloadTooLarge):
            decode_request(body, m, length)


def test_zero_sized_dimensions_pass_only_where_the_model_has_them():
    m = manifest(TensorSpec("x", "INT64", (-1, 0)))
    row = {"name": "x", "datatype": "INT64", "shape": [1, 0]}
    assert decode_request(orjson.dumps({"inputs": [row | {"data": []}]}), m).tensors[0].data == b""
    body, length = binary({"inputs": [row | {"parameters": {"binary_data_size": 0}}]})
    assert decode_request(body, m, length).tensors[0].shape == (1, 0)


def test_rows_that_disagree_and_too_many_rows():
    two = manifest(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("z", "FP32", (-1, 4)))
    z = {"name": "z", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}}
    with pytest.raises(WrongTensorShape, match="x 1, z 2"):
        decode_request(*_with_header({"inputs": [x_input(), z]}, ROW.tobytes() * 3, two))
    with pytest.raises(PayloadTooLarge, match="65 rows"):
        decode_request(*_with_header({"inputs": [x_input(size=16 * 65, shape=[65, 4])]}, ROW.tobytes() * 65, TINY))


def _with_header(header, data, m):
    body, length = binary(header, data)
    return body, m, length


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["x", "t", "text", "y"])
rows = st.fixed_dictionaries(
    {},
    optional={
        "name": names | json_values,
        "datatype": st.sampled_from(DATATYPES) | json_values,
        "shape": st.lists(st.integers(-2, 5) | st.integers(), max_size=4) | json_values,
        "data": st.lists(st.integers() | st.floats() | st.text(max_size=3), max_size=8) | json_values,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-2, 40) | json_values, "binary_data": json_values}
        )
        | json_values,
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(rows, max_size=3) | json_values,
        "outputs": st.lists(rows, max_size=3) | json_values,
        "parameters": json_values,
        "id": json_values,
    },
)
manifests = [
    TINY,
    TEXTS,
    manifest(TensorSpec("t", "INT64", (-1,)), TensorSpec("x", "BF16", (2, 2))),
    manifest(TensorSpec("t", "BOOL", (-1, -1)), batch_axis=None),
    manifest(TensorSpec("x", "UINT8", ())),
]


def _accepts_or_refuses(body: bytes, m: Manifest, length: str | None) -> None:
    try:
        decoded = decode_request(body, m, length)
    except CodedError as error:
        assert 400 <= status_of(type(error)) < 500  # noqa: PT017
        return
    assert isinstance(decoded, InferenceBody)
    for tensor, spec in zip(decoded.tensors, m.inputs, strict=True):
        tensor.check()
        assert (tensor.name, tensor.datatype) == (spec.name, spec.datatype)


@settings(max_examples=400, deadline=None)
@given(requests, st.binary(max_size=64), st.sampled_from(manifests), st.sampled_from(["right", "none", "wrong"]))
def test_any_request_is_taken_or_refused_never_broken(request, data, m, lie):
    head = json.dumps(request).encode()
    length = {"right": str(len(head)), "none": None, "wrong": str(len(head) // 2)}[lie]
    _accepts_or_refuses(head + data, m, length)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from(manifests), st.none() | st.text(max_size=5) | st.integers(0, 200).map(str)
)
def test_any_bytes_are_taken_or_refused_never_broken(body, m, length):
    _accepts_or_refuses(body, m, length)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_flipped_byte_is_taken_or_refused_never_broken(data):
    texts = pack_bytes(["hello", "wörld"], "text")
    row = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(texts)}}
    body, length = binary({"inputs": [row], "parameters": {"binary_data_output": True}}, texts)
    at = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[at] ^= data.draw(st.integers(1, 255))
    _accepts_or_refuses(bytes(flipped), TEXTS, length)


def test_deep_nesting_is_refused():
    for depth in itertools.chain(range(60, 70), (1000, 5000, 100_000)):
        nested = b"[" * depth + b"1" + b"]" * depth
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":' + nested + b"}]}"
        _accepts_or_refuses(body, TINY, None)
