"""The body of an inference request against the manifest: every way to be wrong has its own code and field."""

import numpy as np
import orjson
import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.tensors import DATATYPES, NUMPY_DTYPES, Tensor
from market.errors import (
    InvalidRequest,
    MarketError,
    PayloadTooLarge,
    TensorData,
    WrongTensorName,
    WrongTensorShape,
    WrongTensorType,
)
from market.gateway.tensors_json import decode_request, encode_answer


def manifest(
    *inputs: TensorSpec, batch_axis: int | None = None, max_batch: int = 4, max_elements: int = 64
) -> Manifest:
    return Manifest(
        task="tensor",
        entry="model.onnx",
        files={"model.onnx": FileEntry(sha256(b"x"), 1)},
        inputs=inputs or (TensorSpec("x", "FP32", (-1, 2)),),
        outputs=(TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1,))),
        batch_axis=batch_axis,
        max_batch=max_batch,
        max_elements=max_elements,
    )


def body(*inputs: dict, **more: object) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **more})


def x(**changes: object) -> dict:
    return {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4], **changes}


def test_flat_and_nested_data_are_the_same_request():
    flat = decode_request(body(x()), manifest())
    nested = decode_request(body(x(data=[[1, 2.5], [3, 4]])), manifest())
    assert flat == nested
    assert flat.tensors[0].to_numpy().tolist() == [[1, 2.5], [3, 4]]


def test_inputs_come_in_the_manifests_order():
    m = manifest(TensorSpec("b", "INT64", (1,)), TensorSpec("a", "INT64", (1,)))
    rows = [{"name": n, "datatype": "INT64", "shape": [1], "data": [i]} for i, n in enumerate("ab")]
    assert [t.name for t in decode_request(body(*rows), m).tensors] == ["b", "a"]


@pytest.mark.parametrize(
    ("row", "error", "field"),
    [
        (x(name="w"), WrongTensorName, "inputs[0]"),
        (x(name=None), WrongTensorName, "inputs[0]"),
        (x(datatype="FP64"), WrongTensorType, "inputs[0].datatype"),
        (x(datatype=None), WrongTensorType, "inputs[0].datatype"),
        (x(shape=[4]), WrongTensorShape, "inputs[0].shape"),
        (x(shape=[2, 3]), WrongTensorShape, "inputs[0].shape"),
        (x(shape=[0, 2], data=[]), WrongTensorShape, "inputs[0].shape"),
        (x(shape=[-1, 2]), WrongTensorShape, "inputs[0].shape"),
        (x(shape=[2.0, 2]), WrongTensorShape, "inputs[0].shape"),
        (x(shape=[True, 2]), WrongTensorShape, "inputs[0].shape"),
        (x(shape="2,2"), WrongTensorShape, "inputs[0].shape"),
        (x(data=[1, 2, 3]), TensorData, "inputs[0].data"),
        (x(data=[1, 2, 3, 4, 5]), TensorData, "inputs[0].data"),
        (x(data=[[1, 2, 3, 4]]), WrongTensorShape, "inputs[0].data"),
        (x(data=[[1, 2], [3]]), TensorData, "inputs[0].data"),
        (x(data=[1, 2, 3, None]), TensorData, "inputs[0].data"),
        (x(data=[1, 2, 3, "NaN"]), TensorData, "inputs[0].data"),
        (x(data=[1, 2, 3, 1e300]), TensorData, "inputs[0].data"),
        (x(data=[True, False, True, True]), TensorData, "inputs[0].data"),
        (x(data={"a": 1}), TensorData, "inputs[0].data"),
        (x(data=None), TensorData, "inputs[0].data"),
        ({"name": "x", "datatype": "FP32", "shape": [2, 2]}, TensorData, "inputs[0].data"),
        (x(shape=[100, 2], data=[0.0] * 200), PayloadTooLarge, "inputs[0].shape"),
        (x(shape=[2**62, 2]), PayloadTooLarge, "inputs[0].shape"),
        ("x", InvalidRequest, "inputs[0]"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(row: object, error: type[MarketError], field: str):
    with pytest.raises(error) as raised:
        decode_request(body(row), manifest())
    assert raised.value.field == field
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"inputs": [{"name": "x", "data": [NaN]}]}', "body"),
        (b"\xff", "body"),
        (b"{}", "inputs"),
        (b'{"inputs": {}}', "inputs"),
        (b'{"inputs": [], "id": 3}', "id"),
    ],
)
def test_a_body_of_another_form_is_refused(raw: bytes, field: str):
    with pytest.raises(InvalidRequest) as raised:
        decode_request(raw, manifest())
    assert raised.value.field == field


