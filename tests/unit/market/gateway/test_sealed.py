"""What a gateway asks of a request that it cannot read."""

from dataclasses import replace

import orjson
import pytest

from contracts.protocol.sealed import MAX_UNITS
from market.errors import InvalidRequest, MarketError, WrongTensorName, WrongTensorShape, WrongTensorType
from market.gateway.tensors_json import decode_request
from tests.support.money import manifest

MODEL = manifest()


def body(units=1, tensor=None, **changes):
    given = {"name": "sealed", "datatype": "UINT8", "shape": [3], "data": [1, 2, 3]} if tensor is None else tensor
    return orjson.dumps({"inputs": [given], "parameters": {"sealed_units": units}, **changes})


def test_it_takes_one_tensor_of_bytes_and_the_units():
    read = decode_request(body(7), MODEL)
    assert (read.tensors[0].name, bytes(read.tensors[0].data)) == ("sealed", b"\1\2\3")
    assert (read.parameters, read.outputs, read.binary) == ({"sealed_units": 7}, (), {})


def test_the_answer_may_be_asked_for_in_binary():
    wanted = [{"name": "sealed", "parameters": {"binary_data": True}}]
    read = decode_request(body(outputs=wanted), MODEL)
    assert (read.outputs, read.binary) == ((), {"sealed": True})


@pytest.mark.parametrize("units", [0, -1, MAX_UNITS + 1, "1", 1.5, True])
def test_units_out_of_bounds_are_named(units):
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body(units), MODEL)
    assert refused.value.field == "parameters.sealed_units"


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        ({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}, WrongTensorName),
        ({"name": "sealed", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}, WrongTensorType),
        ({"name": "sealed", "datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]}, WrongTensorShape),
        ({"name": "sealed", "datatype": "UINT8", "shape": [0], "data": []}, WrongTensorShape),
        ({"name": "sealed", "datatype": "UINT8", "shape": [3], "data": [1, 2, 256]}, MarketError),
    ],
)
def test_other_tensors_are_refused(tensor, error):
    with pytest.raises(error):
        decode_request(body(tensor=tensor), MODEL)


def test_parameters_in_the_open_are_refused():
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body(parameters={"sealed_units": 1, "prompt": "secret"}), MODEL)
    assert refused.value.field == "parameters.prompt"


def test_outputs_by_name_are_refused():
    with pytest.raises(WrongTensorName):
        decode_request(body(outputs=[{"name": "y"}]), MODEL)


def test_a_chat_is_sealed_with_its_parameters_inside():
    read = decode_request(body(64), replace(MODEL, task="text-generation"))
    assert read.parameters == {"sealed_units": 64}
    with pytest.raises(InvalidRequest) as refused:
        decode_request(body(parameters={"sealed_units": 64, "max_tokens": 3}), replace(MODEL, task="text-generation"))
    assert refused.value.field == "parameters.max_tokens"
