"""What strangers' bytes reach first: each target takes any bytes and may raise only what its caller answers for.

Used briefly by `test_targets` on every run of the tests, for as long as one likes by `make fuzz`. `SEEDS` are honest
inputs to start from.
"""

import json
from contextlib import suppress

import msgpack
import numpy as np
import orjson
from onnx import TensorProto, helper

from contracts.protocol import link_contents, link_frames, messages
from contracts.protocol.errors import CodedError, ManifestError, MessageError, TensorError
from contracts.protocol.link import check_hello, decode_challenge
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor, decode_tensors, encode_tensors
from contracts.protocol.typed_data import Domain
from market.gateway.grpc import codec
from market.gateway.grpc import messages as grpc_messages
from market.gateway.problems import status_of
from market.gateway.tensors_json import decode_request
from tests.support import tiny_llm
from tests.support.worker import make_job
from workers.errors import ModelError, UnsafePackage
from workers.models.generation.config import read_config
from workers.models.isolated.messages import read_outcomes
from workers.models.screening import screen
from workers.models.wire import Garbled, _unpacked

Y = TensorSpec("y", "FP32", (-1, 3))


def described(*inputs, outputs=(Y,), **more):
    files = {name: FileEntry(bytes(32), 1) for name in ("model.onnx", "genai_config.json", "tokenizer.json")}
    fields = {"task": "tensor", "entry": "model.onnx", "files": files, "inputs": inputs, "outputs": outputs}
    return Manifest(**(fields | {"unit": Unit.ROW, "batch_axis": 0, "license": "MIT"} | more))


NUMBERS = described(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("i", "INT64", (-1,)))
TEXTS = described(TensorSpec("text", "BYTES", (-1,)), task="text-embedding", tokenizer="tokenizer.json")
WRITER = described(TensorSpec("prompt", "BYTES", (1,)), task="text-generation", entry="genai_config.json")
DOMAIN, GATEWAY = Domain(31337, b"\xee" * 20), b"\x01" * 20


def tensors(data):
    """The canonical codec: what it takes it writes again to the byte."""
    try:
        found, parameters = decode_tensors(data)
    except TensorError:
        return
    assert encode_tensors(found, parameters) == data
    for one in found:
        one.to_numpy()


def body(data):
    """An inference request over HTTP, JSON or with binary tensors behind it: a refusal is the client's, never a 500."""
    length, rest = data[:1], data[1:]
    for manifest in (NUMBERS, TEXTS):
        try:
            decode_request(rest, manifest, str(length[0]) if length and length != b"\xff" else None)
        except CodedError as error:
            assert 400 <= status_of(type(error)) < 500, error


def grpc(data):
    """An inference request over gRPC."""
    try:
        message = codec.parse(data)
        codec.read_payment(message, {})
        codec.decode(message, NUMBERS)
    except CodedError as error:
        assert 400 <= status_of(type(error)) < 500, error


def queue(data):
    """Messages of the queue: packs, papers, results, announcements."""
    for read in (messages.decode_pack, messages.decode_papers, messages.decode_results, messages.decode_announcement):
        with suppress(MessageError):
            read(data)


def link(data):
    """The link: frames, and what is said in them."""
    with suppress(MessageError):
        frame = link_frames.decode_frame(data)
        inbox = link_frames.Inbox()
        inbox.take(frame)
    for read in (
        decode_challenge,
        link_contents.Stop.from_bytes,
        link_contents.Renewal.from_bytes,
        link_contents.Bye.from_bytes,
        lambda said: link_contents.ForwardedPack(said).take_out(1 << 20, lambda *_: "k"),
        link_contents.ForwardedResults,
        lambda said: check_hello(said, b"c", GATEWAY, DOMAIN, 0.0),
        link_frames.Seal(b"k" * 32).open,
    ):
        with suppress(CodedError):
            read(data)


def screening(data):
    """A stranger's ONNX file."""
    with suppress(UnsafePackage):
        screen(data, "model.onnx", frozenset({"weights.data"}))


