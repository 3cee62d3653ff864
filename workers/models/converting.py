"""PyTorch and GGUF checkpoints made into what a worker serves: an ONNX graph, or a folder for onnxruntime-genai.

Reads a folder in Hugging Face's layout or one `.gguf` file. No code that comes with a checkpoint is run and nothing is
fetched. What was made is run beside the original, and refused if both do not agree. Needs the extra [convert-torch].
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.errors import ModelUnusable
from workers.models import runtime
from workers.models.sources import Source, companions, read_source

PACKAGES = ("torch", "transformers", "onnxscript", "onnx", "onnx_ir")
EXTRA = "convert-torch"
PRECISIONS = ("fp32", "int8", "int4")
OPSET = 18
ENTRY = "model.onnx"
# How far the graph's numbers may be from PyTorch's, as a share of their length: 32 bits summed in another order.
MOST_APART = 1e-3
BUILD_SECONDS = 3_600
_SENTENCES = ("The quick brown fox jumps over the lazy dog.", "A short one.")
_EDGE = 224


@dataclass(frozen=True, slots=True)
class Converted:
    """What was made; `apart` is how far its outputs are from PyTorch's, None where they were not compared."""

    folder: Path
    task: str
    architecture: str
    precision: str
    apart: float | None


def convert(path: Path, into: Path, *, task: str | None = None, precision: str = "fp32") -> Converted:
    """Write a folder that `market model init` understands; it is removed again if anything fails.

    `precision` is for text generation; every other model is made in `fp32`, and quantised afterwards if at all.

    Raises:
        ModelUnusable: a package is missing, the checkpoint is of no kind that is served, or it does not convert.
    """
    path, into = path.resolve(), into.resolve()  # the builder runs in a folder of its own
    source = read_source(path, task)
    if precision not in PRECISIONS:
        raise ModelUnusable(f"{precision!r} is not one of {', '.join(PRECISIONS)}.", field="precision")
    if into.exists() and any(into.iterdir()):
        raise ModelUnusable(f"{into} is not empty.", field="into", remedy="Name another folder.")
    _need(*PACKAGES, *(("onnxruntime_genai",) if source.task == "text-generation" else ()))
    if source.gguf is not None:
        _need("gguf", "accelerate")
    # Before transformers and PyTorch are imported: nothing is fetched, and of pickles only weights are read.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    _hush()
    into.mkdir(parents=True, exist_ok=True)
    try:
        if source.task == "text-generation":
            return _generation(source, into, precision)
        return _graph(source, into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def _need(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        extra = "llm" if missing == ["onnxruntime_genai"] else EXTRA
        raise ModelUnusable(
            f"{', '.join(missing)} of the packages that convert checkpoints {'is' if len(missing) == 1 else 'are'} "
            "not installed.",
            field="path",
            remedy=f"Install the extra [{extra}]: pip install 'inference-market[{extra}]'.",
        )


def _hush() -> None:
    """Keep what PyTorch's own parts say of each other off the screen; errors are told by this module."""
    import logging
    import warnings

    from transformers.utils import logging as told

    told.set_verbosity_error()
    told.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|copyreg)\b")


def _refused(error: BaseException, doing: str) -> ModelUnusable:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ModelUnusable(
        f"{doing} failed: {line}",
        field="path",
        remedy="Export it to ONNX by the means of whoever made it, and publish that folder.",
    )


# --- text generation: onnxruntime-genai's own builder -----------------------------------------------------------------


def _generation(source: Source, into: Path, precision: str) -> Converted:
    with TemporaryDirectory(dir=into.parent, prefix=".convert-") as scratch:
        folder = source.folder if source.gguf is None else _unpacked(source, Path(scratch) / "checkpoint")
        command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(into)]
        command += ["-p", precision, "-e", "cpu", "-c", str(Path(scratch) / "cache")]
        quiet = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            command,
            env=quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
            cwd=scratch,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise _refused(RuntimeError(lines[-1]), "onnxruntime-genai's builder")
        companions(source.folder, into)
    return Converted(into, source.task, source.architecture, precision, None)


