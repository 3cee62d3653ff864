"""Small real models, made here: an embedder, a classifier of texts, one of images; and their tokenizer."""

import hashlib
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from contracts.protocol.manifest import FILENAME, FileEntry, Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from workers.models.store import PackageStore

WORDS = [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["the", "a", "cat", "dog", "sat", "on", "mat", "and", "ran", "far", "away", "from", "home", "today"],
]
HIDDEN = 8
LABELS = ["good", "bad", "odd"]

TEXT = (TensorSpec("text", "BYTES", (-1,)),)
TOKENS = TensorSpec("tokens", "INT64", (-1,))
ROW = TensorSpec("x", "FP32", (1, -1))


def tokenizer_json() -> bytes:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    # what a file says of cutting and padding is the pipeline's business
    tokenizer.enable_padding(length=5)
    tokenizer.enable_truncation(3)
    return tokenizer.to_str().encode()


def _save(nodes, inputs, outputs, weights) -> bytes:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _ids(*names):
    return [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names]


def embedder() -> bytes:
    """input_ids, attention_mask → last_hidden_state float[batch, sequence, 8]."""
    table = np.random.default_rng(0).normal(size=(len(WORDS), HIDDEN)).astype("f4")
    return _save(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        _ids("input_ids", "attention_mask"),
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])],
        {"table": table},
    )


def wide_embedder(size=256) -> bytes:
    """input_ids, attention_mask → last_hidden_state float[batch, sequence, 256], by weights worth quantising."""
    random = np.random.default_rng(6)
    weights = {"table": random.normal(size=(len(WORDS), size)), "turn": random.normal(size=(size, size)) / size**0.5}
    return _save(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
            helper.make_node("MatMul", ["vectors", "turn"], ["last_hidden_state"]),
        ],
        _ids("input_ids", "attention_mask"),
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", size])],
        {name: value.astype("f4") for name, value in weights.items()},
    )


def classifier() -> bytes:
    """input_ids, attention_mask → logits float[batch, 3]: the mean of the masked tokens' vectors."""
    table = np.random.default_rng(1).normal(size=(len(WORDS), len(LABELS))).astype("f4")
    return _save(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["vectors", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["column", "axis"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["logits"]),
        ],
        _ids("input_ids", "attention_mask"),
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        {"table": table, "last": np.array([2]), "axis": np.array([1])},
    )


