"""Requests that no model takes, for each of the gateway's doors, and the refusal that each must get.

The models they are sent to are laid out here too: `mixed` hands its inputs back, `vast` takes very long vectors.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from contracts.protocol.tensors import pack_bytes
from market.sdk import packages
from market.sdk.packages import parse_spec
from tests.support import models, tiny_llm

HEADER_LENGTH = "Inference-Header-Content-Length"
MIXED = {"f": ("FP32", 4), "h": ("FP16", 2), "b": ("BOOL", 2), "i": ("UINT8", 2), "t": ("BYTES", 1)}
_ONNX = {
    "FP32": TensorProto.FLOAT,
    "FP16": TensorProto.FLOAT16,
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "BYTES": TensorProto.STRING,
}
GOOD = {
    "f": np.arange(4, dtype="<f4").reshape(1, 4),
    "h": np.ones((1, 2), "<f2"),
    "b": np.array([[True, False]]),
    "i": np.array([[1, 2]], "u1"),
    "t": np.array([["text"]], dtype=object),
}
ROWS, WRITER_CONTEXT, TEXTS = 8, 256, 64


def lay_models(folder: Path) -> tuple[Path, ...]:
    """Write the packages: `mixed`, `vast`, and one for each task that has a route of its own."""
    _identity(folder / "mixed", MIXED, batch_axis=0, max_batch=ROWS)
    _identity(folder / "vast", {"v": ("FP32", 0)}, max_elements=1 << 25)
    for name in ("writer", "caller", "embedder", "ranker", "pictures"):
        (folder / name).mkdir()
    tiny_llm.package(folder / "writer")
    tiny_llm.tool_package(folder / "caller")
    models.embedding_package(folder / "embedder")
    models.ranker_package(folder / "ranker")
    models.image_classifier_package(folder / "pictures")
    return tuple(sorted(folder.iterdir()))


def _identity(folder: Path, tensors: dict[str, tuple[str, int]], **fields: Any) -> None:
    folder.mkdir(parents=True)
    shapes = {name: ["N", width] if width else ["N"] for name, (_, width) in tensors.items()}
    values = [
        [helper.make_tensor_value_info(f"{side}{name}", _ONNX[tensors[name][0]], shapes[name]) for name in tensors]
        for side in ("", "out_")
    ]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in tensors]
    made = helper.make_model(
        helper.make_graph(nodes, "identity", *values), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, folder / "model.onnx")
    specs = [
        [f"{side}{name}:{datatype}:-1" + (f",{width}" if width else "") for name, (datatype, width) in tensors.items()]
        for side in ("", "out_")
    ]
    inputs, outputs = (tuple(map(parse_spec, each)) for each in specs)
    packages.pack(folder, inputs=inputs, outputs=outputs, **fields)


@dataclass(frozen=True)
class Bad:
    """One request and its refusal; `where` None where the refusal need not name one."""

    name: str
    code: str
    status: int = 400
    where: str | None = None
    path: str = "/v2/models/mixed/infer"
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    message: Callable[[], Any] | None = None

    def __str__(self) -> str:
        return self.name


def row(name: str, /, **changes: Any) -> dict[str, Any]:
    """Return one input of `mixed` as JSON; a change to None leaves the member out."""
    array = GOOD[name]
    whole = {"name": name, "datatype": MIXED[name][0], "shape": list(array.shape), "data": array.ravel().tolist()}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def mixed(name: str | None = None, changes: dict[str, Any] | None = None, **members: Any) -> bytes:
    """Return a body for `mixed` with one input changed."""
    rows = [row(one, **(changes or {} if one == name else {})) for one in MIXED]
    return json.dumps({"inputs": rows, **members}).encode()


def _vast(shape: list[Any], data: list[float]) -> bytes:
    return json.dumps({"inputs": [{"name": "v", "datatype": "FP32", "shape": shape, "data": data}]}).encode()


def _tensor(name: str, code: str, where: str, changes: dict[str, Any], *, status: int = 400) -> list[Bad]:
    """Return a changed input of `mixed`; `name` begins with the input's."""
    index = list(MIXED).index(name[0])
    return [Bad(name, code, status, f"inputs[{index}]{where}", content=mixed(name[0], changes))]


_GOOD = mixed()
NESTED = 100_000