def _unpacked(source: Source, into: Path) -> Path:
    """Write the weights of a GGUF file, of whatever precision, as a checkpoint in 32 bits with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, gguf_file=source.gguf, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source.folder,
            gguf_file=source.gguf,
            trust_remote_code=False,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.hf_quantizer = None  # its weights are plain now, and what it takes for quantised it does not write
        tokenizer.save_pretrained(into)
        model.save_pretrained(into)
    except Exception as error:  # transformers raises whatever its parts do
        raise _refused(error, f"reading {source.gguf}") from error
    return into


# --- everything else: one graph by torch.onnx -------------------------------------------------------------------------


def _graph(source: Source, into: Path) -> Converted:
    import torch
    import transformers

    kinds = {
        "text-embedding": transformers.AutoModel,
        "text-classification": transformers.AutoModelForSequenceClassification,
        "image-classification": transformers.AutoModelForImageClassification,
    }
    try:
        loaded: Any = kinds[source.task]
        model = loaded.from_pretrained(
            source.folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        ).eval()
    except Exception as error:
        raise _refused(error, "loading the checkpoint") from error
    companions(source.folder, into)
    sample = _pixels(model) if source.task == "image-classification" else _tokens(source, into, model)
    output = "last_hidden_state" if source.task == "text-embedding" else "logits"
    try:
        _export(model, sample, into / ENTRY, output)
    except Exception as error:
        raise _refused(error, "exporting it") from error
    return Converted(into, source.task, source.architecture, "fp32", _apart(model, sample, into / ENTRY, output))


def _tokens(source: Source, into: Path, model: Any) -> dict[str, NDArray[np.int64]]:
    """Return two tokenised sentences, as the names of the model's inputs; keeps the fast tokenizer beside the graph."""
    import inspect

    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
        if not (into / "tokenizer.json").is_file():
            tokenizer.save_pretrained(into)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or next(iter(tokenizer.get_vocab()))
        encoded = tokenizer(list(_SENTENCES), padding=True, return_tensors="np")
    except Exception as error:
        raise _refused(error, "reading its tokenizer") from error
    if not (into / "tokenizer.json").is_file():
        raise ModelUnusable("it has no fast tokenizer.", field="tokenizer", remedy="Save one as tokenizer.json.")
    taken = inspect.signature(model.forward).parameters
    sample = {name: np.asarray(encoded[name], np.int64) for name in encoded if name in taken}
    # A token for padding that only the tokenizer knows lies beyond the model's own; any token serves as a sample.
    sample["input_ids"] = np.minimum(sample["input_ids"], model.config.vocab_size - 1)
    return sample


def _pixels(model: Any) -> dict[str, NDArray[np.float32]]:
    edge = getattr(model.config, "image_size", None)
    edge = edge if isinstance(edge, int) else _EDGE
    noise = np.random.default_rng(0).standard_normal((2, 3, edge, edge))
    return {"pixel_values": noise.astype(np.float32)}


def _export(model: Any, sample: Mapping[str, NDArray[Any]], target: Path, output: str) -> None:
    import torch

    module: Any = torch.nn.Module
    names = list(sample)

    class OneOutput(module):  # type: ignore[misc]
        """The model with the one output that is served; its inputs by place, since the exporter knows no `**inputs`."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, first: Any, second: Any = None, third: Any = None) -> Any:
            given = dict(zip(names, (first, second, third), strict=False))
            return getattr(self.model(**given), output)

    sizes = {0: torch.export.Dim("batch", min=1, max=1 << 12)}
    if "input_ids" in sample:
        sizes[1] = torch.export.Dim("length", min=2, max=getattr(model.config, "max_position_embeddings", 1 << 17))
    program = torch.onnx.export(
        OneOutput().eval(),
        tuple(torch.from_numpy(array) for array in sample.values()),
        dynamic_shapes=tuple(dict(sizes) for _ in sample),
        input_names=names,
        output_names=[output],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    program.save(target, external_data=_bytes(model) > runtime.MAX_INLINE_BYTES)


def _bytes(model: Any) -> int:
    return sum(int(one.numel()) * int(one.element_size()) for one in model.parameters())


def _apart(model: Any, sample: Mapping[str, NDArray[Any]], path: Path, output: str) -> float:
    """Run graph and original on the sample and on its first row alone; return the larger difference."""
    import torch

    beside = {one.name: one.read_bytes() for one in path.parent.glob(f"{path.name}.*")}
    session = runtime.open_session(path.read_bytes(), provider="cpu", threads=0, external=beside)
    worst = 0.0
    for fed in (sample, {name: array[:1] for name, array in sample.items()}):
        with torch.no_grad():
            wanted = getattr(model(**{name: torch.from_numpy(array) for name, array in fed.items()}), output).numpy()
        (got,) = session.run([output], dict(fed))
        length = float(np.linalg.norm(wanted)) or 1.0
        worst = max(worst, float(np.linalg.norm(got - wanted)) / length)
    if not worst <= MOST_APART:
        raise ModelUnusable(
            f"the graph's {output} is {worst:.2g} of its length away from PyTorch's, more than {MOST_APART:g}.",
            field="path",
            remedy="Export it to ONNX by the means of whoever made it, and publish that folder.",
        )
    return worst
