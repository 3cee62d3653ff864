"""`worker tune` and `worker check` on strangers' models: they run as confined as when they are served."""

import math
import time

import pytest
from onnx import TensorProto, helper

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from tests.support import demands, models, tiny_llm
from tests.support.worker import make_mlp
from workers import checking, isolation
from workers.models import opening, runtime, sandbox, sessions, tuning
from workers.models.isolated import model as isolated
from workers.models.sandbox import Confinement
from workers.models.sessions import SessionCache
from workers.models.wire import Garbled
from workers.settings import WorkerSettings

pytestmark = pytest.mark.integration


@pytest.fixture(params=["alone", "bubblewrap"])
def bubblewrap(request):
    if request.param == "alone":
        return None
    return demands.sandbox()


@pytest.fixture
def never_opened_here(monkeypatch):
    """Fail where a model is opened in this process."""

    def opened(*_, **__):
        raise AssertionError("a stranger's model was opened in the worker's own process")

    for module in (opening, sessions, tuning):
        monkeypatch.setattr(module, "open_model", opened)
    monkeypatch.setattr(runtime, "InferenceSession", opened)


@pytest.fixture
def mlp(tmp_path):
    make_mlp(tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    fields = {
        "task": "tensor",
        "inputs": (TensorSpec("x", "FP32", (-1, 4)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 3)),),
        "max_batch": 4,
        "options": {"variants": ["half.onnx"]},
    }
    folder = tmp_path / "p"
    return models.fetched(folder, models.write(folder, {"model.onnx": data, "half.onnx": data}, **fields))


def greedy(tmp_path, side):
    """A model that multiplies a square of ones with itself, whatever it is given."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "side"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["m"]),
            helper.make_node("MatMul", ["m", "m"], ["n"]),
            helper.make_node("ReduceSum", ["n"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("side", TensorProto.INT64, [1], [side])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    manifest = models.write(
        tmp_path / "p",
        {"model.onnx": data},
        task="tensor",
        inputs=(TensorSpec("x", "INT64", (2,)),),
        outputs=(TensorSpec("y", "FP32", ()),),
        unit=Unit.REQUEST,
        batch_axis=None,
    )
    return models.fetched(tmp_path / "p", manifest)


def measure(package, confinement, monkeypatch, cores=1):
    monkeypatch.setattr(tuning, "usable_cores", lambda: cores)
    return tuning.measure(package, say=lambda row: None, run_seconds=0, confinement=confinement)


def test_every_combination_is_measured_in_a_process_of_its_own(mlp, bubblewrap, monkeypatch, never_opened_here):
    rows = measure(mlp, Confinement(bubblewrap, 1 << 30), monkeypatch, cores=2)
    assert {(row.entry, row.threads) for row in rows} == {(e, t) for e in ("model.onnx", "half.onnx") for t in (1, 2)}
    assert {row.batch for row in rows} == {1, 2, 4}
    assert all(row.rate > 0 and row.difference < 1e-6 and not row.fault for row in rows)
    assert tuning.best(rows).provider == "cpu"


def test_a_model_that_takes_too_long_is_ended_and_told(tmp_path, bubblewrap, monkeypatch):
    monkeypatch.setattr(isolated, "MIN_RUNS", 0)
    started = time.monotonic()
    rows = measure(greedy(tmp_path, 12_000), Confinement(bubblewrap, 8 << 30, run_seconds=1.0), monkeypatch)
    assert time.monotonic() - started < 30
    assert ["no answer after 1 s" in row.fault for row in rows] == [True]
    assert tuning.best(rows) is None


def test_a_model_that_eats_memory_is_ended_and_told(tmp_path, bubblewrap, monkeypatch):
    (row,) = measure(greedy(tmp_path, 40_000), Confinement(bubblewrap, 400 << 20), monkeypatch)
    assert "alloc" in row.fault
    (row,) = measure(
        greedy(tmp_path / "smaller", 12_000), Confinement(bubblewrap, 400 << 20, run_seconds=60.0), monkeypatch
    )
    assert "MiB of memory" in row.fault


@pytest.mark.parametrize("said", ["nothing", 0.0, -1.0, math.nan, math.inf])
def test_a_process_that_lies_about_its_time_is_not_believed(mlp, monkeypatch, said):
    real = isolated.IsolatedModel._next

    def lie(self, *arguments):
        messages = real(self, *arguments)
        return [
            (["took", number[0], said], data) if what == "took" else ([what, *number], data)
            for ((what, *number), data) in messages
        ]

    monkeypatch.setattr(isolated.IsolatedModel, "_next", lie)
    rows = measure(mlp, Confinement(None, 1 << 30), monkeypatch)
    assert {row.fault for row in rows} == {"the model's process ended: it took no time."}


def test_a_process_that_gives_no_tensors_is_not_believed(mlp, monkeypatch):
    def garbled(*_):
        raise Garbled("TypeError in what it gave.")

    monkeypatch.setattr(isolated, "read_given", garbled)
    rows = measure(mlp, Confinement(None, 1 << 30), monkeypatch)
    assert all("ended: TypeError" in row.fault for row in rows)


def test_a_strangers_generating_model_is_measured_in_the_sandbox(tmp_path, bubblewrap, monkeypatch):
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    confinements, real = [], tuning.GenerationModel

    def opened(*arguments, **named):
        confinements.append(named["confinement"])
        return real(*arguments, **named)

    monkeypatch.setattr(tuning, "GenerationModel", opened)
    confinement = Confinement(bubblewrap, 2 << 30)
    rows = measure(models.fetched(tmp_path / "p", tiny_llm.package(tmp_path / "p")), confinement, monkeypatch)
    assert all(row.rate > 0 for row in rows), [row.fault for row in rows]
    assert set(confinements) == {confinement}


def test_a_package_is_checked_in_the_sandbox(mlp, bubblewrap, never_opened_here):
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    report = checking.check(mlp.folder, cache, confinement=Confinement(bubblewrap, 1 << 30))
    cache.close()
    assert report.problems == []
    assert report.facts["trialSeconds"] >= 0


def test_a_hostile_package_is_checked_to_an_end(tmp_path, bubblewrap, never_opened_here):
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    package = greedy(tmp_path, 40_000)
    report = checking.check(package.folder, cache, confinement=Confinement(bubblewrap, 400 << 20))
    cache.close()
    assert [problem.code for problem in report.problems] == ["model-unusable"]


def test_a_folder_whose_owner_nobody_names_is_confined_as_well_as_can_be(monkeypatch):
    settings = WorkerSettings()
    for found in (sandbox.Bubblewrap("/usr/bin/bwrap"), sandbox.Bubblewrap(None, "not installed")):
        monkeypatch.setattr(isolation, "find_bubblewrap", lambda found=found: found)
        assert isolation.confinement_of_folder(settings).bubblewrap == found.program
    assert isolation.confinement_of_folder(settings.model_copy(update={"isolation": "off"})) is None
