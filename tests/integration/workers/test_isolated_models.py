"""Strangers' models while they serve: they crash, hang, eat memory and lie, and neither worker nor neighbours notice."""

import hashlib
import os
import signal
import time

import numpy as np
import onnx
import pytest
from onnx import helper

from contracts.protocol.errors import Retry
from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor, decode_tensors
from tests.support import demands, models, poisoned_host
from tests.support.worker import DOMAIN, GATEWAY, UNIT_PRICE, WORKER, FakeChain, make_job, make_mlp, write_package
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models import sandbox
from workers.models.deaths import MOST_DEATHS
from workers.models.isolated import model as isolated
from workers.models.sandbox import Confinement
from workers.models.sessions import SessionCache
from workers.models.store import Package

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["alone", "bubblewrap"])
def bubblewrap(request):
    if request.param == "alone":
        return None
    return demands.sandbox()


class Worker:
    """An executor with an honest model of its operator's, `mine`, and a stranger's, `theirs`."""

    def __init__(self, theirs: Package, mine: Package, confinement: Confinement):
        self.theirs, self.mine = theirs, mine
        self.sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
        self.sessions.confine(theirs.model_id, confinement)
        served = {one.model_id: Served(one, UNIT_PRICE) for one in (theirs, mine)}
        admission = Admission(
            domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=60_000, chain=FakeChain()
        )
        self.executor = Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=self.sessions)

    def ask(self, *inputs):
        """Send one pack: each input to the stranger's model, and one request to the operator's own."""
        jobs = [make_job(self.theirs.manifest, one) for one in inputs]
        results, work = self.executor.run([*jobs, make_job(self.mine.manifest)])
        assert results[-1].ok
        assert len(work) == sum(result.ok for result in results)  # what failed is not signed for
        return results[:-1]

    @property
    def process(self):
        return self.sessions.get(self.theirs)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "p"
    manifest = write_package(folder, license="mine")
    return Package(manifest.model_id, manifest, folder)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "p"
    manifest = write_package(folder)
    return Package(manifest.model_id, manifest, folder)


def one_number(folder, nodes, x: TensorSpec) -> Package:
    """Write a model of x that gives one number, y."""
    manifest = models.one_number_package(folder / "p", models.one_number(nodes, x), x)
    return Package(manifest.model_id, manifest, folder / "p")


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """A model whose time and memory its inputs decide: the sum of the product of a square of ones with itself."""
    nodes = [
        helper.make_node("ConstantOfShape", ["x"], ["m"]),
        helper.make_node("MatMul", ["m", "m"], ["n"]),
        helper.make_node("ReduceSum", ["n"], ["y"], keepdims=0),
    ]
    return one_number(tmp_path_factory.mktemp("greedy"), nodes, TensorSpec("x", "INT64", (2,)))


@pytest.fixture(scope="module")
def outer(tmp_path_factory):
    """A model whose memory grows with the square of its inputs: the sum of the sines of a row's products with itself."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "x"], ["m0"]),
        *(helper.make_node("Sin", [f"m{i}"], [f"m{i + 1}"]) for i in range(10)),
        helper.make_node("ReduceSum", ["m10"], ["y"], keepdims=0),
    ]
    return one_number(tmp_path_factory.mktemp("outer"), nodes, models.ROW)


@pytest.fixture(scope="module")
def laborious(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laborious") / "p"
    manifest = models.laborious_package(folder)
    return Package(manifest.model_id, manifest, folder)


def squares(side):
    return [Tensor.from_numpy("x", np.array([side, side]))]


def rows(first, count=1):
    return np.array([[first, 1, 1, 1]] * count, "f4")


@pytest.fixture
def poisoned(monkeypatch):
    """Have models' processes do what inputs tell them; without a sandbox, which shows them no tests."""

    def start(module, said, **more):
        return sandbox.start("tests.support.poisoned_host", said, **more)

    monkeypatch.setattr(isolated, "start", start)


def open_worker(theirs, mine, **limits):
    return Worker(theirs, mine, Confinement(**{"bubblewrap": None, "memory_bytes": 1 << 30, **limits}))


def test_it_answers_as_it_would_inside_the_worker(mlp, mine, bubblewrap, monkeypatch):
    monkeypatch.setenv("WORKER_KEYSTORE_PASSWORD", "secret")
    worker = open_worker(mlp, mine, bubblewrap=bubblewrap)
    local = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30).get(mlp)
    inputs = [np.random.default_rng(i).normal(size=(i + 1, 4)).astype("f4") for i in range(3)]
    for given, result in zip(inputs, worker.ask(*inputs), strict=True):
        ((tensor,), _) = decode_tensors(result.outputs)
        expected = local.graph.run({"x": given}, ["y"])["y"]
        np.testing.assert_allclose(tensor.to_numpy(), expected, rtol=1e-5)
    assert worker.sessions.cap(mlp.model_id) >= 1
    pids = [worker.process.pid]
    for pid in pids:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            assert b"secret" not in environment.read()
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            pids += map(int, children.read().split())
    last = pids[-1]
    with open(f"/proc/{last}/oom_score_adj") as score:
        assert score.read().strip() == "1000"
    with open(f"/proc/{last}/limits") as limits:
        said = limits.read()
    assert f"Max address space         {(1 << 30) + sandbox.EXTRA_MEMORY_BYTES} " in said
    assert "Max file size             0 " in said
    worker.sessions.close()
    until = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_an_operator_that_takes_too_long_ends_with_its_process(greedy, mine, bubblewrap):
    worker = open_worker(greedy, mine, bubblewrap=bubblewrap, run_seconds=1.0)
    before = worker.process.pid
    started = time.monotonic()
    (slow,) = worker.ask(squares(12_000))
    assert time.monotonic() - started < 10
    assert (slow.code, slow.retry, slow.signature) == ("model-died", Retry.OTHER_WORKER, b"")
    assert "no answer after 1 s" in slow.detail
    (fine,) = worker.ask(squares(3))
    assert fine.ok
    assert worker.process.pid != before
    worker.sessions.close()


