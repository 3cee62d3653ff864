"""Rerank requests and answers, in the shape that Cohere's and Jina's clients speak.

Decides what of a document is read and which rows come back, best first. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from market.errors import InvalidRequest, PayloadTooLarge, WorkerFailed, WrongTask
from market.gateway.openai import fields
from market.gateway.tensors_json import InferenceBody
from market.inference.model import Answer

TASK = "text-ranking"
QUERY, TEXT, SCORES, TOKENS = "query", "text", "scores", "tokens"
_KNOWN = frozenset({"model", "query", "documents", "top_n", "return_documents"})
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A checked rerank request; `top_n` None returns every document."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None
    return_documents: bool

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model: the query beside each document.

        Raises:
            WrongTask: the model does not rank.
            PayloadTooLarge: more documents than it takes.
        """
        if manifest.task != TASK:
            raise WrongTask(f"{self.model} does {manifest.task}, not {TASK}.", field="model")
        most = min(manifest.max_batch, manifest.max_elements)
        if len(self.documents) > most:
            raise PayloadTooLarge(
                f"{len(self.documents)} documents; the model takes at most {most}.",
                field="documents",
                remedy=f"Send at most {most} documents in a request.",
            )
        rows = {QUERY: [self.query.encode()] * len(self.documents), TEXT: [text.encode() for text in self.documents]}
        tensors = [Tensor.from_numpy(spec.name, np.array(rows[spec.name], dtype=object)) for spec in manifest.inputs]
        return InferenceBody(tuple(tensors), (), {}, None)


def read_rerank(body: Mapping[str, Any]) -> RerankCall:
    """Read a rerank request.

    Raises:
        InvalidRequest: names the parameter.
    """
    fields.check_names(body, _KNOWN, {})
    return RerankCall(
        model=fields.text(body, "model"),
        query=fields.text(body, "query"),
        documents=_documents(body.get("documents")),
        top_n=fields.whole(body, "top_n", 1, _MOST),
        return_documents=fields.truth(body, "return_documents"),
    )


def rerank_answer(call: RerankCall, answer: Answer) -> dict[str, Any]:
    """Return the answer's JSON: the best first, of equals the one that was sent first.

    Raises:
        WorkerFailed: the worker's scores are not those of the documents.
    """
    outputs = {tensor.name: tensor for tensor in answer.tensors}
    try:
        scores = outputs[SCORES].to_numpy()
        tokens = int(outputs[TOKENS].to_numpy().sum())
    except KeyError as error:
        raise WorkerFailed("The worker gave no scores.") from error
    if scores.shape != (len(call.documents), 1):
        raise WorkerFailed(f"The worker gave scores of shape {list(scores.shape)} for {len(call.documents)} documents.")
    order = np.argsort(-scores[:, 0], kind="stable")[: call.top_n]
    results: list[dict[str, Any]] = [{"index": int(i), "relevance_score": float(scores[i, 0])} for i in order]
    if call.return_documents:
        for row in results:
            row["document"] = {"text": call.documents[row["index"]]}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": hex0x(answer.request_id), "model": call.model, "results": results, "usage": usage}


def _documents(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise InvalidRequest("expected a list of texts.", field="documents")
    return tuple(_document(item, f"documents[{index}]") for index, item in enumerate(given))


def _document(item: Any, where: str) -> str:
    text = item.get("text") if isinstance(item, dict) and set(item) == {"text"} else item
    if not isinstance(text, str) or not text:
        raise InvalidRequest('expected a text that is not empty, or {"text": …}.', field=where)
    return text
