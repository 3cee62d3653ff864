"""Where `market model publish` puts what the worker program makes of a checkpoint; the converting is the worker's."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.protocol.errors import ManifestError
from market.commands import publish
from market.errors import ConfigurationError


@pytest.fixture
def worker(monkeypatch):
    """The worker program as it answers: text generation takes its precision at once, other tasks do not."""
    asked = []

    def ask(words, seconds):
        asked.append(words)
        if worker_says.get("error"):
            return {"error": {"code": "model-unusable", "detail": "no", "field": "path", "remedy": "Mend it."}}
        into = Path(words[2])
        into.mkdir()
        (into / "model.onnx").write_bytes(b"x")
        wanted = words[words.index("--precision") + 1] if "--precision" in words else "fp32"
        return {"precision": wanted if worker_says["generates"] else "fp32", "task": "any"}

    worker_says = {"generates": False}
    monkeypatch.setattr(publish, "ask_worker", ask)
    return asked, worker_says


@pytest.mark.parametrize(
    ("precision", "generates", "in_place"), [(None, False, True), ("int8", True, True), ("int8", False, False)]
)
def test_what_is_final_is_where_it_was_wanted_and_the_rest_is_scratch(tmp_path, worker, precision, generates, in_place):
    asked, says = worker
    says["generates"] = generates
    target = tmp_path / "made"
    with ExitStack() as stack:
        folder, report = publish._converted(tmp_path / "bert", target, "text-embedding", precision, stack)
        assert (folder / "model.onnx").is_file()
        assert (folder == target) is in_place
        assert report["precision"] == (precision if generates else "fp32")
    assert target.exists() is in_place
    assert sorted(path.name for path in tmp_path.iterdir()) == (["made"] if in_place else []), "nothing else is left"
    (words,) = asked
    assert words[:2] == ["convert", str(tmp_path / "bert")]
    assert words[3:5] == ["--task", "text-embedding"]


def test_a_folder_in_use_is_refused_before_anything_is_converted(tmp_path, worker):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("x")
    with ExitStack() as stack, pytest.raises(ConfigurationError, match="not empty"):
        publish._converted(tmp_path / "bert", tmp_path / "made", None, None, stack)
    assert worker[0] == []


def test_what_the_worker_refuses_is_told_as_it_said_it(tmp_path, worker):
    worker[1]["error"] = True
    with ExitStack() as stack, pytest.raises(ManifestError) as refused:
        publish._converted(tmp_path / "bert", tmp_path / "made", None, None, stack)
    assert (refused.value.field, refused.value.remedy) == ("path", "Mend it.")
    assert list(tmp_path.iterdir()) == []
