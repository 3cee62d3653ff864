"""The short lane's reading and writing: the very same as the long way's, byte for byte."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.errors import CodedError, Retry
from contracts.protocol.messages import Result
from contracts.protocol.tensors import Tensor, encode_tensors
from market.gateway.headers import answer_headers
from market.gateway.infer_http import Answered
from market.gateway.plain_codec import PlainCodec
from market.gateway.plain_http import PlainHttp, _write
from market.gateway.tensors_json import InferenceBody, decode_request, encode_answer_for
from tests.support.gateway import payment, runtime_of
from tests.support.money import World, manifest
from tests.support.plain import put_lane_before

MODEL = manifest()
CODEC = PlainCodec("tiny", MODEL)
NUMBERS = st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=2))
NAME, DATATYPE = MODEL.inputs[0].name, MODEL.inputs[0].datatype


def row(data, shape=(1, 4), **changes):
    return {"name": NAME, "datatype": DATATYPE, "shape": list(shape), "data": data, **changes}


def long_way(body: bytes):
    try:
        read = decode_request(body, MODEL)
    except CodedError as error:
        return error.code
    return read, encode_tensors(read.tensors, read.parameters)


@given(
    st.lists(NUMBERS, min_size=3, max_size=9),
    st.sampled_from([(1, 4), (2, 4), (True, 4), (4,), (0, 4), (-1, 4), (1, 4.0), (10**9, 4)]),
)
def test_what_it_reads_the_long_way_reads_alike(data, shape):
    body = json.dumps({"inputs": [row(data, shape)]}).encode()
    found = CODEC.decode(body)
    assert found is None or found == long_way(body)


def test_it_reads_the_common_request():
    body = json.dumps({"inputs": [row([0.5, -1, 2.25, 1e-3])]}).encode()
    assert CODEC.decode(body) == long_way(body) != None  # noqa: E711


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [row([1, 2, 3, 4])], "id": "a"},
        {"inputs": [row([1, 2, 3, 4])], "outputs": [{"name": "y"}]},
        {"inputs": [row([1, 2, 3, 4])], "parameters": {}},
        {"inputs": [row([1, 2, 3, 4], parameters={})]},
        {"inputs": [row([[1, 2, 3, 4]])]},
        {"inputs": [row([1, 2, 3, True])]},
        {"inputs": [row([1, 2, 3, 1e300])]},
        {"inputs": [row([1, 2, 3, 4], name="z")]},
        {"inputs": [row([1, 2, 3, 4], datatype="FP64")]},
        {"inputs": [row([1, 2, 3, 4]), row([1, 2, 3, 4])]},
        {"inputs": {}},
        [],
        "inputs",
    ],
)
def test_it_leaves_what_is_not_plain(body):
    assert CODEC.decode(json.dumps(body).encode()) is None


def test_it_leaves_what_is_not_json():
    assert CODEC.decode(b'{"inputs": [') is None


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u8", "?"])
def test_it_writes_numbers_as_the_long_way_does(dtype):
    values = np.array([[0, 1, 0.1, 1e20 if dtype in ("f4", "f8") else 3]]).astype(dtype)
    tensors = (Tensor.from_numpy("y", values),)
    # As they come out of a message: at any place in it.
    shifted = (Tensor("y", tensors[0].datatype, tensors[0].shape, memoryview(b"x" + tensors[0].data)[1:]),)
    expected, _ = encode_answer_for(InferenceBody((), (), {}, None), "tiny", tensors, {})
    assert CODEC.encode(tensors) == CODEC.encode(shifted) == expected


def test_it_leaves_texts_and_several_outputs():
    text = Tensor.from_numpy("y", np.array(["a"], dtype=object))
    assert CODEC.encode((text,)) is None
    assert CODEC.encode((Tensor.from_numpy("y", np.zeros(1, "f4")),) * 2) is None


@pytest.mark.parametrize("asked", [{}, {"id": "me"}, {"binary_default": True}, {"outputs": ("y",)}])
async def test_the_whole_response_is_that_of_the_long_way(asked):
    world = World()
    await world.add_worker("w1")
    answer = await world.service.infer(world.request())
    body = InferenceBody((), asked.pop("outputs", ()), {}, asked.pop("id", None), **asked)
    content, length = encode_answer_for(body, "tiny", answer.tensors, answer.parameters)
    paid = answer_headers(answer)
    if length is not None:
        paid["Inference-Header-Content-Length"] = str(length)
    media = "application/json" if length is None else "application/octet-stream"
    expected = Answered(content, paid, media).to_bytes(b"date: now\r\n")
    assert _write("tiny", PlainCodec("tiny", MODEL), body, answer, b"date: now\r\n") == expected


async def test_who_cannot_pay_is_told_so_though_the_model_is_listed_no_longer():
    world = World()
    put_lane_before(world)
    cheap = await world.add_worker("cheap", price=100)
    await world.service.infer(world.request())  # the channel's account is loaded
    cheap.gate = asyncio.Event()
    cheap.tamper = lambda job, result: Result(
        job.request_id, job.attempt, ok=False, code="out-of-memory", retry=Retry.OTHER_WORKER, detail="no room"
    )
    await world.add_worker("dear", price=900)
    world.open_channel(deposited=500)
    body = json.dumps({"inputs": [row([1, 2, 3, 4])]}).encode()
    lines = [f"{name}: {value}" for name, value in {**payment(), "Content-Length": len(body)}.items()]
    sent = "\r\n".join(["POST /v2/models/tiny/infer HTTP/1.1", *lines, "", ""]).encode() + body
    told = asyncio.get_running_loop().create_future()
    assert PlainHttp(runtime_of(world), world.lane).begin(sent, "192.0.2.1", bytes, told.set_result)
    while cheap.served < 2:
        await asyncio.sleep(0)
    world.registry.by_id[world.listing.model_id] = replace(world.listing, active=False)
    cheap.gate.set()
    answer = await asyncio.wait_for(told, 10)
    assert (b" 402 " in answer, b"insufficient-deposit" in answer, b'"offers"' in answer) == (True,) * 3
    await world.service.close()
