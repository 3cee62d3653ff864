"""`worker convert` and `worker quantize` read what strangers wrote in a process of its own, and take only files of it."""

import os
import stat
import subprocess
import time
from pathlib import Path

import onnx
import pytest

from contracts.protocol.manifest import TensorSpec
from tests.support import demands, models
from workers import checking
from workers.errors import ModelUnusable
from workers.making import process, work
from workers.making.process import make
from workers.making.told import read_converted, read_quantised
from workers.models import runtime, sandbox
from workers.models.sandbox import Confinement

pytestmark = pytest.mark.integration

ALONE = Confinement(None, 1 << 30)


@pytest.fixture(params=["alone", "bubblewrap"])
def bubblewrap(request):
    return None if request.param == "alone" else demands.sandbox()


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    models.write(
        folder,
        {"model.onnx": models.wide()},
        task="tensor",
        inputs=(TensorSpec("x", "FP32", (-1, 256)),),
        outputs=(TensorSpec("y", "FP32", (-1, 256)),),
    )
    return folder


def quantise(package, into, confinement, **orders):
    said = {"precision": "int8", "most_difference": 0.2, "sample": None, **orders}
    return make("quantize", package, into, read=read_quantised, confinement=confinement, **said)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_package_is_quantised_in_a_process_of_its_own(package, tmp_path, bubblewrap, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("a stranger's model was read in this process")

    monkeypatch.setattr(runtime, "InferenceSession", opened)
    monkeypatch.setattr(work, "DOING", {})
    monkeypatch.setenv("WORKER_KEYSTORE_PASSWORD", "secret")
    started, real = [], process.start

    def watched(*arguments, **named):
        found = real(*arguments, **named)
        started.append(Path(f"/proc/{found[0].pid}/environ").read_bytes())
        return found

    monkeypatch.setattr(process, "start", watched)
    told = quantise(package, tmp_path / "small", Confinement(bubblewrap, 1 << 30))
    assert told.samples == 4
    assert told.differences[0].output == "y"
    small = checking.open_folder(tmp_path / "small")
    assert small.size < checking.open_folder(package).size
    assert left_in(tmp_path) == ["package", "small"]
    assert [b"secret" in environment for environment in started] == [False]


def test_what_it_refuses_is_told_and_leaves_nothing(package, tmp_path, bubblewrap):
    with pytest.raises(ModelUnusable) as refused:
        quantise(package, tmp_path / "small", Confinement(bubblewrap, 1 << 30), most_difference=1e-9)
    assert (refused.value.field, left_in(tmp_path)) == ("most-difference", ["package"])
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").touch()
    with pytest.raises(ModelUnusable) as refused:
        quantise(package, tmp_path / "small", Confinement(bubblewrap, 1 << 30))
    assert (refused.value.field, left_in(tmp_path / "small")) == ("into", ["mine"])


def test_weights_are_taken_from_the_package_only(tmp_path, bubblewrap):
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    made = onnx.load_from_string(models.wide())
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    fields = {"inputs": (TensorSpec("x", "FP32", (-1, 256)),), "outputs": (TensorSpec("y", "FP32", (-1, 256)),)}
    models.write(tmp_path / "package", {"model.onnx": made.SerializeToString()}, task="tensor", **fields)
    with pytest.raises(ModelUnusable, match="not the package's"):
        quantise(tmp_path / "package", tmp_path / "small", Confinement(bubblewrap, 1 << 30))
    assert left_in(tmp_path) == ["package", "secret"]


def test_where_nobody_is_confined_it_is_made_here(package, tmp_path):
    assert quantise(package, tmp_path / "small", None).samples == 4
    with pytest.raises(ModelUnusable):
        quantise(tmp_path / "small", tmp_path / "smaller", None)
    assert left_in(tmp_path) == ["package", "small"]


def test_in_the_box_it_sees_its_source_and_writes_one_folder(tmp_path):
    source, made = tmp_path / "source", tmp_path / "work"
    for folder in (source, made):
        folder.mkdir()
    (tmp_path / "secret").write_text("key")
    (source / "weights").write_text("w")
    confinement = Confinement(demands.sandbox(), 1 << 30)
    box = sandbox.box(source, confinement, writable=made)
    look = (
        f"cat {source}/weights; ls {tmp_path}/secret {Path.home()}/.bashrc {sandbox.ROOT}/market; "
        f"touch {source}/x {tmp_path}/x; touch {made}/x; ln -s {tmp_path}/secret {made}/link; cat /proc/net/dev"
    )
    done = subprocess.run([*box, "sh", "-c", look], capture_output=True, text=True, env={"PATH": os.defpath})
    assert done.stderr.count("No such file") == 3
    assert done.stderr.count("Read-only file system") == 2
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line] == ["lo"]
    assert left_in(made) == ["link", "x"]
    with pytest.raises(ModelUnusable, match="'link' was left"):
        process.take_files(made)


@pytest.fixture
def poisoned(monkeypatch):
    """Have the process do what its task tells it; without a sandbox, which shows it no tests."""

    def start(_, said, **more):
        return sandbox.start("tests.support.poisoned_maker", said, **more)

    monkeypatch.setattr(process, "start", start)
    monkeypatch.setattr(process, "END_SECONDS", 0.5)


def have_made(tmp_path, deed, seconds=20.0):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    into = tmp_path / "made"
    return make("convert", source, into, read=read_converted, confinement=ALONE, seconds=seconds, task=deed)


DEEDS = {
    "link": "'README.md' was left",
    "second name": "was left",
    "pipe": "'pipe' was left",
    "folder link": "was left",
    "nothing": "cannot be read",
    "crash": "status -11",
    "crash late": "status -11",
    "linger": "did not end",
    "garbage": "no msgpack",
    "flood": "a message of",
    "lie": "did not say what it made",
    "strange": "a line  [31mx",
}


@pytest.mark.parametrize("deed", DEEDS)
def test_whatever_the_process_does_nothing_of_it_is_taken(tmp_path, poisoned, deed):
    with pytest.raises(ModelUnusable) as refused:
        have_made(tmp_path, deed)
    assert DEEDS[deed] in refused.value.detail
    assert len(refused.value.detail) < 400
    assert refused.value.detail.isprintable()
    assert left_in(tmp_path) == ["source"]


def test_who_does_not_end_is_ended(tmp_path, poisoned):
    started = time.monotonic()
    with pytest.raises(ModelUnusable, match="took too long"):
        have_made(tmp_path, "hang", seconds=1.0)
    assert time.monotonic() - started < 10
    assert left_in(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("limit", "value", "told"), [("memory_bytes", 1 << 20, "MiB of memory"), ("free_bytes", 1, "MiB free")]
)
def test_who_eats_memory_or_disk_is_ended(tmp_path, poisoned, monkeypatch, limit, value, told):
    monkeypatch.setattr(process.machine, limit, lambda *_: value)
    with pytest.raises(ModelUnusable, match=told):
        have_made(tmp_path, "hang")
    assert left_in(tmp_path) == ["source"]


def test_files_lose_what_would_make_them_more_than_files(tmp_path, poisoned):
    assert have_made(tmp_path, "setuid").architecture == "Bert"
    assert stat.S_IMODE((tmp_path / "made" / "model.onnx").stat().st_mode) == 0o644
