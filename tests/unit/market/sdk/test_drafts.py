"""What `market model init` makes of the files of a folder, and what it says of the graph without a runtime."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.protocol.errors import ManifestError
from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from market.sdk import packages
from market.sdk.drafts import draft
from market.sdk.onnx_file import read_onnx
from tests.support import models, tiny_llm
from workers.models.sessions import SessionCache


def lay(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return folder


def why(made, name):
    return next(guess.why for guess in made.guesses if guess.field == name)


def graph(inputs, outputs, weights=()):
    """Return a model whose outputs are cut out of nowhere: only its outside matters here."""

    def values(rows):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in rows]

    made = helper.make_graph([], "g", values(inputs), values(outputs), list(weights))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def test_a_graph_is_read_without_a_runtime(tmp_path):
    weight = numpy_helper.from_array(np.zeros((300, 300), "f4"), "w")
    data = graph(
        [("x", FLOAT, ["n", 4, None]), ("w", FLOAT, [300, 300]), ("s", STRING, [])], [("y", INT64, ["n", 0])], [weight]
    )
    (tmp_path / "m.onnx").write_bytes(data)
    found = read_onnx(tmp_path / "m.onnx")
    assert [(one.name, one.datatype, one.shape) for one in found.inputs] == [
        ("x", "FP32", ("n", 4, "")),
        ("s", "BYTES", ()),
    ]
    assert [(one.name, one.datatype) for one in found.outputs] == [("y", "INT64")]


def test_files_with_weights_are_found(tmp_path):
    weight = numpy_helper.from_array(np.zeros((300, 300), "f4"), "w")
    made = onnx.load_from_string(graph([("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])], [weight]))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert read_onnx(tmp_path / "m.onnx").external == {"m.onnx.data"}
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ManifestError) as error:
        draft(tmp_path)
    assert error.value.field == "files.m.onnx.data"


@pytest.mark.parametrize("junk", [b"", b"not onnx", b"\xff" * 50, models.embedder()[:100], b"\x3a\xff\xff\xff\xff\xff"])
def test_what_is_no_model_is_refused(tmp_path, junk):
    (tmp_path / "model.onnx").write_bytes(junk)
    with pytest.raises(ManifestError) as error:
        draft(tmp_path)
    assert error.value.field == "entry"


def test_a_plain_graph_is_served_as_it_is(tmp_path):
    lay(tmp_path, {"m.onnx": graph([("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 3])])})
    made = draft(tmp_path)
    assert (made.task, made.entry, made.batch_axis, made.unit) == ("tensor", "m.onnx", 0, Unit.ROW)
    manifest = made.write()
    assert manifest.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert packages.load(tmp_path) == manifest


def test_tensors_with_different_first_sizes_are_not_joined(tmp_path):
    lay(tmp_path, {"m.onnx": graph([("x", FLOAT, ["n", 4]), ("k", FLOAT, [2])], [("y", FLOAT, ["n", 3])])})
    assert (draft(tmp_path).batch_axis, draft(tmp_path).unit) == (None, Unit.REQUEST)


EMBEDDING = {"model.onnx": models.embedder(), "tokenizer.json": models.tokenizer_json()}


def test_an_embedder_is_known_by_its_inputs_and_its_files(tmp_path):
    files = {
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 77},
        "README.md": b"---\nlicense: apache-2.0\ntags: [x]\n---\n# x\n",
        ".git/config": b"hidden files are no part of a package",
    }
    made = draft(lay(tmp_path, EMBEDDING | files))
    manifest = made.write()
    assert (manifest.task, manifest.unit, manifest.tokenizer) == ("text-embedding", Unit.TOKEN, "tokenizer.json")
    assert manifest.options == {
        "max_tokens": 77,
        "outputs_name": "last_hidden_state",
        "pooling": "cls",
        "normalize": True,
    }
    assert (manifest.license, manifest.is_metered, manifest.batch_axis) == ("apache-2.0", True, 0)
    assert ".git/config" not in manifest.files
    assert "1_Pooling" in why(made, "options.pooling")
    assert set(manifest.outputs) == {TensorSpec("embedding", "FP32", (-1, models.HIDDEN)), models.TOKENS}


def test_what_the_owner_says_is_not_guessed(tmp_path):
    made = draft(lay(tmp_path, EMBEDDING), options={"pooling": "last", "dimensions": 4, "max_tokens": 9})
    assert made.options["pooling"] == "last"
    assert made.options["max_tokens"] == 9
    assert why(made, "options.pooling") == "you said so"
    assert TensorSpec("embedding", "FP32", (-1, 4)) in made.outputs


def test_a_classifier_is_known_by_its_labels(tmp_path):
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"10": "k", **{str(i): chr(97 + i) for i in range(10)}},
        "problem_type": "multi_label_classification",
    }
    model = graph(
        [("input_ids", INT64, ["b", "s"]), ("attention_mask", INT64, ["b", "s"])], [("logits", FLOAT, ["b", 11])]
    )
    made = draft(lay(tmp_path, {**EMBEDDING, "model.onnx": model, "config.json": config}))
    assert made.task == "text-classification"
    assert made.options["labels"] == list("abcdefghijk")
    assert made.options["activation"] == "sigmoid"
    assert made.write().outputs == (TensorSpec("scores", "FP32", (-1, 11)), models.TOKENS)


def test_a_ranker_takes_pairs_and_gives_one_score(tmp_path):
    tokenizer = models.pair_tokenizer().to_str().encode()
    made = draft(lay(tmp_path, {"model.onnx": models.ranker(), "tokenizer.json": tokenizer}), task="text-ranking")
    manifest = made.write()
    assert manifest.inputs == (TensorSpec("query", "BYTES", (-1,)), *models.TEXT)
    assert manifest.outputs == (TensorSpec("scores", "FP32", (-1, 1)), models.TOKENS)
    assert (manifest.is_metered, manifest.batch_axis) == (True, 0)
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    assert cache.get(models.fetched(tmp_path, manifest)).served_output == "scores"
    with pytest.raises(ManifestError) as error:
        draft(lay(tmp_path, {"model.onnx": models.classifier()}), task="text-ranking")
    assert error.value.field == "outputs"


def test_a_classifier_of_images_takes_its_preprocessing(tmp_path):
    preprocessing = {
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 3,
    }
    model = graph([("pixel_values", FLOAT, ["b", 3, "h", "w"])], [("logits", FLOAT, ["b", 3])])
    files = {"m.onnx": model, "preprocessor_config.json": preprocessing, "config.json": {"id2label": {"0": "a"}}}
    made = draft(lay(tmp_path, files))
    assert (made.task, made.unit) == ("image-classification", Unit.IMAGE)
    assert made.options == {
        "activation": "softmax",
        "size": 224,
        "crop_percent": 88,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "resample": "bicubic",
    }


def test_a_generating_model_is_known_by_its_configuration(tmp_path):
    manifest = draft(lay(tmp_path, tiny_llm.files())).write()
    assert (manifest.task, manifest.entry, manifest.unit) == ("text-generation", "genai_config.json", Unit.TOKEN)
    assert manifest.options == {"context_length": 256, "max_output_tokens": 128, "template_tokens": 64}


def test_a_model_that_calls_functions_is_known_by_its_chat_template(tmp_path):
    calling = {"context_length": 4_096, "max_output_tokens": 256, "template_tokens": 256, "tool_format": "hermes"}
    manifest = draft(lay(tmp_path / "config", tiny_llm.tool_files())).write()
    assert manifest.options == calling
    of_file = tiny_llm.tool_files() | {
        "tokenizer_config.json": tiny_llm.TOKENIZER_CONFIG,
        "chat_template.jinja": tiny_llm.TOOL_TEMPLATE.encode(),
    }
    assert draft(lay(tmp_path / "file", of_file)).write().options == calling
    without = of_file | {"chat_template.jinja": b"{{ messages[0]['content'] }} <tool_call>"}
    assert "tool_format" not in draft(lay(tmp_path / "without", without)).write().options
    llama = """{% if tools %}Respond in the format {"name": function name, "parameters": dictionary}{% endif %}"""
    made = draft(lay(tmp_path / "llama", of_file | {"chat_template.jinja": llama.encode()})).write()
    assert made.options == calling | {"tool_format": "llama3_json"}
    said = draft(lay(tmp_path / "said", without), options={"tool_format": "hermes"}).write()
    assert said.options == calling


REFUSED = {
    "no folder": (None, {}, "package"),
    "no model": ({"readme.txt": b"x"}, {}, "entry"),
    "two models": ({"a.onnx": models.embedder(), "b.onnx": models.embedder()}, {}, "entry"),
    "strange task": (EMBEDDING, {"task": "music"}, "task"),
    "no tokenizer": ({"model.onnx": models.embedder()}, {"task": "text-embedding"}, "tokenizer"),
    "unknown output": (EMBEDDING, {"options": {"outputs_name": "pooler"}}, "options.outputs_name"),
    "broken config": ({**EMBEDDING, "config.json": b"{"}, {}, "config.json"),
    "no scores": (EMBEDDING, {"task": "text-classification"}, "outputs"),
    "oblong images": (
        {
            "m.onnx": graph([("x", FLOAT, ["b", 3, "h", "w"])], [("y", FLOAT, ["b", 3])]),
            "preprocessor_config.json": {"size": {"height": 10, "width": 20}},
        },
        {},
        "preprocessor_config.json",
    ),
}


@pytest.mark.parametrize(("files", "said", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_drafted_is_said_with_the_field(tmp_path, files, said, field):
    folder = tmp_path / "model"
    if files is not None:
        lay(folder, files)
    with pytest.raises(ManifestError) as error:
        draft(folder, **said)
    assert error.value.field == field


def test_every_file_that_disagrees_is_told(tmp_path):
    draft(lay(tmp_path, EMBEDDING | {"config.json": {}})).write()
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    (tmp_path / "config.json").unlink()
    (tmp_path / "more.txt").write_bytes(b"x")
    _, faults = packages.inspect(tmp_path)
    assert [(fault.field, fault.detail.split(" ", 1)[1]) for fault in faults] == [
        ("files.config.json", "is missing."),
        ("files.more.txt", "is not in the manifest."),
        ("files.tokenizer.json", "was changed."),
    ]


def test_a_link_out_of_the_folder_is_not_published(tmp_path):
    (tmp_path / "secret").write_text("key")
    folder = lay(tmp_path / "model", {"model.onnx": b"x"})
    (folder / "weights.data").symlink_to("model.onnx")
    assert set(packages.hash_files(folder)) == {"model.onnx", "weights.data"}
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ManifestError, match=r"README\.md is a link out") as refused:
        packages.hash_files(folder)
    assert refused.value.field == "files.README.md"


def test_a_snapshot_of_hugging_faces_cache_is_a_folder_of_links(tmp_path):
    snapshot = tmp_path / "snapshots" / "abc"
    lay(tmp_path / "blobs", {"1": b"x"})
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/1")
    assert set(packages.hash_files(snapshot)) == {"model.onnx"}


@pytest.mark.parametrize(
    ("operator", "tolerance"),
    [("Relu", None), ("MatMulInteger", 0.25), ("RandomNormal", 0), ("NonMaxSuppression", 0), ("QuantizeLinear", 0.25)],
)
def test_a_draft_says_how_far_honest_answers_lie_apart(tmp_path, operator, tolerance):
    made = onnx.load_model_from_string(graph([("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])]))
    made.graph.node.extend([helper.make_node("Identity", ["x"], ["z"]), helper.make_node(operator, ["z"], ["y"])])
    drafted = draft(lay(tmp_path, {"model.onnx": made.SerializeToString()}))
    assert drafted.options.get("audit_tolerance") == tolerance
    if tolerance is not None:
        assert operator in why(drafted, "options.audit_tolerance")
        said = draft(tmp_path, options={"audit_tolerance": 0.5})
        assert said.options["audit_tolerance"] == 0.5
