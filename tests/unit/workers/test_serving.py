"""Whose fault it is that a graph fails: nobody closes a worker's circuit by inputs that no worker could run."""

import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor
from tests.support import models
from workers.errors import ExecutionFailed, InputsRefused, OutOfMemory
from workers.models.serving import Request, serve
from workers.models.sessions import SessionCache

IDS = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))


@pytest.fixture
def pipeline(tmp_path):
    manifest = models.write(
        tmp_path / "source",
        {"model.onnx": models.embedder()},
        task="tensor",
        inputs=IDS,
        outputs=(TensorSpec("last_hidden_state", "FP32", (-1, -1, models.HIDDEN)),),
        unit=Unit.ROW,
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    return sessions.get(models.fetched(tmp_path / "source", manifest))


def request(token: int) -> Request:
    ids = np.array([[1, token, 2]])
    return Request([Tensor.from_numpy("input_ids", ids), Tensor.from_numpy("attention_mask", np.ones_like(ids))], {})


def outcomes(pipeline, *requests: Request) -> dict:
    found = {}
    for batch, _ in serve(pipeline, requests):
        found |= batch
    return found


@pytest.mark.parametrize("token", [-99, 10**12])
def test_a_token_of_no_vocabulary_is_the_inputs_fault_and_harms_no_neighbour(pipeline, token):
    found = outcomes(pipeline, request(3), request(token), request(4))
    assert (type(found[1]), found[1].field, found[1].retry) == (InputsRefused, "inputs", Retry.NEVER)
    assert str(token) in found[1].detail
    assert [found[i].outputs["last_hidden_state"].shape for i in (0, 2)] == [(1, 3, models.HIDDEN)] * 2


def test_a_model_that_runs_on_nothing_is_the_workers_fault(pipeline, monkeypatch):
    def fail(*_):
        raise ExecutionFailed("the card is gone.")

    monkeypatch.setattr(pipeline.graph, "run", fail)
    found = outcomes(pipeline, request(3), request(4))
    assert {type(one) for one in found.values()} == {ExecutionFailed}


def test_a_lack_of_memory_is_no_fault_of_the_inputs(pipeline, monkeypatch):
    run = pipeline.graph.run

    def fail(inputs, outputs):
        if inputs["input_ids"].shape == (1, 3):
            raise OutOfMemory("Failed to allocate memory for requested buffer.")
        return run(inputs, outputs)

    monkeypatch.setattr(pipeline.graph, "run", fail)
    assert type(outcomes(pipeline, request(3))[0]) is OutOfMemory
