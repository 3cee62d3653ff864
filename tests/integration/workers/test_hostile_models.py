"""Models that want more than to compute: refused by their bytes, or dead in the process that tried them first."""

import contextlib
import hashlib
import os
import secrets
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from contracts.protocol.manifest import FILENAME, FileEntry, Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from tests.support import demands
from tests.support.worker import make_mlp, write_package
from workers.errors import ModelUnusable, UnsafePackage
from workers.models import operators, sandbox
from workers.models.isolated.model import try_package
from workers.models.sandbox import Confinement
from workers.models.screening import screen
from workers.models.store import Package

pytestmark = pytest.mark.integration
FLOAT = TensorProto.FLOAT


def value(name: str, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, *, initializers=(), domains=(("", 17),), sparse=(), functions=()) -> bytes:
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 4])], [value("y", None)], list(initializers))
    graph.sparse_initializer.extend(sparse)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in domains], ir_version=8)
    made.functions.extend(functions)
    return made.SerializeToString()


def identity(name: str = "y"):
    return helper.make_node("Identity", ["x"], [name])


def loop() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL)],
        [value("d", [], TensorProto.BOOL)],
    )
    most = numpy_helper.from_array(np.array(2**62), "most")
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([helper.make_node("Loop", ["most", "yes"], [], body=body), identity()], initializers=[most, yes])


def outside(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[tensor])


def nested(depth: int):
    nodes = [identity("z")]
    for number in range(depth):
        branch = helper.make_graph(nodes, f"b{number}", [], [value("z", None)])
        nodes = [helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)]
    return model([*nodes, identity()], initializers=[numpy_helper.from_array(np.array(True), "c")])


def sparse() -> bytes:
    values = numpy_helper.from_array(np.ones(1, "f4"), "s")
    indices = numpy_helper.from_array(np.zeros(1, "i8"), "i")
    return model([identity()], sparse=[onnx.SparseTensorProto(values=values, indices=indices, dims=[4])])


HUGE = TensorProto(name="w", data_type=FLOAT, dims=[2**31, 2**31])
FUNCTION = helper.make_function("mine", "F", ["x"], ["y"], [identity()], [helper.make_opsetid("", 17)])
CORPUS = {
    "an endless loop": loop(),
    "an operator of nobody knows whom": model(
        [helper.make_node("Run", ["x"], ["y"], domain="evil")], domains=(("", 17), ("evil", 1))
    ),
    "one of Microsoft's that is not on the list": model(
        [helper.make_node("Snpe", ["x"], ["y"], domain="com.microsoft")], domains=(("", 17), ("com.microsoft", 1))
    ),
    "one that no standard has": model([helper.make_node("Run", ["x"], ["y"])]),
    "a standard one under another domain": model(
        [helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx.ml")], domains=(("", 17), ("ai.onnx.ml", 3))
    ),
    "numbers drawn at random": model([helper.make_node("RandomNormalLike", ["x"], ["y"])]),
    "a picture to be decoded": model([helper.make_node("ImageDecoder", ["x"], ["y"])]),
    "a function of its own": model([identity()], functions=[FUNCTION]),
    "weights in /etc": outside("/etc/passwd"),
    "weights above the package": outside("../../secret"),
    "weights that are not the package's": outside("other.data"),
    "sparse weights": sparse(),
    "a tensor of absurd size": model([identity()], initializers=[HUGE]),
    "operators of the future": model([identity()], domains=(("", 400),)),
    "graphs within graphs within graphs": nested(6),
    "no graph": b"",
    "garbage": secrets.token_bytes(500),
    "half a file": model([identity()])[:-5],
}


@pytest.mark.parametrize("what", CORPUS)
def test_a_hostile_file_is_refused_by_its_bytes(what):
    with pytest.raises(UnsafePackage) as raised:
        screen(CORPUS[what], "model.onnx", frozenset({"model.onnx", "weights.data"}))
    assert raised.value.field == "model.onnx"


def test_the_lists_name_operators_that_there_are():
    names = {(one.domain, one.name) for one in onnx.defs.get_all_schemas()} | {("", "SimplifiedLayerNormalization")}
    for domain in ("", "ai.onnx.ml"):
        assert {(domain, name) for name in operators.ALLOWED[domain]} <= names
    assert len(operators.STANDARD) > 180


def test_weights_in_the_package_and_common_operators_are_taken(tmp_path):
    screen(outside("weights.data"), "model.onnx", frozenset({"weights.data"}))
    make_mlp(tmp_path / "m.onnx")
    screen((tmp_path / "m.onnx").read_bytes(), "m.onnx", frozenset())
    gelu = helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")
    screen(model([gelu], domains=(("", 17), ("com.microsoft", 1))), "m.onnx", frozenset())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 10_000))
