"""A manifest drafted from a folder: what its files say of task, tensors, tokenizer, labels and limits, and why.

Reads what Hugging Face, sentence-transformers and onnxruntime-genai put beside a model. Says of each guess where it
comes from; the owner may overrule any. Called by `market model init`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.protocol.errors import ManifestError
from contracts.protocol.manifest import AUDIT_TOLERANCE, TASKS, Manifest, TensorSpec
from contracts.protocol.metering import DEFAULT_OUTPUT_TOKENS, DEFAULT_TEMPLATE_TOKENS, DEFAULT_TEXT_TOKENS
from contracts.protocol.pricing import Unit
from contracts.protocol.tool_formats import TOOL_FORMAT
from market.sdk import packages
from market.sdk.onnx_file import OnnxFile, OnnxTensor, read_onnx
from market.sdk.reproducible import tolerance_by

GENAI = "genai_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
# Templates that show tools explain them in some hundred tokens.
TOOL_TEMPLATE_TOKENS = 256
# What in a chat template tells how its model calls functions.
_TOOL_SIGNS = {"hermes": "<tool_call>", "llama3_json": '{"name": function name, "parameters": '}
MAX_TEXTS = 2_048
MAX_IMAGES = 32
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
_EMBEDDINGS = ("sentence_embedding", "embedding", "last_hidden_state", "token_embeddings")
# As tf2onnx calls each free size.
_NUMBERED = re.compile(r"unk__[0-9]+")
_FLOATS = ("FP16", "FP32", "FP64")
_RESAMPLING = {2: "bilinear", 3: "bicubic"}
_TEXT = TensorSpec("text", "BYTES", (-1,))
_QUERY = TensorSpec("query", "BYTES", (-1,))
_TOKENS = TensorSpec("tokens", "INT64", (-1,))
_LICENSE = re.compile(r"\A---\s.*?^license:\s*([\w.-]+)\s*$.*?^---", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Guess:
    """One thing a draft says, and what it was taken from."""

    field: str
    value: str
    why: str


@dataclass
class Draft:
    """A manifest in the making."""

    folder: Path
    task: str = ""
    entry: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    unit: Unit = Unit.REQUEST
    batch_axis: int | None = None
    max_batch: int = 64
    max_elements: int = 1 << 22
    tokenizer: str | None = None
    license_name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    guesses: list[Guess] = field(default_factory=list)

    def say(self, name: str, value: Any, why: str) -> None:
        """Note a guess."""
        self.guesses.append(Guess(name, value if isinstance(value, str) else json.dumps(value), why))

    def option(self, name: str, value: Any, why: str) -> None:
        """Set an option and say why."""
        self.options[name] = value
        self.say(f"options.{name}", value, why)

    def write(self) -> Manifest:
        """Hash the folder's files and write its manifest.

        Raises:
            ManifestError: what was drafted contradicts itself or the files.
        """
        return packages.pack(
            self.folder,
            inputs=self.inputs,
            outputs=self.outputs,
            entry=self.entry,
            task=self.task,
            unit=self.unit,
            batch_axis=self.batch_axis,
            max_batch=self.max_batch,
            max_elements=self.max_elements,
            tokenizer=self.tokenizer,
            license_name=self.license_name,
            options=self.options,
        )


def draft(
    folder: Path, *, task: str | None = None, entry: str | None = None, options: Mapping[str, Any] | None = None
) -> Draft:
    """Draft a manifest for a folder; what the owner says is not guessed.

    Raises:
        ManifestError: there is no model, or several; or it does not fit the task.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder.", field="package", remedy="Name a folder that is there.")
    if task is not None and task not in TASKS:
        raise ManifestError(f"{task!r} is not one of {', '.join(TASKS)}.", field="task")
    made = Draft(folder)
    said = dict(options or {})
    if task == "text-generation" or (task is None and entry is None and (folder / GENAI).is_file()):
        _generation(made, said)
    else:
        made.entry = entry or _find_entry(made)
        graph = read_onnx(folder / made.entry)
        for name in sorted(graph.external):
            if not (folder / made.entry).parent.joinpath(name).is_file():
                raise ManifestError(
                    f"{made.entry} keeps weights in {name}, which is not here.",
                    field=f"files.{name}",
                    remedy="Put the file beside it.",
                )
        made.task = task or _guess_task(made, graph)
        _DRAFTERS[made.task](made, graph, said)
        tolerance = tolerance_by(graph.operators)
        if tolerance is not None:
            made.option(AUDIT_TOLERANCE, *tolerance)
    made.options |= said
    for name, value in said.items():
        made.guesses = [guess for guess in made.guesses if guess.field != f"options.{name}"]
        made.say(f"options.{name}", value, "you said so")
    _license(made)
    return made