def test_memory_beyond_the_limit_is_refused_or_ends_the_process(greedy, mine, bubblewrap):
    worker = open_worker(greedy, mine, bubblewrap=bubblewrap, memory_bytes=400 << 20, run_seconds=60.0)
    before = worker.process.pid
    (refused,) = worker.ask(squares(40_000))  # 6.4 GB: more than its address space
    assert (refused.code, refused.retry) == ("out-of-memory", Retry.OTHER_WORKER)
    assert worker.process.pid == before
    (killed,) = worker.ask(squares(12_000))  # 1.2 GB: its address space takes that, its share of memory does not
    assert killed.code == "model-died"
    assert "MiB of memory" in killed.detail
    assert worker.ask(squares(3))[0].ok
    worker.sessions.close()


def test_inputs_larger_than_any_that_it_answered_do_not_take_a_model_out_of_offer(outer, mine):
    worker = open_worker(outer, mine, memory_bytes=400 << 20, run_seconds=60.0)
    assert worker.ask(np.ones((1, 30), "f4"))[0].ok
    for _ in range(MOST_DEATHS + 1):
        (killed,) = worker.ask(np.ones((1, 9_000), "f4"))
        assert (killed.code, killed.retry) == ("out-of-memory", Retry.OTHER_WORKER)
        assert "MiB of memory" in killed.detail
    assert worker.ask(np.ones((1, 20), "f4"))[0].ok
    worker.sessions.close()


def test_a_run_ends_with_its_deadline_and_its_process_goes_on(laborious, mine, bubblewrap):
    worker = open_worker(laborious, mine, bubblewrap=bubblewrap)
    before = worker.process.pid
    job, blob = make_job(laborious.manifest, np.ones((1, 3_000_000), "f4"), deadline_at=time.time() + 1.0)
    ((late,), _) = worker.executor.run([(job, blob)])
    assert (late.code, late.retry) == ("out-of-time", Retry.OTHER_WORKER)
    assert worker.ask(np.ones((1, 20), "f4"))[0].ok
    assert worker.process.pid == before
    job, blob = make_job(laborious.manifest, np.ones((1, 3_000_000), "f4"), deadline_at=time.time() + 0.7)
    ((refused,), _) = worker.executor.run([(job, blob)])
    assert "no larger than these" in refused.detail
    worker.sessions.close()


def test_a_model_that_dies_again_and_again_is_taken_out_of_offer(greedy, mine):
    worker = open_worker(greedy, mine)
    for _ in range(3):
        os.kill(worker.process.pid, signal.SIGKILL)
        (failed,) = worker.ask(squares(2))
        assert failed.code in ("model-died", "model-withdrawn")
    assert worker.sessions.deaths.withdrawn == {greedy.model_id}
    (refused,) = worker.ask(squares(2))
    assert (refused.code, refused.retry) == ("model-withdrawn", Retry.OTHER_WORKER)
    assert "3 times within 10 minutes" in refused.detail
    worker.sessions.close()


def test_one_requests_crash_is_not_its_neighbours(mlp, mine, poisoned):
    worker = open_worker(mlp, mine)
    good, bad = rows(1), rows(poisoned_host.CRASH)
    results = worker.ask(good, bad, good, rows(2))
    assert [result.ok for result in results] == [True, False, True, True]
    assert results[1].code == "model-died"
    assert not worker.sessions.deaths.withdrawn
    assert worker.ask(good)[0].ok
    worker.sessions.close()


LIES = {
    "a message without end": poisoned_host.TRICKLE,
    "no msgpack": poisoned_host.GARBAGE,
    "a terabyte": poisoned_host.FLOOD,
    "another shape than its bytes": poisoned_host.LIE,
    "an answer to what nobody asked": poisoned_host.STRANGE,
    "silence": poisoned_host.HANG,
}


def test_whatever_a_process_says_the_worker_serves_on(mlp, mine, poisoned, monkeypatch):
    monkeypatch.setattr("workers.models.deaths.MOST_DEATHS", len(LIES) + 1)
    worker = open_worker(mlp, mine, run_seconds=1.0)
    for what, deed in LIES.items():
        (result,) = worker.ask(rows(deed))
        assert (result.ok, result.code) == (False, "model-died"), what
    assert worker.ask(rows(1))[0].ok
    worker.sessions.close()
    assert hashlib.sha256((mlp.folder / "model.onnx").read_bytes()).digest() == mlp.manifest.files["model.onnx"].sha256


def test_unloading_ends_the_process(mlp, mine):
    worker = open_worker(mlp, mine)
    process = worker.process._process
    worker.sessions._budget = 1
    worker.sessions.get(mine)
    assert process.poll() is not None
    worker.sessions.close()


def test_weights_beside_the_graph_are_read_in_the_sandbox(tmp_path, mine, bubblewrap):
    make_mlp(tmp_path / "m.onnx")
    made = onnx.load(tmp_path / "m.onnx")
    onnx.save(made, tmp_path / "b.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    manifest = models.write(
        tmp_path / "p",
        {
            "sub/m.onnx": (tmp_path / "b.onnx").read_bytes(),
            "sub/weights.data": (tmp_path / "weights.data").read_bytes(),
        },
        entry="sub/m.onnx",
        task="tensor",
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
        unit=Unit.ROW,
    )
    worker = open_worker(Package(manifest.model_id, manifest, tmp_path / "p"), mine, bubblewrap=bubblewrap)
    assert worker.ask(rows(1))[0].ok
    worker.sessions.close()