def test_a_missing_input_and_a_doubled_one_are_named():
    with pytest.raises(WrongTensorName, match="missing x"):
        decode_request(body(), manifest())
    with pytest.raises(WrongTensorName, match="twice"):
        decode_request(body(x(), x()), manifest())


@pytest.mark.parametrize(
    ("datatype", "data", "good"),
    [
        ("INT64", [2**63 - 1], True),
        ("INT64", [2**63], False),
        ("INT64", [1.0], False),
        ("INT64", [True], False),
        ("INT64", ["1"], False),
        ("INT8", [-128], True),
        ("INT8", [-129], False),
        ("UINT8", [255], True),
        ("UINT8", [-1], False),
        ("UINT64", [2**64 - 1], True),
        ("UINT64", [2**64], False),
        ("BOOL", [True], True),
        ("BOOL", [1], False),
        ("FP16", [65504.0], True),
        ("FP16", [1e6], False),
        ("FP64", [1e300], True),
        ("BYTES", ["é"], True),
        ("BYTES", [1], False),
    ],
)
def test_elements_must_fit_their_datatype(datatype: str, data: list, good: bool):
    m = manifest(TensorSpec("x", datatype, (1,)))
    raw = (
        body({"name": "x", "datatype": datatype, "shape": [1], "data": data})
        if data != [2**64]
        else (b'{"inputs":[{"name":"x","datatype":"UINT64","shape":[1],"data":[18446744073709551616]}]}')
    )
    if good:
        value = decode_request(raw, m).tensors[0].to_numpy()[0]
        assert (value.decode() if datatype == "BYTES" else value) == data[0]
    else:
        with pytest.raises(TensorData):
            decode_request(raw, m)


@pytest.mark.parametrize("datatype", ["INT64", "UINT8", "FP16", "BF16", "FP64"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("rows", [1, 500])
def test_truth_values_among_numbers_are_no_numbers(datatype: str, nested: bool, rows: int):
    m = manifest(TensorSpec("x", datatype, (-1, 2)), batch_axis=None, max_elements=1_000)

    def tensor(last: object) -> bytes:
        data = [[0, 1]] * (rows - 1) + [[0, last]]
        flat = data if nested else [item for row in data for item in row]
        return body({"name": "x", "datatype": datatype, "shape": [rows, 2], "data": flat})

    assert decode_request(tensor(1), m).tensors[0].shape == (rows, 2)
    for value in (True, False):
        with pytest.raises(TensorData, match="true or false") as refusal:
            decode_request(tensor(value), m)
        assert refusal.value.field == "inputs[0].data"


def test_rows_must_agree_and_stay_within_the_batch():
    m = manifest(TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "INT64", (-1,)), batch_axis=0, max_batch=2)

    def rows(a: int, b: int) -> bytes:
        return body(*({"name": n, "datatype": "INT64", "shape": [k], "data": [0] * k} for n, k in (("a", a), ("b", b))))

    decode_request(rows(2, 2), m)
    with pytest.raises(WrongTensorShape, match="disagree"):
        decode_request(rows(1, 2), m)
    with pytest.raises(PayloadTooLarge, match="at most 2"):
        decode_request(rows(3, 3), m)


def test_requested_outputs_must_exist():
    assert decode_request(body(x(), outputs=[{"name": "z"}]), manifest()).outputs == ("z",)
    for outputs in ([{"name": "q"}], [{"name": "z"}, {"name": "z"}], ["z"]):
        with pytest.raises(WrongTensorName):
            decode_request(body(x(), outputs=outputs), manifest())


def test_transport_parameters_of_stock_clients_are_not_the_models():
    decoded = decode_request(body(x(), parameters={"binary_data_output": True, "timeout": 3}), manifest())
    assert decoded.parameters == {}
    with pytest.raises(InvalidRequest):
        decode_request(body(x(), parameters={"k": {}}), manifest())


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name in NUMPY_DTYPES])
def test_an_answer_keeps_every_bit(datatype: str):
    dtype = NUMPY_DTYPES[datatype]
    rng = np.random.default_rng(7)
    values = rng.standard_normal(50) if dtype.kind == "f" else rng.integers(0, 2, 50)
    tensor = Tensor.from_numpy("y", values.astype(dtype).reshape(5, 10))
    answer = orjson.loads(encode_answer("m", "id-1", [tensor]))
    assert answer["model_name"] == "m"
    assert answer["id"] == "id-1"
    assert answer["outputs"][0]["shape"] == [5, 10]
    assert np.array(answer["outputs"][0]["data"], dtype=dtype).tobytes() == tensor.data
