"""What a checkpoint is, read from its files alone: its architecture and the task that it is for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.folders import homes_of, lies_in
from workers.errors import ModelUnusable

CONFIG = "config.json"
TASKS = ("text-embedding", "text-classification", "image-classification", "text-generation")
# What says how a model is used and is kept beside the graph; never weights, never code.
COMPANIONS = (
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "README.md",
    "LICENSE",
)
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_HEADS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
}
# Parts of a sentence-transformers model that the pipelines of this package do themselves.
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint: its folder, what it is for, and the name of its file where it is GGUF."""

    folder: Path
    task: str
    architecture: str
    gguf: str | None = None


def read_source(path: Path, task: str | None) -> Source:
    """Tell what a folder or a `.gguf` file holds; `task` overrules what its configuration says.

    Raises:
        ModelUnusable: there is no checkpoint, or it is for a task that is not served.
    """
    if task is not None and task not in TASKS:
        raise ModelUnusable(f"{task!r} is not one of {', '.join(TASKS)}.", field="task")
    gguf = _gguf_of(path)
    if gguf is not None:
        if task not in (None, "text-generation"):
            raise ModelUnusable("GGUF files are read for text-generation only.", field="task")
        return Source(gguf.parent, "text-generation", "GGUF", gguf.name)
    if not path.is_dir():
        raise ModelUnusable(
            f"{path} is no folder with a checkpoint and no .gguf file.",
            field="path",
            remedy=f"Give the folder that holds {CONFIG} and the weights.",
        )
    if not any(next(path.glob(kind), None) for kind in _WEIGHTS):
        raise ModelUnusable(
            f"{path} has neither *.safetensors nor pytorch_model*.bin.",
            field="path",
            remedy="Download the weights too, not the pointers that Git LFS leaves.",
        )
    architecture = str(next(iter(_config(path).get("architectures") or [""]), ""))
    found = task or next((kind for end, kind in _HEADS.items() if architecture.endswith(end)), None)
    if found is None and architecture.endswith("Model") and _has_tokenizer(path):
        found = "text-embedding"
    if found is None and architecture.endswith("ForMaskedLM") and _has_tokenizer(path):
        found = "text-embedding"  # an encoder; its head is left off
    if found is None:
        raise ModelUnusable(
            f"{architecture or 'a checkpoint that names no architecture'} is for none of {', '.join(TASKS)}.",
            field=CONFIG,
            remedy="Say what it is for by --task, or export it to ONNX and publish that as --task tensor.",
        )
    if found == "text-embedding":
        _refuse_other_modules(path)
    return Source(path, found, architecture)


def companions(source: Path, into: Path) -> None:
    """Copy what says how the model is used, where it is there and what was made does not have it already."""
    for file in companion_files(source):
        copy = into / file.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def companion_files(source: Path) -> list[Path]:
    """Return the files that say how the model in a folder is used; none that a link leads elsewhere."""
    homes = homes_of(source)
    found = [source / name for name in COMPANIONS if (source / name).is_file()]
    return [file for file in found if lies_in(file, homes)]


def _gguf_of(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".gguf":
        return path.resolve()
    if not path.is_dir() or any(next(path.glob(kind), None) for kind in _WEIGHTS):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise ModelUnusable(
            f"{len(found)} GGUF files: {', '.join(one.name for one in found[:8])}.",
            field="path",
            remedy="Name one of them.",
        )
    return found[0].resolve() if found else None


def _has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))


def _refuse_other_modules(path: Path) -> None:
    """A sentence-transformers model may end in layers that the graph made here would lack."""
    modules = path / "modules.json"
    listed = _json(modules) if modules.is_file() else []
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in listed if isinstance(one, dict)]
    others = [kind for kind in kinds if kind not in _MODULES]
    if others:
        raise ModelUnusable(
            f"it ends in {', '.join(others)}, which would be left out.",
            field="modules.json",
            remedy="Export the whole model to ONNX and publish that folder.",
        )


def _config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise ModelUnusable(f"{path} has no {CONFIG}.", field=CONFIG, remedy="Save it beside the weights.")
    value = _json(file)
    if not isinstance(value, dict):
        raise ModelUnusable("not a JSON object.", field=CONFIG)
    return value


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelUnusable("not JSON.", field=file.name) from error
