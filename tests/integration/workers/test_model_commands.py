"""`market model init|check` and `worker check|tune|quantize` as an owner and an operator run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import models, tiny_llm

pytestmark = pytest.mark.integration

PROGRAMS = Path(sys.executable).parent


def run(tmp_path, program, *arguments, status=0):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "MARKET_"))}
    done = subprocess.run(
        [PROGRAMS / program, *map(str, arguments), "--json"],
        env={**environment, "WORKER_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def lay(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


EMBEDDER = {"model.onnx": models.embedder(), "tokenizer.json": models.tokenizer_json()}


def test_from_a_folder_to_a_package_that_a_worker_serves(tmp_path):
    folder = lay(tmp_path / "model", EMBEDDER)
    made = run(tmp_path, "market", "model", "init", folder, "--option", "max_tokens=32", "--license", "MIT")
    assert made["task"] == "text-embedding"
    assert {"field": "options.max_tokens", "value": "32", "why": "you said so"} in made["guesses"]
    found = run(tmp_path, "market", "model", "check", folder)
    assert (found["modelId"], found["problems"]) == (made["modelId"], [])
    assert found["trialTokens"] > 3


def test_from_an_onnx_file_to_a_package(tmp_path):
    lay(tmp_path / "download", {"net.onnx": models.classifier(), "tokenizer.json": models.tokenizer_json()})
    made = run(tmp_path, "market", "model", "init", tmp_path / "download" / "net.onnx", "--into", tmp_path / "package")
    assert (made["task"], made["files"]) == ("text-classification", 2)
    again = run(
        tmp_path,
        "market",
        "model",
        "init",
        tmp_path / "download" / "net.onnx",
        "--into",
        tmp_path / "package",
        status=2,
    )
    assert again["error"]["field"] == "into"


@pytest.mark.parametrize(
    ("wrong", "status"), [(("--unit", "zebra"), 2), (("--max-batch", "0"), 1), (("--option", "max_tokens"), 2)], ids=str
)
def test_what_is_refused_leaves_no_folder_in_the_way_of_the_next_try(tmp_path, wrong, status):
    lay(tmp_path / "download", {"net.onnx": models.classifier(), "tokenizer.json": models.tokenizer_json()})
    words = ("market", "model", "init", tmp_path / "download" / "net.onnx", "--into", tmp_path / "package")
    assert run(tmp_path, *words, *wrong, status=status)["error"]["field"] in ("unit", "max_batch", "option")
    assert not (tmp_path / "package").exists()
    assert run(tmp_path, *words)["files"] == 2
    assert run(tmp_path, *words, status=2)["error"]["field"] == "into"
    assert (tmp_path / "package" / "manifest.json").exists(), "what was there stays"


def test_every_problem_of_a_package_is_told_with_its_remedy(tmp_path):
    folder = lay(tmp_path / "model", EMBEDDER)
    run(tmp_path, "market", "model", "init", folder)
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "stray.txt").write_bytes(b"x")
    found = run(tmp_path, "market", "model", "check", folder, status=1)
    assert [row["field"] for row in found["problems"]] == ["files.stray.txt", "files.tokenizer.json"]
    assert all("market model init" in row["remedy"] for row in found["problems"])
    found = run(tmp_path, "worker", "check", folder, status=1)
    assert [row["field"] for row in found["problems"]] == ["files.tokenizer.json"]


def test_what_only_a_worker_can_see_is_told_by_it(tmp_path):
    folder = lay(tmp_path / "model", {**EMBEDDER, "tokenizer.json": b'{"version": "1.0"}'})
    run(tmp_path, "market", "model", "init", folder)
    found = run(tmp_path, "market", "model", "check", folder, status=1)
    assert [(row["code"], row["field"]) for row in found["problems"]] == [("model-unusable", "tokenizer.json")]


def test_an_option_that_means_nothing_is_told(tmp_path):
    folder = lay(tmp_path / "model", EMBEDDER)
    run(tmp_path, "market", "model", "init", folder, "--option", "poolin=mean")
    found = run(tmp_path, "market", "model", "check", folder, status=1)
    assert [row["field"] for row in found["problems"]] == ["options.poolin"]


def test_a_generating_model_is_tried_by_text_and_by_chat(tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    folder = lay(tmp_path / "model", tiny_llm.files())
    run(tmp_path, "market", "model", "init", folder)
    found = run(tmp_path, "market", "model", "check", folder)
    assert found["problems"] == []
    assert {"textTrial", "chatTrial", "chatTokensPerSecond"} <= set(found)


def test_a_model_that_calls_functions_is_tried_by_one_and_its_template_held_to_it(tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    folder = lay(tmp_path / "model", tiny_llm.tool_files())
    made = run(tmp_path, "market", "model", "init", folder)
    assert {"options.tool_format": "hermes"}.items() <= {row["field"]: row["value"] for row in made["guesses"]}.items()
    found = run(tmp_path, "market", "model", "check", folder)
    assert found["problems"] == []
    assert found["toolsTrial"].startswith("<tool_call>\n")
    plain = lay(tmp_path / "plain", tiny_llm.files())
    run(tmp_path, "market", "model", "init", plain, "--option", "tool_format=hermes")
    (problem,) = run(tmp_path, "market", "model", "check", plain, status=1)["problems"]
    assert (problem["code"], problem["field"]) == ("model-unusable", "options.tool_format")
    assert "leaves out functions" in problem["detail"]


def test_a_chat_template_that_adds_more_than_clients_reckon_with_is_told(tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    long = tiny_llm.TOKENIZER_CONFIG | {"chat_template": "x" * 100 + "{{ messages[0]['content'] }}"}
    files = tiny_llm.files() | {"tokenizer_config.json": json.dumps(long).encode()}
    folder = lay(tmp_path / "model", files)
    run(tmp_path, "market", "model", "init", folder, "--option", "template_tokens=8")
    (problem,) = run(tmp_path, "worker", "check", folder, status=1)["problems"]
    assert problem["field"] == "options.template_tokens"


def test_tuning_is_kept_for_the_worker(tmp_path):
    folder = lay(tmp_path / "model", EMBEDDER)
    run(tmp_path, "market", "model", "init", folder, "--max-batch", "4")
    said = run(tmp_path, "worker", "tune", folder)
    assert json.loads(Path(said["file"]).read_text()) == said["best"]
    assert {row["batch"] for row in said["measured"]} <= {1, 2, 4}
    assert run(tmp_path, "worker", "check", folder)["batch"] == said["best"]["batch"]


@pytest.mark.parametrize(("precision", "share", "most"), [("int8", 0.3, 0.05), ("int4", 0.2, 0.2)])
def test_quantising_shows_what_it_costs_and_brings(tmp_path, precision, share, most):
    folder = lay(tmp_path / "model", {"model.onnx": models.wide(), "LICENSE": b"MIT"})
    run(tmp_path, "market", "model", "init", folder, "--license", "MIT")
    said = run(tmp_path, "worker", "quantize", folder, tmp_path / "small", "--precision", precision)
    assert said["bytes"]["after"] < share * said["bytes"]["before"]
    ((told, samples),) = [(one, said["samples"]) for one in said["differences"]]
    assert (told["output"], samples) == ("y", 4)
    assert 0 < told["relative"] < most
    assert 0.98 < told["cosine"] < 1
    assert (tmp_path / "small" / "LICENSE").read_bytes() == b"MIT"
    found = run(tmp_path, "market", "model", "check", tmp_path / "small")
    assert (found["modelId"], found["problems"]) == (said["modelId"], [])


def test_quantising_compares_on_the_owners_own_inputs(tmp_path):
    folder = lay(tmp_path / "model", {"model.onnx": models.wide()})
    run(tmp_path, "market", "model", "init", folder)
    np.savez(tmp_path / "own.npz", x=np.ones((3, 256), "f4"))
    said = run(tmp_path, "worker", "quantize", folder, tmp_path / "small", "--sample", tmp_path / "own.npz")
    assert said["samples"] == 1
    for sample, field in (("none.npz", "sample"), ("bad.npz", "sample")):
        (tmp_path / "bad.npz").write_bytes(b"no archive")
        arguments = ("worker", "quantize", folder, tmp_path / "other", "--sample", tmp_path / sample)
        assert run(tmp_path, *arguments, status=1)["error"]["field"] == field
        assert not (tmp_path / "other").exists()


def test_what_quantising_refuses_leaves_nothing(tmp_path):
    folder = lay(tmp_path / "model", {"model.onnx": models.wide()})
    run(tmp_path, "market", "model", "init", folder)
    quantize = ("worker", "quantize", folder, tmp_path / "small")
    moved = run(tmp_path, *quantize, "--precision", "int4", "--most-difference", "0.001", status=1)["error"]
    assert moved["field"] == "most-difference"
    assert run(tmp_path, *quantize, "--precision", "int3", status=1)["error"]["field"] == "precision"
    assert not (tmp_path / "small").exists()
    run(tmp_path, *quantize)
    assert run(tmp_path, *quantize, status=1)["error"]["field"] == "into", "what is there is not written over"
    again = run(tmp_path, "worker", "quantize", tmp_path / "small", tmp_path / "smaller", status=1)["error"]
    assert "not become smaller" in again["detail"]


def test_a_folder_without_a_manifest_is_told(tmp_path):
    lay(tmp_path / "model", EMBEDDER)
    assert run(tmp_path, "worker", "tune", tmp_path / "model", status=1)["error"]["field"] == "manifest.json"
    (problem,) = run(tmp_path, "worker", "check", tmp_path / "model", status=1)["problems"]
    assert problem["field"] == "manifest.json"


@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_where_there_is_no_sandbox_that_is_said(tmp_path, command):
    folder = lay(tmp_path / "model", {"model.onnx": models.wide()})
    run(tmp_path, "market", "model", "init", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "MARKET_"))}
    done = subprocess.run(
        [PROGRAMS / "worker", command, folder, tmp_path / "made"],
        env={**environment, "PATH": str(tmp_path), "WORKER_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "bubblewrap is not installed: this runs with limits" in done.stderr
    assert done.returncode == (0 if command == "quantize" else 1), done.stderr
    assert (tmp_path / "made").exists() == (command == "quantize")
