"""The `genai_config.json` of a package, held to what is harmless before onnxruntime-genai reads it.

That file may name a library to load and files to write: a package is a stranger's, so only known settings pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.protocol.manifest import Manifest
from workers.errors import ModelUnusable, UnsafePackage

FILENAME = "genai_config.json"
_SESSION_OPTIONS = frozenset(
    {
        "log_id",
        "log_severity_level",
        "log_verbosity_level",
        "intra_op_num_threads",
        "inter_op_num_threads",
        "enable_cpu_mem_arena",
        "enable_mem_pattern",
        "graph_optimization_level",
        "provider_options",
    }
)
_FORBIDDEN = frozenset({"custom_ops_library", "enable_profiling", "run_options", "pipeline"})
_OTHER_MODELS = frozenset({"encoder", "vision", "speech", "vad", "embedding", "joiner", "draft", "mtp"})


@dataclass(frozen=True, slots=True)
class GenaiConfig:
    """What the worker needs to know of it; bytes of the attention cache per token, and the decoder's file beside it.

    `vocabulary` is how many tokens there are, 0 if it does not say.
    """

    context_length: int
    cache_bytes_per_token: int
    decoder: str
    heads: int
    head_size: int
    vocabulary: int = 0


def read_config(data: bytes, manifest: Manifest) -> GenaiConfig:
    """Read and check the configuration.

    Raises:
        UnsafePackage: it says something that could load or write files.
        ModelUnusable: it is not the configuration of a decoder whose files are in the package.
    """
    try:
        raw = json.loads(data, object_pairs_hook=_once)
    except UnsafePackage:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelUnusable("not JSON.", field=FILENAME) from error
    model = raw.get("model") if isinstance(raw, dict) else None
    decoder = model.get("decoder") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(decoder, dict):
        raise ModelUnusable("there is no model.decoder.", field=FILENAME)
    others = sorted(_OTHER_MODELS & set(model))
    if others:
        raise ModelUnusable(f"model.{others[0]}: only decoders of text are served.", field=FILENAME)
    _walk(raw, "", manifest)
    numbers = {
        "context_length": model.get("context_length"),
        "num_hidden_layers": decoder.get("num_hidden_layers"),
        "num_key_value_heads": decoder.get("num_key_value_heads"),
        "head_size": decoder.get("head_size"),
    }
    for name, value in numbers.items():
        if type(value) is not int or not 1 <= value <= 1 << 24:
            raise ModelUnusable(f"{name} is {value!r}, not a whole number above 0.", field=FILENAME)
    per_token = 2 * 4 * numbers["num_hidden_layers"] * numbers["num_key_value_heads"] * numbers["head_size"]  # type: ignore[operator]
    if not isinstance(decoder.get("filename"), str):
        raise ModelUnusable("model.decoder.filename is missing.", field=FILENAME)
    vocabulary = model.get("vocab_size")
    return GenaiConfig(
        int(model["context_length"]),
        int(per_token),
        decoder["filename"],
        int(decoder["num_key_value_heads"]),
        int(decoder["head_size"]),
        vocabulary if type(vocabulary) is int and vocabulary > 0 else 0,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        # Of two values this parser takes the last, another the first.
        raise UnsafePackage("a name is given twice.", field=FILENAME)
    return dict(pairs)


def _walk(value: Any, where: str, manifest: Manifest) -> None:
    if isinstance(value, list):
        for item in value:
            _walk(item, where, manifest)
    if not isinstance(value, Mapping):
        return
    for name, item in value.items():
        path = f"{where}.{name}".removeprefix(".")
        if name in _FORBIDDEN:
            raise UnsafePackage(f"{path} is not allowed.", field=FILENAME, remedy="The owner must leave it out.")
        if name == "session_options" and isinstance(item, Mapping):
            unknown = sorted(set(item) - _SESSION_OPTIONS)
            if unknown:
                raise UnsafePackage(f"{path}.{unknown[0]} is not allowed.", field=FILENAME)
        if name.endswith(("filename", "_file", "_dir", "_path")):
            folder = manifest.entry.rpartition("/")[0]
            if not isinstance(item, str) or (f"{folder}/" if folder else "") + item not in manifest.files:
                raise UnsafePackage(f"{path} names {item!r}, which is not in the package.", field=FILENAME)
        _walk(item, path, manifest)
