"""KServe's own REST and gRPC client pays by its `headers` argument and gets what onnxruntime gives in process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import DATATYPES, example

PROGRAM = Path(__file__).with_name("client_program.py")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_kserve_client(running, sentences, reference, tmp_path):
    np.savez(tmp_path / "in.npz", **sentences)
    where = {"http": running.http, "grpc": running.grpc, "headers": running.payment.headers(), "echo": False}
    before = running.charged()
    ran = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(where), tmp_path / "in.npz", tmp_path / "out.npz"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["rest"] == seen["grpc"] == [True, True, True]
    assert "402" in seen["unpaid"]
    assert seen["id"] == "k-1"
    with np.load(tmp_path / "out.npz") as got:
        assert sorted(got) == ["grpc", "rest_binary", "rest_json"]
        for array in got.values():
            np.testing.assert_allclose(array, reference, atol=1e-5)
    papers = running.payment.collect()
    assert sum(paper.receipt.price for paper in papers[-3:]) == running.charged() - before


def test_every_datatype_comes_back(running, tmp_path):
    np.savez(tmp_path / "in.npz", **{f"in_{name}": example(name) for name in DATATYPES})
    where = {"http": running.http, "grpc": running.grpc, "headers": running.payment.headers(), "echo": True}
    ran = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(where), tmp_path / "in.npz", tmp_path / "out.npz"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "out.npz") as got:
        assert len(got) == 3 * len(DATATYPES)
        for way in ("json", "binary", "grpc"):
            for name in DATATYPES:
                found, sent = got[f"{way}_out_{name}"], example(name)
                assert found.dtype == sent.dtype or name == "BYTES"
                np.testing.assert_array_equal(found, sent.astype(str) if name == "BYTES" else sent)