JSON: list[Bad] = [
    # what is no body of this protocol
    Bad("empty", "invalid-request", where="body"),
    Bad("cut short", "invalid-request", where="body", content=_GOOD[:-7]),
    Bad("a list", "invalid-request", where="body", content=b"[1]"),
    Bad("wrong UTF-8", "invalid-request", where="body", content=b'{"inputs": "\xff\xfe"}'),
    Bad("wrong UTF-8 in a text", "invalid-request", where="body", content=_GOOD.replace(b'"text"', b'"\xc3("')),
    Bad("half a surrogate pair", "invalid-request", where="body", content=_GOOD.replace(b'"text"', b'"\\ud800"')),
    Bad("NaN", "invalid-request", where="body", content=_GOOD.replace(b"3.0", b"NaN")),
    Bad("Infinity", "invalid-request", where="body", content=_GOOD.replace(b"3.0", b"-Infinity")),
    Bad("nested without end", "invalid-request", where="body", content=b'{"inputs":' + b"[" * NESTED + b"]" * NESTED),
    Bad("no inputs", "invalid-request", where="inputs", content=b"{}"),
    Bad("inputs as an object", "invalid-request", where="inputs", content=b'{"inputs": {}}'),
    Bad("an input as a number", "invalid-request", where="inputs[0]", content=b'{"inputs": [1]}'),
    Bad("inputs missing", "tensor-name", where="inputs", content=json.dumps({"inputs": [row("f")]}).encode()),
    Bad("an input twice", "tensor-name", where="inputs[1]", content=json.dumps({"inputs": [row("f")] * 2}).encode()),
    Bad("an unknown input", "tensor-name", where="inputs[0]", content=mixed("f", {"name": "g"})),
    Bad("an id of 300", "invalid-request", where="id", content=mixed(id="i" * 300)),
    Bad("an id that is a number", "invalid-request", where="id", content=mixed(id=7)),
    Bad("parameters as a list", "invalid-request", where="parameters", content=mixed(parameters=[1])),
    Bad("an unknown parameter", "invalid-request", where="parameters.beams", content=mixed(parameters={"beams": 4})),
    Bad("a nested parameter", "invalid-request", where="parameters.'a'", content=mixed(parameters={"a": {}})),
    Bad("a sequence", "invalid-request", where="parameters.sequence_id", content=mixed(parameters={"sequence_id": 3})),
    Bad("an unknown output", "tensor-name", where="outputs[0]", content=mixed(outputs=[{"name": "y"}])),
    Bad("an output twice", "tensor-name", where="outputs[1]", content=mixed(outputs=[{"name": "out_f"}] * 2)),
    Bad("outputs as a text", "invalid-request", where="outputs", content=mixed(outputs="out_f")),
    Bad(
        "a class of an output",
        "invalid-request",
        where="outputs[0].parameters.classification",
        content=mixed(outputs=[{"name": "out_f", "parameters": {"classification": 3}}]),
    ),
    # shapes
    *_tensor("f of ten million", "payload-too-large", ".shape", {"shape": [2_500_000, 4]}, status=413),
    *_tensor("f of 2^62", "payload-too-large", ".shape", {"shape": [1 << 60, 4]}, status=413),
    *_tensor("f of 10^30", "tensor-shape", ".shape", {"shape": [1e30, 4]}),
    *_tensor("f of no rows", "tensor-shape", ".shape", {"shape": [0, 4], "data": []}),
    *_tensor("f of no columns", "tensor-shape", ".shape", {"shape": [1, 0], "data": []}),
    *_tensor("f of minus one", "tensor-shape", ".shape", {"shape": [-1, 4]}),
    *_tensor("f of 1.0", "tensor-shape", ".shape", {"shape": [1.0, 4]}),
    *_tensor("f of true", "tensor-shape", ".shape", {"shape": [True, 4]}),
    *_tensor("f without rank", "tensor-shape", ".shape", {"shape": [], "data": [1]}),
    *_tensor("f of rank 40", "tensor-shape", ".shape", {"shape": [1] * 39 + [4]}),
    *_tensor("f without shape", "tensor-shape", ".shape", {"shape": None}),
    Bad("rows that disagree", "tensor-shape", where="inputs", content=mixed("f", {"shape": [2, 4], "data": [1] * 8})),
    Bad(
        "too many rows",
        "payload-too-large",
        413,
        "inputs",
        content=json.dumps(
            {"inputs": [row(n, shape=[9, *GOOD[n].shape[1:]], data=GOOD[n].ravel().tolist() * 9) for n in MIXED]}
        ).encode(),
    ),
    Bad(
        "ten million announced, one sent",
        "tensor-data",
        where="inputs[0].data",
        path="/v2/models/vast/infer",
        content=_vast([10_000_000], [1.0]),
    ),
    # data
    *_tensor("f of FP64", "tensor-datatype", ".datatype", {"datatype": "FP64"}),
    *_tensor("f of no type", "tensor-datatype", ".datatype", {"datatype": None}),
    *_tensor("f too short", "tensor-data", ".data", {"data": [1, 2, 3]}),
    *_tensor("f too long", "tensor-data", ".data", {"data": [1] * 5}),
    *_tensor("f without data", "tensor-data", ".data", {"data": None}),
    *_tensor("f as a text", "tensor-data", ".data", {"data": "1234"}),
    *_tensor("f with null", "tensor-data", ".data", {"data": [1, 2, 3, None]}),
    *_tensor("f with texts", "tensor-data", ".data", {"data": ["1", "2", "3", "4"]}),
    *_tensor("f ragged", "tensor-data", ".data", {"data": [[1, 2], [3]]}),
    *_tensor("f nested otherwise", "tensor-shape", ".data", {"data": [[1, 2], [3, 4]]}),
    *_tensor("f beyond FP32", "tensor-data", ".data", {"data": [1, 2, 3, 1e39]}),
    *_tensor("h beyond FP16", "tensor-data", ".data", {"data": [1, 70_000]}),
    *_tensor("b of numbers", "tensor-data", ".data", {"data": [0, 1]}),
    *_tensor("i above UINT8", "tensor-data", ".data", {"data": [1, 256]}),
    *_tensor("i below UINT8", "tensor-data", ".data", {"data": [1, -1]}),
    *_tensor("i beyond 64 bits", "tensor-data", ".data", {"data": [1, 1 << 70]}),
    *_tensor("i of fractions", "tensor-data", ".data", {"data": [1, 1.5]}),
    *_tensor("t of numbers", "tensor-data", ".data", {"data": [1]}),
    *_tensor("t of two", "tensor-data", ".data", {"data": ["a", "b"]}),
    # headers
    Bad("packed as br", "invalid-request", where="Content-Encoding", content=_GOOD, headers={"Content-Encoding": "br"}),
    Bad("not packed", "invalid-request", where="body", content=_GOOD, headers={"Content-Encoding": "gzip"}),
    Bad("a price", "invalid-request", where="Market-Max-Price", content=_GOOD, headers={"Market-Max-Price": "1.5"}),
    Bad(
        "a request id", "invalid-request", where="Market-Request-Id", content=_GOOD, headers={"Market-Request-Id": "1"}
    ),
    Bad("a worker", "invalid-request", where="Market-Worker", content=_GOOD, headers={"Market-Worker": "0x12"}),
    Bad("a stake", "invalid-request", where="Market-Min-Stake", content=_GOOD, headers={"Market-Min-Stake": "-1"}),
    Bad("a voucher", "invalid-voucher", where="Market-Voucher", content=_GOOD, headers={"Market-Voucher": "a;b;c"}),
    Bad("nine megabytes", "payload-too-large", 413, "body", content=b" " * (9 << 20)),
    Bad("version 7", "unknown-model", 404, "version", path="/v2/models/mixed/versions/7/infer", content=_GOOD),
    Bad("a model that nobody listed", "unknown-model", 404, "model", path="/v2/models/none/infer", content=_GOOD),
]