def _find_entry(made: Draft) -> str:
    found = sorted(path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*.onnx"))
    best: str | None = next((name for name in ("model.onnx", "onnx/model.onnx") if name in found), None)
    if best is None and len(found) == 1:
        best = found[0]
    if best is None:
        raise ManifestError(
            f"{len(found)} ONNX files: {', '.join(found[:8])}." if found else "there is no ONNX file.",
            field="entry",
            remedy="Name one by --entry." if found else "Export the model to ONNX.",
        )
    made.say("entry", best, "the ONNX file that is here" if len(found) == 1 else f"of {len(found)} ONNX files")
    return best


def _guess_task(made: Draft, graph: OnnxFile) -> str:
    names = {one.name for one in graph.inputs}
    config = _json(made.folder, "config.json")
    architecture = next(iter(config.get("architectures") or [""]), "")
    if "input_ids" in names and names <= _TEXT_INPUTS and (made.folder / TOKENIZER).is_file():
        scores = next((one for one in graph.outputs if len(one.shape) == 2 and one.datatype in _FLOATS), None)
        if scores is not None and ("Classification" in architecture or scores.name == "logits"):
            made.say("task", "text-classification", architecture or f"output {scores.name} is a row of scores a text")
            return "text-classification"
        made.say("task", "text-embedding", f"it takes token ids and gives {', '.join(o.name for o in graph.outputs)}")
        return "text-embedding"
    picture = graph.inputs[0] if len(graph.inputs) == 1 else None
    if picture is not None and len(picture.shape) == 4 and 3 in picture.shape[1:] and len(graph.outputs[0].shape) == 2:
        known = [name for name in ("preprocessor_config.json", "config.json") if (made.folder / name).is_file()]
        if known:
            made.say("task", "image-classification", f"{picture.name} is a batch of pictures, and {known[0]} is here")
            return "image-classification"
    made.say("task", "tensor", "nothing here says more: what is served is the graph itself")
    return "tensor"


def _tensor(made: Draft, graph: OnnxFile, said: dict[str, Any]) -> None:  # noqa: ARG001
    for one in (*graph.inputs, *graph.outputs):
        if not one.datatype:
            raise ManifestError(f"{one.name} has a type that cannot be sent.", field="inputs")
    made.inputs = tuple(map(_spec, graph.inputs))
    made.outputs = tuple(map(_spec, graph.outputs))
    first = {_free(one.shape[0]) if one.shape else 0 for one in (*graph.inputs, *graph.outputs)}
    if len(first) == 1 and isinstance(next(iter(first)), str):
        made.batch_axis, made.unit = 0, Unit.ROW
        made.say("batch_axis", 0, f"the first size of every tensor is free, {next(iter(first)) or 'without a name'}")
        made.say("unit", "row", "requests are joined by rows")
    else:
        made.say("unit", "request", "not every tensor has the same free first size, so requests are not joined")


def _free(size: int | str) -> int | str:
    """Return a size; free ones that a converter had to name by a number of its own are without a name."""
    return "" if isinstance(size, str) and _NUMBERED.fullmatch(size) else size


def _texts(made: Draft, graph: OnnxFile) -> None:
    if not (made.folder / TOKENIZER).is_file():
        raise ManifestError(f"there is no {TOKENIZER}.", field="tokenizer", remedy="Save the model's fast tokenizer.")
    made.tokenizer, made.unit, made.max_elements, made.inputs = TOKENIZER, Unit.TOKEN, MAX_TEXTS, (_TEXT,)
    made.say("tokenizer", TOKENIZER, "it is here")
    made.say("unit", "token", "texts are priced by their tokens; --unit million-tokens for finer prices")
    made.say("max_elements", MAX_TEXTS, "the most texts of one request")
    _batch(made, graph, "texts")
    made.option("max_tokens", *_max_tokens(made.folder))


def _batch(made: Draft, graph: OnnxFile, what: str) -> None:
    if all(one.shape and isinstance(one.shape[0], str) for one in graph.inputs):
        made.batch_axis = 0
        made.say("batch_axis", 0, f"the graph takes any number of {what} at once")
    else:
        made.say("batch_axis", None, f"the graph takes a fixed number of {what}")


def _max_tokens(folder: Path) -> tuple[int, str]:
    tokenizer = _json(folder, TOKENIZER)
    cut = tokenizer.get("truncation")
    for name, value in (
        ("sentence_bert_config.json, max_seq_length", _json(folder, "sentence_bert_config.json").get("max_seq_length")),
        ("tokenizer_config.json, model_max_length", _json(folder, "tokenizer_config.json").get("model_max_length")),
        ("config.json, max_position_embeddings", _json(folder, "config.json").get("max_position_embeddings")),
        ("tokenizer.json, truncation", cut.get("max_length") if isinstance(cut, dict) else None),
    ):
        if type(value) is int and 1 <= value <= 1 << 17:
            return value, name
    return DEFAULT_TEXT_TOKENS, "nothing here says it"


def _embedding(made: Draft, graph: OnnxFile, said: dict[str, Any]) -> None:
    _texts(made, graph)
    output = _pick(graph, said, _EMBEDDINGS)
    made.option("outputs_name", output.name, f"{output.datatype}{list(output.shape)}")
    config = _json(made.folder, "config.json")
    width = output.shape[-1] if isinstance(output.shape[-1], int) else config.get("hidden_size")
    if type(width) is not int or len(output.shape) not in (2, 3):
        raise ManifestError(
            f"{output.name} is {list(output.shape)}: how long a vector is cannot be seen.",
            field="outputs",
            remedy="Put the model's config.json beside it, with hidden_size, or name another output by "
            "--option outputs_name=….",
        )
    if len(output.shape) == 2:
        made.option("pooling", "none", f"{output.name} is one vector a text")
    else:
        made.option("pooling", *_pooling(made.folder))
    made.option("normalize", value=True, why="vectors of length one are what most use")
    dimensions = said.get("dimensions", width)
    made.outputs = (TensorSpec("embedding", "FP32", (-1, dimensions)), _TOKENS)
    made.say("outputs", f"embedding FP32[-1, {dimensions}], tokens", f"{output.name} is {width} wide")


def _pooling(folder: Path) -> tuple[str, str]:
    config = _json(folder, "1_Pooling/config.json")
    for key, kind in (
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ):
        if config.get(key) is True:
            return kind, f"1_Pooling/config.json, {key}"
    return "mean", "there is no 1_Pooling/config.json; most models of sentences take the mean"


def _classification(made: Draft, graph: OnnxFile, said: dict[str, Any]) -> None:
    _texts(made, graph)
    _labels(made, _pick(graph, said, ("logits", "scores")))
    made.outputs = (*made.outputs, _TOKENS)


def _ranking(made: Draft, graph: OnnxFile, said: dict[str, Any]) -> None:
    _texts(made, graph)
    output = _pick(graph, said, ("logits", "scores"))
    if len(output.shape) != 2 or (isinstance(output.shape[-1], int) and output.shape[-1] != 1):
        raise ManifestError(f"{output.name} is {list(output.shape)}, not one score a pair.", field="outputs")
    made.inputs = (_QUERY, _TEXT)
    made.option("activation", "sigmoid", "scores from 0 to 1 are what rerankers give")
    made.outputs = (TensorSpec("scores", "FP32", (-1, 1)), _TOKENS)
    made.say("outputs", "scores FP32[-1, 1], tokens", f"{output.name} is one score a pair")


def _labels(made: Draft, output: OnnxTensor) -> None:
    config = _json(made.folder, "config.json")
    count = output.shape[-1] if len(output.shape) == 2 and isinstance(output.shape[-1], int) else None
    by_id = config.get("id2label")
    labels: list[str] = []
    if isinstance(by_id, dict):
        labels = [str(by_id[key]) for key in sorted(by_id, key=lambda key: int(key) if key.isdigit() else -1)]
    if labels and count in (None, len(labels)):
        made.option("labels", labels, "config.json, id2label")
        count = len(labels)
    if count is None:
        raise ManifestError(
            f"{output.name} is {list(output.shape)}: how many labels there are cannot be seen.",
            field="outputs",
            remedy="Put the model's config.json beside it, with id2label.",
        )
    many = config.get("problem_type") == "multi_label_classification"
    activation = "sigmoid" if many or count == 1 else "softmax"
    made.option("activation", activation, "config.json, problem_type" if many else f"{count} score(s), one answer")
    made.outputs = (TensorSpec("scores", "FP32", (-1, count)),)
    made.say("outputs", f"scores FP32[-1, {count}]", f"{output.name} is {list(output.shape)}")


def _image(made: Draft, graph: OnnxFile, said: dict[str, Any]) -> None:
    made.inputs, made.unit = (TensorSpec("image", "BYTES", (-1,)),), Unit.IMAGE
    made.max_batch = made.max_elements = MAX_IMAGES
    made.say("unit", "image", "each image is priced")
    _batch(made, graph, "images")
    _labels(made, _pick(graph, said, ("logits", "scores")))
    config, name = _json(made.folder, "preprocessor_config.json"), "preprocessor_config.json"
    picture = graph.inputs[0].shape if graph.inputs else ()
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    size = _edge(crop) or _edge(config.get("size"))
    seen = [dim for dim in picture[1:] if isinstance(dim, int) and dim > 4]
    if not config:
        name = "nothing here says it; ImageNet's habit"
    if seen:
        made.option("size", seen[0], "the graph's input")
    else:
        made.option("size", size or 224, f"{name}, size" if size else "nothing here says it; the most usual")
    if crop is not None:
        edge = _edge(config.get("size")) or size or 224
        made.option("crop_percent", round(100 * made.options["size"] / max(edge, 1)), f"{name}, do_center_crop")
    plain = config.get("do_normalize") is False
    made.option("mean", [0.0] * 3 if plain else config.get("image_mean", [0.485, 0.456, 0.406]), name)
    made.option("std", [1.0] * 3 if plain else config.get("image_std", [0.229, 0.224, 0.225]), name)
    made.option("resample", _RESAMPLING.get(config.get("resample", 2), "bilinear"), name)


def _edge(size: Any) -> int | None:
    if isinstance(size, dict):
        if "height" in size and size.get("height") != size.get("width"):
            raise ManifestError(
                "images that are not square are not served.",
                field="preprocessor_config.json",
                remedy="Serve it as --task tensor.",
            )
        size = size.get("shortest_edge", size.get("height"))
    return size if type(size) is int and size > 0 else None


def _generation(made: Draft, said: dict[str, Any]) -> None:
    made.task, made.entry, made.unit, made.max_batch, made.max_elements = "text-generation", GENAI, Unit.TOKEN, 1, 1
    config = _json(made.folder, GENAI)
    made.say("task", "text-generation", f"{GENAI} is here")
    made.inputs = (TensorSpec("prompt", "BYTES", (1,)),)
    made.outputs = (
        TensorSpec("text", "BYTES", (1,)),
        TensorSpec("finish_reason", "BYTES", (1,)),
        TensorSpec("usage", "INT64", (2,)),
        TensorSpec("logprobs", "FP32", (-1,)),
        TensorSpec("top_tokens", "BYTES", (-1, -1)),
        TensorSpec("top_logprobs", "FP32", (-1, -1)),
    )
    model = config.get("model")
    context = model.get("context_length") if isinstance(model, dict) else None
    if type(context) is not int:
        raise ManifestError("it has no model.context_length.", field=GENAI)
    if not (made.folder / TOKENIZER).is_file():
        raise ManifestError(f"there is no {TOKENIZER}.", field="tokenizer")
    made.tokenizer = TOKENIZER
    made.say(
        "unit", "token", "prompt and completion are priced by their tokens; --unit million-tokens for finer prices"
    )
    made.option("context_length", context, f"{GENAI}, model.context_length")
    most = min(DEFAULT_OUTPUT_TOKENS, int(said.get("context_length", context)) // 2)
    made.option("max_output_tokens", most, "given where a client names no max_tokens")
    form = _tool_format(made.folder)
    if form is not None:
        made.option(TOOL_FORMAT, form, f"the chat template shows tools and has {_TOOL_SIGNS[form]}")
    calls = form is not None or TOOL_FORMAT in said
    room = TOOL_TEMPLATE_TOKENS if calls else DEFAULT_TEMPLATE_TOKENS
    made.option(
        "template_tokens", room, "room for what the chat template adds" + (", about tools too" if calls else "")
    )


def _tool_format(folder: Path) -> str | None:
    """Return how a model calls functions, by its chat template."""
    template: Any = None
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text("utf-8", "replace")
    elif (folder / TOKENIZER_CONFIG).is_file():
        template = _json(folder, TOKENIZER_CONFIG).get("chat_template")
    if not isinstance(template, str) or "tools" not in template:
        return None
    return next((name for name, sign in _TOOL_SIGNS.items() if sign in template), None)


def _pick(graph: OnnxFile, said: dict[str, Any], preferred: tuple[str, ...]) -> OnnxTensor:
    floats = {one.name: one for one in graph.outputs if one.datatype in _FLOATS}
    wanted = said.get("outputs_name")
    if wanted is not None and wanted not in floats:
        raise ManifestError(f"the graph gives {', '.join(floats)}.", field="options.outputs_name")
    if not floats:
        raise ManifestError("the graph gives no floating-point output.", field="outputs")
    return floats[wanted or next((name for name in preferred if name in floats), next(iter(floats)))]


def _spec(one: OnnxTensor) -> TensorSpec:
    return TensorSpec(one.name, one.datatype, tuple(dim if isinstance(dim, int) else -1 for dim in one.shape))


def _license(made: Draft) -> None:
    readme = made.folder / "README.md"
    found = _LICENSE.search(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    if found:
        made.license_name = found[1]
        made.say("license", found[1], "README.md")


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object beside the model, empty if it is not there."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ManifestError("not JSON.", field=name) from error
    if not isinstance(value, dict):
        raise ManifestError("not a JSON object.", field=name)
    return value


_DRAFTERS = {
    "tensor": _tensor,
    "text-embedding": _embedding,
    "text-classification": _classification,
    "text-ranking": _ranking,
    "image-classification": _image,
}