def ranker() -> bytes:
    """input_ids, attention_mask, token_type_ids → logits float[batch, 1]: the second text's tokens count twice."""
    table = np.random.default_rng(4).normal(size=(len(WORDS), 1)).astype("f4")
    return _save(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
            helper.make_node("Add", ["attention_mask", "token_type_ids"], ["sides"]),
            helper.make_node("Mul", ["attention_mask", "sides"], ["weight"]),
            helper.make_node("Cast", ["weight"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["vectors", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["logits"], keepdims=0),
        ],
        _ids("input_ids", "attention_mask", "token_type_ids"),
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        {"table": table, "last": np.array([2]), "axis": np.array([1])},
    )


def image_classifier(size=8) -> bytes:
    """pixels float[batch, 3, 8, 8] → logits float[batch, 3]: each channel's mean, weighted."""
    weights = np.random.default_rng(2).normal(size=(3, len(LABELS))).astype("f4")
    return _save(
        [
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        {"weights": weights},
    )


def wide(size=256) -> bytes:
    """x float[batch, 256] → y float[batch, 256]: two products with weights worth quantising, a tanh between them."""
    random = np.random.default_rng(3)
    weights = {name: (random.normal(size=(size, size)) / size**0.5).astype("f4") for name in ("first", "second")}
    return _save(
        [
            helper.make_node("MatMul", ["x", "first"], ["product"]),
            helper.make_node("Tanh", ["product"], ["bent"]),
            helper.make_node("MatMul", ["bent", "second"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", size])],
        weights,
    )


def loudness() -> bytes:
    """audio float[batch, samples], gain float[1] → power float[batch]: each recording's mean square, times the gain."""
    return _save(
        [
            helper.make_node("Mul", ["audio", "audio"], ["squares"]),
            helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Mul", ["mean", "gain"], ["power"]),
        ],
        [
            helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("power", TensorProto.FLOAT, ["batch"])],
        {},
    )


def one_number(nodes, x: TensorSpec) -> bytes:
    """x → y float[], by these nodes."""
    datatype = {"INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}[x.datatype]
    shape = ["size" if n == -1 else n for n in x.shape]
    return _save(
        nodes,
        [helper.make_tensor_value_info(x.name, datatype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        {},
    )


def laborious(steps=800) -> bytes:
    """x float[1, size] → y float[]: the largest of its sines' sines and so on; some 2 us for each."""
    names = ["x", *(f"s{i}" for i in range(steps))]
    sines = [helper.make_node("Sin", [before], [after]) for before, after in pairwise(names)]
    return one_number([*sines, helper.make_node("ReduceMax", [names[-1]], ["y"], keepdims=0)], ROW)


def bfloat16() -> bytes:
    """x bfloat16[batch, 2] → y, the same; z float[batch, 2]."""
    shape = ["batch", 2]
    return _save(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT)],
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, shape)],
        [
            helper.make_tensor_value_info("y", TensorProto.BFLOAT16, shape),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, shape),
        ],
        {},
    )


def write(folder, files: dict[str, bytes], **fields) -> Manifest:
    """Write files and their manifest."""
    entries = {}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        entries[name] = FileEntry(hashlib.sha256(data).digest(), len(data))
    manifest = Manifest(**{"entry": "model.onnx", "files": entries, "batch_axis": 0, "license": "MIT", **fields})
    (folder / FILENAME).write_bytes(manifest.to_bytes())
    return manifest


def embedding_package(folder, width=HIDDEN, unit=Unit.TOKEN, **options) -> Manifest:
    return write(
        folder,
        {"model.onnx": embedder(), "tokenizer.json": tokenizer_json()},
        task="text-embedding",
        inputs=TEXT,
        outputs=(TensorSpec("embedding", "FP32", (-1, width)), TOKENS),
        unit=unit,
        tokenizer="tokenizer.json",
        options={"max_tokens": 16, **options},
    )


def text_classifier_package(folder, **options) -> Manifest:
    return write(
        folder,
        {"model.onnx": classifier(), "tokenizer.json": tokenizer_json()},
        task="text-classification",
        inputs=TEXT,
        outputs=(TensorSpec("scores", "FP32", (-1, len(LABELS))), TOKENS),
        unit=Unit.TOKEN,
        tokenizer="tokenizer.json",
        options={"max_tokens": 16, "labels": LABELS, **options},
    )


def pair_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def ranker_package(folder, **options) -> Manifest:
    return write(
        folder,
        {"model.onnx": ranker(), "tokenizer.json": pair_tokenizer().to_str().encode()},
        task="text-ranking",
        inputs=(TensorSpec("query", "BYTES", (-1,)), *TEXT),
        outputs=(TensorSpec("scores", "FP32", (-1, 1)), TOKENS),
        unit=Unit.TOKEN,
        tokenizer="tokenizer.json",
        options={"max_tokens": 16, **options},
    )


def image_classifier_package(folder, **options) -> Manifest:
    return write(
        folder,
        {"model.onnx": image_classifier()},
        task="image-classification",
        inputs=(TensorSpec("image", "BYTES", (-1,)),),
        outputs=(TensorSpec("scores", "FP32", (-1, len(LABELS))),),
        unit=Unit.ROW,
        max_batch=16,
        options={"labels": LABELS, **options},
    )


def loudness_package(folder) -> Manifest:
    """Priced by the second of audio, at 8,000 samples a second."""
    return write(
        folder,
        {"model.onnx": loudness()},
        task="tensor",
        inputs=(TensorSpec("audio", "FP32", (-1, -1)), TensorSpec("gain", "FP32", (1,))),
        outputs=(TensorSpec("power", "FP32", (-1,)),),
        unit=Unit.SECOND,
        batch_axis=None,
        options={"sample_rate": 8_000, "audio_input": "audio"},
    )


def one_number_package(folder, graph: bytes, x: TensorSpec) -> Manifest:
    return write(
        folder,
        {"model.onnx": graph},
        task="tensor",
        inputs=(x,),
        outputs=(TensorSpec("y", "FP32", ()),),
        unit=Unit.REQUEST,
        batch_axis=None,
    )


def laborious_package(folder) -> Manifest:
    return one_number_package(folder, laborious(), ROW)


def bfloat16_package(folder) -> Manifest:
    return write(
        folder,
        {"model.onnx": bfloat16()},
        task="tensor",
        inputs=(TensorSpec("x", "BF16", (-1, 2)),),
        outputs=(TensorSpec("y", "BF16", (-1, 2)), TensorSpec("z", "FP32", (-1, 2))),
        unit=Unit.ROW,
        max_batch=8,
    )


def extremes_package(folder) -> Manifest:
    """Of zeros it gives what JSON has no word for: infinities of either sign, and no numbers."""
    names = {
        "inverse": TensorProto.FLOAT,
        "product": TensorProto.FLOAT,
        "half": TensorProto.FLOAT16,
        "brain": TensorProto.BFLOAT16,
    }
    graph = _save(
        [
            helper.make_node("Reciprocal", ["x"], ["inverse"]),
            helper.make_node("Mul", ["x", "inverse"], ["product"]),
            helper.make_node("Cast", ["inverse"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["inverse"], ["brain"], to=TensorProto.BFLOAT16),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name, kind in names.items()],
        {},
    )
    datatypes = {"inverse": "FP32", "product": "FP32", "half": "FP16", "brain": "BF16"}
    return write(
        folder,
        {"model.onnx": graph},
        task="tensor",
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=tuple(TensorSpec(name, datatypes[name], (-1, 4)) for name in names),
        unit=Unit.ROW,
        max_batch=8,
    )


def summary_package(folder) -> Manifest:
    """Of rows of two numbers it gives each twice, and the sum of all."""
    graph = _save(
        [
            helper.make_node("Add", ["x", "x"], ["twice"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2]),
        ],
        {"axis": np.array([0])},
    )
    return write(
        folder,
        {"model.onnx": graph},
        task="tensor",
        inputs=(TensorSpec("x", "FP32", (-1, 2)),),
        outputs=(TensorSpec("twice", "FP32", (-1, 2)), TensorSpec("sum", "FP32", (2,))),
        unit=Unit.ROW,
        max_batch=8,
    )


def fetched(folder, manifest: Manifest):
    """Return the package as a worker holds it."""
    store = PackageStore(folder.parent / "cache", allow_file_uri=True, max_package_bytes=1 << 30)
    return store.get(manifest.model_id, folder.as_uri())
