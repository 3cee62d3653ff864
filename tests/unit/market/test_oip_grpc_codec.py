"""The gRPC form of a request: typed and raw contents of every datatype, payment parameters, and what is refused."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.tensors import DATATYPES, NUMPY_DTYPES, Tensor, pack_bytes
from market.errors import InvalidRequest, InvalidVoucher, PayloadTooLarge, TensorData, WrongTensorName, WrongTensorShape
from market.gateway.grpc import codec, messages
from market.gateway.headers import read_headers
from market.gateway.problems import status_of

Y = TensorSpec("y", "FP32", (-1, 3))


def manifest(*inputs: TensorSpec, **more) -> Manifest:
    return Manifest(
        task=more.pop("task", "tensor"),
        entry="model.onnx",
        files={"model.onnx": FileEntry(bytes(32), 1)},
        inputs=inputs,
        outputs=(Y,),
        **{"batch_axis": 0, **more},
    )


TINY = manifest(TensorSpec("x", "FP32", (-1, 4)))


def request(*, name="x", datatype="FP32", shape=(1, 4), raw=None, parameters=None, **contents):
    message = messages.ModelInferRequest(model_name="m", id="7")
    row = message.inputs.add(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(row.contents, field).extend(values)
    if raw is not None:
        message.raw_input_contents.append(raw)
    messages.fill_parameters(message.parameters, parameters or {})
    return message


def test_the_descriptor_is_the_compiled_proto(tmp_path: Path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder = Path(str(files("market.gateway.grpc")))
    out = tmp_path / "descriptor.binpb"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={out}", "open_inference.proto"]) == 0
    compiled = FileDescriptorSet.FromString(out.read_bytes())
    assert compiled == FileDescriptorSet.FromString((folder / messages.DESCRIPTOR_FILE).read_bytes())


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name in codec._CONTENTS])
def test_typed_and_raw_contents_say_the_same(datatype):
    if datatype == "BYTES":
        values, data = [b"a", b"", "ü".encode()], pack_bytes([b"a", b"", "ü".encode()], "x")
    else:
        values = [1, 0, 1] if datatype == "BOOL" else [1, 2, 100]
        data = np.array(values, dtype=NUMPY_DTYPES[datatype]).tobytes()
    m = manifest(TensorSpec("x", datatype, (-1,)))
    typed = codec.decode(request(datatype=datatype, shape=(3,), **{codec._CONTENTS[datatype]: values}), m)
    raw = codec.decode(request(datatype=datatype, shape=(3,), raw=data), m)
    assert typed.tensors == raw.tensors == (Tensor("x", datatype, (3,), data),)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_travel_raw_only(datatype):
    m = manifest(TensorSpec("x", datatype, (-1,)))
    assert codec.decode(request(datatype=datatype, shape=(2,), raw=b"\x00\x3c\x00\x3c"), m).tensors[0].elements == 2
    with pytest.raises(TensorData, match="raw contents only"):
        codec.decode(request(datatype=datatype, shape=(2,), fp32_contents=[1, 2]), m)


ROW = np.ones((1, 4), "<f4").tobytes()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (request(), TensorData),
        (request(raw=ROW[:-1]), TensorData),
        (request(raw=ROW, fp32_contents=[1, 2, 3, 4]), InvalidRequest),
        (request(int_contents=[1, 2, 3, 4]), TensorData),
        (request(fp32_contents=[1, 2, 3, 4], int_contents=[1]), TensorData),
        (request(fp32_contents=[1, 2, float("nan"), 4]), TensorData),
        (request(shape=(-1, 4), raw=ROW), WrongTensorShape),
        (request(shape=(0, 4), raw=b""), WrongTensorShape),
        (request(shape=(10_000_000, 4), raw=ROW), PayloadTooLarge),
        (request(shape=(2**62, 4), raw=ROW), PayloadTooLarge),
        (request(name="z", raw=ROW), WrongTensorName),
        (request(raw=ROW, parameters={"market_vouchr": "x"}), InvalidRequest),
        (request(raw=ROW, parameters={"market_voucher": 7}), InvalidRequest),
        (request(raw=ROW, parameters={"market_voucher": "nonsense"}), InvalidVoucher),
        (request(raw=ROW, parameters={"market_request_id": "0x12"}), InvalidRequest),
    ],
)
def test_what_is_refused(message, error):
    with pytest.raises(error):
        codec.read_payment(message, {})
        codec.decode(message, TINY)


@pytest.mark.parametrize(
    ("datatype", "field", "value"), [("INT8", "int_contents", 128), ("UINT8", "uint_contents", 256)]
)
def test_small_integers_keep_their_range(datatype, field, value):
    m = manifest(TensorSpec("x", datatype, (-1,)))
    with pytest.raises(TensorData, match="outside"):
        codec.decode(request(datatype=datatype, shape=(1,), **{field: [value]}), m)


def test_raw_contents_answer_each_input():
    message = request(raw=ROW)
    message.raw_input_contents.append(ROW)
    with pytest.raises(InvalidRequest, match="2 for 1 inputs"):
        codec.decode(message, TINY)


def test_payment_parameters_override_metadata_and_are_no_model_parameters():
    voucher = f"0x{'11' * 32};500;0x{'22' * 65}"
    message = request(raw=ROW, parameters={"market_voucher": voucher, "market_max_price": "9", "priority": 3})
    paid = codec.read_payment(message, {"market-voucher": "nonsense", "market-request-id": "0x" + "33" * 32})
    assert paid.voucher is not None
    assert (paid.voucher.cumulative_amount, paid.max_price, paid.request_id) == (500, 9, b"\x33" * 32)
    assert codec.decode(message, TINY).parameters == {}


def test_the_limits_of_a_request_are_the_same_by_parameter_metadata_and_header():
    worker = "0x" + "11" * 20
    wishes = {"max_price": "9", "worker": worker, "region": "eu", "min_stake": "7", "hedge": "true"}
    by_parameter = codec.read_payment(request(raw=ROW, parameters={f"market_{k}": v for k, v in wishes.items()}), {})
    headers = {f"market-{name.replace('_', '-')}": value for name, value in wishes.items()}
    by_metadata = codec.read_payment(request(raw=ROW), headers)
    assert by_parameter == by_metadata == read_headers(headers)
    found = (
        by_parameter.max_price,
        by_parameter.worker,
        by_parameter.region,
        by_parameter.min_stake,
        by_parameter.hedge,
    )
    assert found == (9, bytes.fromhex("11" * 20), "eu", 7, True)
    for name, value in (("hedge", "perhaps"), ("min_stake", "-1"), ("region", ""), ("worker", "0x11")):
        with pytest.raises(InvalidRequest) as refused:
            read_headers({f"market-{name.replace('_', '-')}": value})
        assert refused.value.field == f"Market-{name.replace('_', '-').title()}"


def test_a_parameter_that_the_task_does_not_know_is_refused_by_its_name():
    with pytest.raises(InvalidRequest) as refused:
        codec.decode(request(raw=ROW, parameters={"sequence_id": 0, "temperature": 0.5}), TINY)
    assert refused.value.field == "parameters.temperature"


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    )
)
def test_parameters_there_and_back(parameters):
    message = messages.ModelInferRequest()
    messages.fill_parameters(message.parameters, parameters)
    parsed = messages.ModelInferRequest.FromString(message.SerializeToString())
    assert messages.plain_parameters(parsed.parameters) == parameters


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 200), st.integers(1, 255))
def test_any_bytes_are_taken_or_refused_never_broken(data, at, flip):
    good = bytearray(request(raw=ROW, parameters={"priority": 1}).SerializeToString())
    good[at % len(good)] ^= flip
    for candidate in (data, bytes(good)):
        try:
            message = codec.parse(candidate)
            codec.read_payment(message, {})
            codec.decode(message, TINY)
        except CodedError as error:
            assert 400 <= status_of(type(error)) < 500  # noqa: PT017
