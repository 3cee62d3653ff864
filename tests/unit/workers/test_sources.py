"""What a checkpoint is for, read from its files; what is none is refused with a remedy. Nothing is converted here."""

import json

import pytest

from market.commands.publish import is_checkpoint
from workers.errors import ModelUnusable
from workers.models import converting
from workers.models.sources import companions, read_source


@pytest.fixture
def checkpoint(tmp_path):
    def lay(architecture, **files):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        for name in ("model.safetensors", "tokenizer.json"):
            (tmp_path / name).write_bytes(b"x")
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return lay


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertForSequenceClassification", "text-classification"),
        ("ViTForImageClassification", "image-classification"),
        ("BertModel", "text-embedding"),
        ("BertForMaskedLM", "text-embedding"),
    ],
)
def test_the_architecture_says_what_a_checkpoint_is_for(checkpoint, architecture, task):
    folder = checkpoint(architecture)
    assert is_checkpoint(folder)
    found = read_source(folder, None)
    assert (found.task, found.architecture, found.gguf) == (task, architecture, None)
    assert read_source(folder, "text-embedding").task == "text-embedding", "its owner may know better"


def test_a_gguf_file_is_for_text(tmp_path):
    path = tmp_path / "small.Q4_K_M.gguf"
    path.write_bytes(b"GGUF")
    for given in (path, tmp_path):
        assert is_checkpoint(given)
        found = read_source(given, None)
        assert (found.task, found.gguf, found.folder) == ("text-generation", path.name, tmp_path)
    (tmp_path / "small.Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelUnusable, match="2 GGUF files"):
        read_source(tmp_path, None)
    with pytest.raises(ModelUnusable, match="text-generation only"):
        read_source(path, "text-embedding")


def test_a_link_out_of_the_folder_is_no_companion(checkpoint, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("key")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "README.md").symlink_to(outside / "secret")
    (inside / "config.json").write_text("{}")
    (inside / "LICENSE").symlink_to(inside / "config.json")
    companions(inside, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["LICENSE", "config.json"]


def test_the_links_of_hugging_faces_cache_are_companions(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    companions(snapshot, tmp_path / "made")
    assert (tmp_path / "made" / "config.json").read_text() == "{}"


def test_what_is_served_already_is_not_converted(checkpoint):
    folder = checkpoint("BertModel")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    assert not is_checkpoint(folder)


def test_what_is_no_checkpoint_is_refused_by_field(checkpoint, tmp_path):
    def field_of(path, task=None):
        with pytest.raises(ModelUnusable) as refused:
            read_source(path, task)
        return refused.value.field

    assert field_of(tmp_path / "nothing") == "path"
    assert field_of(tmp_path) == "path", "there are no weights"
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert field_of(tmp_path) == "config.json"
    folder = checkpoint("WhisperForConditionalGeneration")
    assert field_of(folder) == "config.json"
    assert field_of(folder, "tensor") == "task"
    assert field_of(checkpoint("BertModel", config__json="[1")) == "config.json"


def test_a_sentence_model_with_layers_that_would_be_lost_is_refused(checkpoint):
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    folder = checkpoint("BertModel", modules__json=json.dumps(modules))
    assert read_source(folder, None).task == "text-embedding"
    checkpoint("BertModel", modules__json=json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelUnusable, match="it ends in Dense"):
        read_source(folder, None)


def test_neither_weights_nor_code_are_kept_beside_the_graph(checkpoint, tmp_path_factory):
    into = tmp_path_factory.mktemp("into")
    companions(checkpoint("BertModel", modeling__py="raise SystemExit", README__md="MIT"), into)
    assert sorted(path.name for path in into.iterdir()) == ["README.md", "config.json", "tokenizer.json"]


def test_without_the_packages_the_remedy_is_named_and_nothing_written(checkpoint, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(converting, "PACKAGES", ("torch_that_nobody_has",))
    into = tmp_path_factory.mktemp("scratch") / "into"
    with pytest.raises(ModelUnusable, match="torch_that_nobody_has") as refused:
        converting.convert(checkpoint("BertModel"), into)
    assert refused.value.remedy == "Install the extra [convert-torch]: pip install 'inference-market[convert-torch]'."
    assert not into.exists()