def test_whatever_is_changed_in_a_file_it_is_taken_or_refused(noise, place):
    data = bytearray(CORPUS["an endless loop"])
    data[place % len(data) : place % len(data) + len(noise)] = noise
    with contextlib.suppress(UnsafePackage):
        screen(bytes(data), "model.onnx", frozenset())


# --- what only shows when it is opened ---


def package(folder, data: bytes) -> Package:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    manifest = Manifest(
        task="tensor",
        entry="model.onnx",
        files={"model.onnx": FileEntry(hashlib.sha256(data).digest(), len(data))},
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("y", "FP32", (-1, 4)),),
        unit=Unit.ROW,
        batch_axis=0,
        max_batch=8,
        license="MIT",
    )
    (folder / FILENAME).write_bytes(manifest.to_bytes())
    return Package(manifest.model_id, manifest, folder)


def attempt(made: Package, *, bubblewrap: str | None = None, seconds: float = 60, memory_bytes: int = 1 << 30) -> int:
    return try_package(made, Confinement(bubblewrap, memory_bytes, load_seconds=seconds))


@pytest.fixture(params=["alone", "bubblewrap"])
def boxed(request):
    if request.param == "alone":
        return None
    return demands.sandbox()


def test_an_honest_model_passes(tmp_path, boxed):
    manifest = write_package(tmp_path / "p")
    assert 1 <= attempt(Package(manifest.model_id, manifest, tmp_path / "p"), bubblewrap=boxed) <= manifest.max_batch


def test_a_refusal_says_what_is_wrong(tmp_path, boxed):
    with pytest.raises(UnsafePackage, match="Loop"):
        attempt(package(tmp_path / "p", loop()), bubblewrap=boxed)


def test_a_model_that_eats_memory_dies_alone(tmp_path, boxed):
    shape = numpy_helper.from_array(np.array([1 << 18, 1 << 17]), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    with pytest.raises(ModelUnusable):
        attempt(package(tmp_path / "p", model(nodes, initializers=[shape])), bubblewrap=boxed)


def test_a_model_that_takes_for_ever_is_killed(tmp_path, boxed):
    side = numpy_helper.from_array(np.array([3_000, 3_000]), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["m0"]), identity()]
    nodes[1:1] = [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(400)]
    started = time.monotonic()
    with pytest.raises(ModelUnusable, match="not open after"):
        attempt(package(tmp_path / "p", model(nodes, initializers=[side])), bubblewrap=boxed, seconds=4)
    assert time.monotonic() - started < 15


def test_a_process_that_dies_is_a_reason_not_to_open_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "box", lambda *_, **__: ["sh", "-c", "kill -SEGV $$"])
    with pytest.raises(ModelUnusable, match="died"):
        attempt(package(tmp_path / "p", model([identity()])))


def test_in_the_box_there_is_no_network_and_nothing_to_read_or_write(tmp_path):
    program = demands.sandbox()
    (tmp_path / "secret").write_text("key")
    folder = tmp_path / "p"
    folder.mkdir()
    read = f"ls {tmp_path}/secret /home {sandbox.ROOT}/README.md {sandbox.ROOT}/market {Path.home()}/.bashrc"
    look = f"{read}; touch {folder}/x; touch /x; cat /proc/net/dev; ls -d /proc/[0-9]*"
    box = sandbox.box(folder, Confinement(program, 1 << 30))
    done = subprocess.run([*box, "sh", "-c", look], capture_output=True, text=True, env={"PATH": os.defpath})
    assert done.stderr.count("No such file") == 5
    assert done.stderr.count("Read-only file system") == 2
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line] == ["lo"]
    assert done.stdout.count("/proc/") <= 4  # of its own processes, none of the machine's
