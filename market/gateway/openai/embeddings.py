"""Embedding requests and answers.

Decides what of a text's vector is asked for and how it is written. Called by the routes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from contracts.protocol.manifest import Manifest
from market.errors import InvalidRequest
from market.gateway.openai import fields, texts
from market.gateway.openai.naming import ALL_INPUTS
from market.gateway.tensors_json import InferenceBody
from market.inference.model import Answer

TASK = "text-embedding"
VECTORS = "embedding"
_KNOWN = frozenset({"model", "input", "encoding_format", "dimensions"})
_FORMATS = ("float", "base64")


@dataclass(frozen=True, slots=True)
class EmbeddingCall:
    """A checked embedding request."""

    names: ClassVar[Mapping[str, str]] = {"text": "input", ALL_INPUTS: "input"}

    model: str
    texts: tuple[str, ...]
    base64: bool
    dimensions: int | None

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model.

        Raises:
            WrongTask: the model gives no embeddings.
            PayloadTooLarge: more texts than it takes.
            InvalidRequest: its vectors have another number of dimensions.
        """
        texts.check_task(self.model, manifest, TASK)
        texts.check_count(len(self.texts), manifest, "texts", "input")
        vectors = next((spec for spec in manifest.outputs if spec.name == VECTORS), None)
        width = vectors.shape[-1] if vectors is not None and vectors.shape else -1
        if self.dimensions is not None and self.dimensions != width:
            raise InvalidRequest(
                f"{self.model} gives vectors of {width} numbers, not {self.dimensions}.",
                field="dimensions",
                remedy="Leave it out.",
            )
        return InferenceBody((texts.tensor("text", self.texts),), (), {}, None)


def read_embedding(body: Mapping[str, Any]) -> EmbeddingCall:
    """Read an embedding request.

    Raises:
        InvalidRequest: names the parameter.
    """
    fields.check_names(body, _KNOWN, {})
    form = body.get("encoding_format") or "float"
    if form not in _FORMATS:
        raise InvalidRequest("expected float or base64.", field="encoding_format")
    return EmbeddingCall(
        model=fields.text(body, "model"),
        texts=_texts(body.get("input")),
        base64=form == "base64",
        dimensions=fields.whole(body, "dimensions", 1, 1 << 20),
    )


def embedding_answer(call: EmbeddingCall, answer: Answer) -> dict[str, Any]:
    """Return the answer's JSON; arrays of numbers are left to orjson.

    Raises:
        WorkerFailed: the worker's vectors are not those of the texts.
    """
    vectors, tokens = texts.rows(answer, VECTORS, len(call.texts))
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode("ascii") if call.base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": call.model,
        "usage": texts.usage(tokens),
    }


def _texts(given: Any) -> tuple[str, ...]:
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise InvalidRequest("expected a text or a list of texts.", field="input")
    if all(isinstance(item, int) or (isinstance(item, list) and item) for item in items):
        raise InvalidRequest(
            "token arrays are not taken: the model's own tokenizer reads texts.", field="input", remedy="Send texts."
        )
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item:
            raise InvalidRequest(
                "expected a text that is not empty.", field="input" if item is given else f"input[{index}]"
            )
    return tuple(items)