# --- raw tensor data behind the JSON ----------------------------------------------------------------------------------


def raw(name: str) -> bytes:
    array = GOOD[name]
    return pack_bytes(array.ravel().tolist(), name) if array.dtype == object else array.tobytes()


def binary(
    name: str | None = None, data: bytes = b"", /, *, size: Any = None, more: bytes = b"", **changes: Any
) -> Any:
    """Return the JSON and what follows it for `mixed`, all inputs raw; one with other data, or another size told."""
    rows, parts = [], []
    for one in MIXED:
        part = data if one == name and size is None else raw(one)
        told = size if one == name and size is not None else len(part)
        made = row(one, data=None, parameters={"binary_data_size": told})
        rows.append({**made, **changes} if one == name else made)
        parts.append(part)
    return json.dumps({"inputs": rows}).encode(), b"".join((*parts, more))


def _picture(width: int, height: int) -> bytes:
    """Return a PNG file whose header tells of a size that its data do not have."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _binary(name: str, code: str, where: str | None, made: Any, *, length: str | None = None, status: int = 400) -> Bad:
    head, rest = made
    told = str(len(head)) if length is None else length.replace("{}", str(len(head)))
    return Bad(name, code, status, where, content=head + rest, headers={HEADER_LENGTH: told})


NAN, INF = (np.array([1, 2, 3, value], "<f4").tobytes() for value in (np.nan, np.inf))
_PLAIN = binary()

BINARY: list[Bad] = [
    _binary("a length that is no number", "invalid-request", HEADER_LENGTH, _PLAIN, length="many"),
    _binary("an empty length", "invalid-request", HEADER_LENGTH, _PLAIN, length=""),
    _binary("a negative length", "invalid-request", HEADER_LENGTH, _PLAIN, length="-1"),
    _binary("a length in other digits", "invalid-request", HEADER_LENGTH, _PLAIN, length="\xb2"),
    _binary("a length of forty digits", "invalid-request", HEADER_LENGTH, _PLAIN, length="9" * 40),
    _binary("a length beyond the body", "invalid-request", HEADER_LENGTH, _PLAIN, length="{}0"),
    _binary("a length inside the JSON", "invalid-request", "body", _PLAIN, length="40"),
    _binary("a length of nothing for many inputs", "invalid-request", HEADER_LENGTH, _PLAIN, length="0"),
    _binary("a length over the data too", "invalid-request", "body", _PLAIN, length=str(sum(map(len, _PLAIN)))),
    _binary("bytes behind the last tensor", "invalid-request", "body", binary(more=b"more")),
    _binary("a size beyond the data", "invalid-request", None, binary("t", size=1 << 40)),
    _binary("a size below nothing", "invalid-request", None, binary("f", size=-1)),
    _binary("a size as a text", "invalid-request", None, binary("f", size="16")),
    _binary("a size that is not the shape's", "tensor-data", "inputs[0]", binary("f", b"\0" * 15)),
    _binary("data twice", "invalid-request", "inputs[0].data", binary("f", raw("f"), data=[1, 2, 3, 4])),
    _binary("NaN", "tensor-data", "inputs[0]", binary("f", NAN)),
    _binary("infinity", "tensor-data", "inputs[0]", binary("f", INF)),
    _binary("NaN of FP16", "tensor-data", "inputs[1]", binary("h", b"\0\x7e\0\0")),
    _binary("a truth value of 2", "tensor-data", "inputs[2]", binary("b", b"\1\2")),
    _binary("a text's length that lies", "tensor-data", "inputs[4]", binary("t", b"\xff\xff\xff\x7fabcd")),
    _binary("a text's length cut short", "tensor-data", "inputs[4]", binary("t", b"\0\0\0\0\1\0")),
    _binary("two texts for one", "tensor-data", "inputs[4]", binary("t", pack_bytes(["a", "b"], "t"))),
    _binary("wrong UTF-8", "tensor-data", "inputs[4]", binary("t", pack_bytes([b"\xc3("], "t"))),
    _binary("no rows", "tensor-shape", "inputs[0].shape", binary("f", b"", shape=[0, 4])),
    _binary("ten million", "payload-too-large", "inputs[0].shape", binary("f", shape=[2_500_000, 4]), status=413),
    Bad(
        "a body of data alone that fills no row",
        "tensor-shape",
        where="body",
        path="/v2/models/vast/infer",
        content=bytes(7),
        headers={HEADER_LENGTH: "0"},
    ),
    Bad(
        "a body of data alone that is no picture",
        "inputs-refused",
        where="image",
        path="/v2/models/pictures/infer",
        content=b"no picture",
        headers={HEADER_LENGTH: "0"},
    ),
    Bad(
        "a picture of ten gigapixels in few bytes",
        "inputs-refused",
        where="image",
        path="/v2/models/pictures/infer",
        content=_picture(100_000, 100_000),
        headers={HEADER_LENGTH: "0"},
    ),
    Bad("raw data without the header", "invalid-request", where=HEADER_LENGTH, content=_PLAIN[0]),
    Bad(
        "ten million announced, four bytes sent",
        "tensor-data",
        where="inputs[0]",
        path="/v2/models/vast/infer",
        content=(
            _head := json.dumps(
                {
                    "inputs": [
                        {
                            "name": "v",
                            "datatype": "FP32",
                            "shape": [10_000_000],
                            "parameters": {"binary_data_size": 4},
                        }
                    ]
                }
            ).encode()
        )
        + bytes(4),
        headers={HEADER_LENGTH: str(len(_head))},
    ),
]
