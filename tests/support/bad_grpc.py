"""ModelInfer calls that no model takes, and the refusal that each must get."""

from collections.abc import Callable
from typing import Any

from contracts.protocol.tensors import pack_bytes
from market.gateway.grpc import messages as m
from tests.support.bad_requests import GOOD, INF, MIXED, NAN, Bad, raw


def message(name: str | None = None, data: bytes | None = None, /, **changes: Any) -> Any:
    """Return a ModelInferRequest for `mixed` with raw contents, one input changed."""
    made = m.ModelInferRequest(model_name="mixed")
    for one, (datatype, _) in MIXED.items():
        fields = {"name": one, "datatype": datatype, "shape": GOOD[one].shape}
        made.inputs.add(**{**fields, **(changes if one == name else {})})
        made.raw_input_contents.append(data if one == name and data is not None else raw(one))
    return made


def typed(name: str, /, **contents: Any) -> Any:
    """Return the same with typed contents, those of one input changed."""
    made = message()
    del made.raw_input_contents[:]
    usual: dict[str, dict[str, Any]] = {
        "f": {"fp32_contents": [1, 2, 3, 4]},
        "h": {},
        "b": {"bool_contents": [True, False]},
        "i": {"uint_contents": [1, 2]},
        "t": {"bytes_contents": [b"text"]},
    }
    for one in made.inputs:
        for key, values in (contents if one.name == name else usual[one.name]).items():
            getattr(one.contents, key).extend(values)
    return made


def _with(change: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        made = message()
        change(made)
        return made

    return make


def _grpc(name: str, code: str, where: str | None, make: Callable[[], Any], status: int = 400) -> Bad:
    return Bad(name, code, status, where, message=make)


GRPC: list[Bad] = [
    _grpc("no message", "invalid-request", "message", lambda: b"\xff\xff\xff"),
    _grpc("wrong UTF-8 in a name", "invalid-request", "message", lambda: b"\x0a\x02\xc3("),
    _grpc("NaN", "tensor-data", "inputs[0]", lambda: message("f", NAN)),
    _grpc("typed NaN", "tensor-data", "inputs[0]", lambda: _finite_first(typed("h", fp32_contents=[1, 2]))),
    _grpc("infinity", "tensor-data", "inputs[0]", lambda: message("f", INF)),
    _grpc("too few bytes", "tensor-data", "inputs[0]", lambda: message("f", bytes(12))),
    _grpc("a text's length that lies", "tensor-data", "inputs[4]", lambda: message("t", b"\xff\xff\xff\x7fabcd")),
    _grpc("wrong UTF-8", "tensor-data", "inputs[4]", lambda: message("t", pack_bytes([b"\xc3("], "t"))),
    _grpc("a truth value of 2", "tensor-data", "inputs[2]", lambda: message("b", b"\1\2")),
    _grpc("ten million", "payload-too-large", "inputs[0].shape", lambda: message("f", shape=[2_500_000, 4]), 413),
    _grpc("2^62", "payload-too-large", "inputs[0].shape", lambda: message("f", shape=[1 << 60, 4]), 413),
    _grpc("no rows", "tensor-shape", "inputs[0].shape", lambda: message("f", b"", shape=[0, 4])),
    _grpc("minus one", "tensor-shape", "inputs[0].shape", lambda: message("f", shape=[-1, 4])),
    _grpc("no shape", "tensor-shape", "inputs[0].shape", lambda: message("f", shape=[])),
    _grpc("another type", "tensor-datatype", "inputs[0].datatype", lambda: message("f", datatype="FP64")),
    _grpc("an unknown input", "tensor-name", "inputs[0]", lambda: message("f", name="g")),
    _grpc("an input twice", "tensor-name", "inputs[1]", lambda: message("h", name="f")),
    _grpc(
        "inputs missing",
        "tensor-name",
        "inputs",
        _with(lambda made: (made.inputs.pop(), made.raw_input_contents.pop())),
    ),
    _grpc(
        "raw contents missing",
        "invalid-request",
        "raw_input_contents",
        _with(lambda made: made.raw_input_contents.pop()),
    ),
    _grpc(
        "raw and typed",
        "invalid-request",
        "inputs[0].contents",
        _with(lambda made: made.inputs[0].contents.fp32_contents.append(1)),
    ),
    _grpc("another field", "tensor-data", "inputs[0].contents", lambda: typed("f", fp64_contents=[1, 2, 3, 4])),
    _grpc("FP16 typed", "tensor-data", "inputs[1].contents", lambda: typed("h", fp32_contents=[1, 2])),
    _grpc("an unknown output", "tensor-name", "outputs[0]", _with(lambda made: made.outputs.add(name="y"))),
    _grpc("an id of 300", "invalid-request", "id", _with(lambda made: setattr(made, "id", "i" * 300))),
    _grpc(
        "an unknown parameter",
        "invalid-request",
        "parameters.beams",
        _with(lambda made: m.fill_parameters(made.parameters, {"beams": 4})),
    ),
    _grpc(
        "an unknown payment",
        "invalid-request",
        "parameters.market_tip",
        _with(lambda made: m.fill_parameters(made.parameters, {"market_tip": "1"})),
    ),
    _grpc(
        "shared memory",
        "invalid-request",
        None,
        _with(lambda made: m.fill_parameters(made.inputs[0].parameters, {"shared_memory_region": "a"})),
    ),
    _grpc(
        "a model that nobody listed",
        "unknown-model",
        "model",
        _with(lambda made: setattr(made, "model_name", "none")),
        404,
    ),
    _grpc("version 7", "unknown-model", "version", _with(lambda made: setattr(made, "model_version", "7")), 404),
]


def _finite_first(made: Any) -> Any:
    made.inputs[0].contents.fp32_contents[3] = float("nan")
    return made
