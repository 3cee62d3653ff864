import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support import models
from tests.support.worker import make_mlp, write_package
from workers.errors import ModelUnusable
from workers.models import runtime, sessions, tuned, tuning
from workers.models.sessions import SessionCache
from workers.models.tuned import Tuned, TunedStore
from workers.models.tuning import Measured, best

BEST = Tuned("model.onnx", "cpu", 1, 5, 100.0, 1)


def test_what_was_measured_here_is_kept(tmp_path, monkeypatch):
    store = TunedStore(tmp_path)
    assert store.get(b"\1" * 32) is None
    store.put(b"\1" * 32, BEST)
    assert TunedStore(tmp_path).get(b"\1" * 32) == BEST
    monkeypatch.setattr(tuned, "usable_cores", lambda: 99)
    assert store.get(b"\1" * 32) is None, "another machine"


@pytest.mark.parametrize("junk", ["", "{}", "[]", json.dumps({"entry": "x"})])
def test_a_measurement_that_cannot_be_read_is_as_if_not_there(tmp_path, junk):
    store = TunedStore(tmp_path)
    store.put(b"\1" * 32, BEST).write_text(junk)
    assert store.get(b"\1" * 32) is None


def test_of_close_rates_the_lighter_one_is_taken():
    rows = [
        Measured("m", "cpu", 1, 8, 100.0),
        Measured("m", "cpu", 1, 16, 101.0),
        Measured("m", "cpu", 4, 8, 104.0),
        Measured("m", "cuda", 1, 64, 0.0, fault="no"),
        Measured("m", "cpu", 1, 1, 50.0),
    ]
    assert best(rows, now=lambda: 7.9) == Tuned("m", "cpu", 1, 8, 100.0, 7)
    assert best([replace(row, rate=0.0, fault="no") for row in rows]) is None


def package_with_variant(tmp_path):
    make_mlp(tmp_path / "other.onnx")
    other = (tmp_path / "other.onnx").read_bytes()
    folder = tmp_path / "source"
    return models.fetched(folder, write_variants(folder, other))


def write_variants(folder, other):
    write_package(folder)
    main = (folder / "model.onnx").read_bytes()
    fields = {
        "task": "tensor",
        "inputs": (models.TensorSpec("x", "FP32", (-1, 4)),),
        "outputs": (models.TensorSpec("y", "FP32", (-1, 3)),),
        "max_batch": 8,
        "options": {"variants": ["half.onnx"]},
    }
    return models.write(folder, {"model.onnx": main, "half.onnx": other}, **fields)


def test_every_file_thread_count_and_batch_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)
    said = []
    rows = tuning.measure(package_with_variant(tmp_path), say=said.append, run_seconds=0)
    assert said == rows
    assert {(row.entry, row.threads) for row in rows} == {(e, t) for e in ("model.onnx", "half.onnx") for t in (1, 2)}
    assert {1, 2, 4} <= {row.batch for row in rows}
    assert all(row.rate > 0 and row.difference < 1e-6 for row in rows)


def test_a_worker_loads_what_was_measured_to_be_best(tmp_path):
    package = package_with_variant(tmp_path)
    best_here = Tuned("half.onnx", "cpu", 1, 3, 1.0, 1)
    cache = SessionCache(provider="cpu", threads=0, memory_budget_bytes=1 << 30, tuned=lambda _: best_here)
    model = cache.get(package)
    assert model.batch_cap == cache.cap(package.model_id) == 3
    assert model.graph.session.get_session_options().intra_op_num_threads == 1
    set_by_hand = SessionCache(provider="cpu", threads=2, memory_budget_bytes=1 << 30, tuned=lambda _: best_here)
    assert set_by_hand.get(package).graph.session.get_session_options().intra_op_num_threads == 2


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_what_a_trial_measured_is_not_measured_again(tmp_path, monkeypatch):
    package = package_with_variant(tmp_path)
    monkeypatch.setattr(sessions, "warm_up", lambda _: 8)
    best_here = Tuned("half.onnx", "cpu", 1, 2, 1.0, 1)
    caps = {}
    for what, provider, kept in (("cpu", "cpu", None), ("card", "cuda", None), ("tuned", "cpu", best_here)):
        cache = SessionCache(
            provider=provider, threads=1, memory_budget_bytes=1 << 30, tuned={package.model_id: kept}.get
        )
        cache.note_trial(package.model_id, 3)
        caps[what] = cache.get(package).batch_cap
        assert cache.cap(package.model_id) == caps[what]
    assert caps == {"cpu": 3, "card": 8, "tuned": 2}


def test_the_model_not_used_for_longest_leaves_first(tmp_path):
    packages = []
    for i in range(3):
        folder = tmp_path / f"source{i}"
        packages.append(models.fetched(folder, write_package(folder, license=str(i))))
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=5 * packages[0].size)
    first, second = cache.get(packages[0]), cache.get(packages[1])
    assert cache.get(packages[0]) is first
    cache.get(packages[2])
    assert cache.get(packages[0]) is first, "it was used last"
    assert cache.get(packages[1]) is not second


def test_weights_in_a_file_of_their_own_are_loaded_from_the_package_only(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    make_mlp(folder / "plain.onnx")
    made = onnx.load(folder / "plain.onnx")
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (folder / "plain.onnx").unlink()
    fields = {
        "task": "tensor",
        "inputs": (models.TensorSpec("x", "FP32", (-1, 4)),),
        "outputs": (models.TensorSpec("y", "FP32", (-1, 3)),),
    }
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    package = models.fetched(folder, models.write(folder, files, **fields))
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    assert cache.get(package).graph.run(cache.get(package).sample(2), ["y"])["y"].shape == (2, 3)
    alone = models.fetched(tmp_path / "b", models.write(tmp_path / "b", {"model.onnx": files["model.onnx"]}, **fields))
    with pytest.raises(ModelUnusable):
        cache.get(alone)


def test_a_provider_that_does_not_take_a_model_is_said_and_the_cpu_takes_it(tmp_path, monkeypatch):
    make_mlp(tmp_path / "m.onnx")
    real, said = runtime.InferenceSession, []

    def session(data, options, providers, provider_options):
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return real(data, options, providers=providers, provider_options=provider_options)

    monkeypatch.setattr(runtime, "InferenceSession", session)
    monkeypatch.setattr(runtime.log, "warning", lambda event, **fields: said.append((event, fields["reason"])))
    opened = runtime.open_session((tmp_path / "m.onnx").read_bytes(), provider="cuda", threads=1)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert said == [("provider-fell-back", "CUDA failure 100: no CUDA-capable device is detected")]


def graph_that_hands_out(name):
    """Return a model whose output is the content of a file."""
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[64])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", "64")):
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [64])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_a_graph_cannot_hand_out_files_of_the_folder_that_the_worker_runs_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.pass").write_bytes(b"s" * 64)
    data = graph_that_hands_out("worker.pass")
    with pytest.raises(Exception, match="does not exist"):
        runtime.open_session(data, provider="cpu", threads=1)
    opened = runtime.open_session(data, provider="cpu", threads=1, external={"worker.pass": b"p" * 64})
    (given,) = opened.run(None, {"x": np.ones(1, "f4")})
    assert bytes(given) == b"p" * 64, "what the package holds under that name"