def loading(data):
    """What passes the screening, opened by onnxruntime as in a model's process; a crash there is what the sandbox is for."""
    from workers.models.runtime import open_session

    try:
        screen(data, "model.onnx", frozenset())
    except UnsafePackage:
        return
    with suppress(Exception):
        open_session(data, provider="cpu", threads=1)


def manifest(data):
    """A package's manifest: what is taken is canonical."""
    try:
        found = Manifest.parse(data)
    except ManifestError:
        return
    assert found.to_bytes() == data


def configuration(data):
    """A package's genai_config.json."""
    with suppress(ModelError):
        read_config(data, WRITER)


def outcomes(data):
    """What a model's process answers."""
    size = min(data[0] if data else 0, len(data))
    try:
        said = _unpacked(memoryview(data)[1 : size + 1])
        found = read_outcomes(said, memoryview(data)[size + 1 :], 1, NUMBERS, {0, 1})
    except Garbled:
        return
    assert set(found) <= {0, 1}


def _graph():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=_branch("a"), else_branch=_branch("b")),
    ]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.ones(12, "f4").tobytes(), raw=True),
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _branch(name):
    return helper.make_graph(
        [helper.make_node("Relu", ["h"], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
    )


def _said():
    shapes = [["y", "FP32", [2, 3], 24]]
    said = msgpack.packb(["did", 1, [[0, 1, shapes]], [[1, "execution-failed", "x", None]]])
    return bytes([len(said)]) + said + b"\0" * 24


def _bodies():
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    i = {"name": "i", "datatype": "INT64", "shape": [1], "data": [7]}
    plain = orjson.dumps({"id": "1", "inputs": [{**x, "data": [[1, 2.5, 3, 4]]}, i]})
    head = orjson.dumps({"inputs": [{**x, "parameters": {"binary_data_size": 16}}, i]})
    text = orjson.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["ü"]}]})
    return [b"\xff" + plain, b"\xff" + text, bytes([len(head)]) + head + b"\0" * 16, b"\0" + b"\0" * 16]


def _grpc_request():
    message = grpc_messages.ModelInferRequest(model_name="m", id="7")
    row = message.inputs.add(name="x", datatype="FP32", shape=(1, 4))
    row.contents.fp32_contents.extend([1, 2, 3, 4])
    row = message.inputs.add(name="i", datatype="INT64", shape=(1,))
    row.contents.int64_contents.extend([1])
    message.parameters["market_max_price"].string_param = "0.10"
    return message.SerializeToString()


_JOB = make_job(NUMBERS)[0]
_PACK = messages.encode_pack(messages.Pack(jobs=(_JOB,), papers=messages.Papers()))
_RESULTS = messages.encode_results(
    [messages.Result(b"r" * 32, "1", ok=True, outputs=b"IMT1", output_hash=b"o" * 32, served_at=5, signature=b"s" * 65)]
)
TARGETS = {
    one.__name__: one
    for one in (tensors, body, grpc, queue, link, screening, loading, manifest, configuration, outcomes)
}
SEEDS = {
    "tensors": [
        encode_tensors([Tensor.from_numpy("x", np.ones((2, 4), "f4"))], {"a": [1, "ü"]}),
        encode_tensors([Tensor.from_numpy("t", np.array([b"a", b"bc"], dtype=object))]),
    ],
    "body": _bodies(),
    "grpc": [_grpc_request()],
    "queue": [_PACK, _RESULTS],
    "link": [
        link_frames.encode_frame(link_frames.Frame(link_frames.Kind.PACK, 1, 0, 0, _PACK)),
        _PACK,
        _RESULTS,
    ],
    "screening": [_graph()],
    "loading": [_graph()],
    "manifest": [NUMBERS.to_bytes(), TEXTS.to_bytes()],
    "configuration": [tiny_llm.files()["genai_config.json"], json.dumps({"model": {"decoder": {}}}).encode()],
    "outcomes": [_said()],
}
