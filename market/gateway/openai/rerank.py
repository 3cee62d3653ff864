"""Rerank requests and answers, in the shape that Cohere's and Jina's clients speak.

Decides what of a document is read and which rows come back, best first. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import Manifest
from market.errors import InvalidRequest, WorkerFailed
from market.gateway.openai import fields, texts
from market.gateway.openai.naming import ALL_INPUTS
from market.gateway.tensors_json import InferenceBody
from market.inference.model import Answer

TASK = "text-ranking"
QUERY, TEXT, SCORES = "query", "text", "scores"
_KNOWN = frozenset({"model", "query", "documents", "top_n", "return_documents"})
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A checked rerank request; `top_n` None returns every document."""

    names: ClassVar[Mapping[str, str]] = {TEXT: "documents", ALL_INPUTS: "documents"}

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
        texts.check_task(self.model, manifest, TASK)
        texts.check_count(len(self.documents), manifest, "documents", "documents")
        rows = {QUERY: (self.query,) * len(self.documents), TEXT: self.documents}
        return InferenceBody(tuple(texts.tensor(spec.name, rows[spec.name]) for spec in manifest.inputs), (), {}, None)


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
    scores, tokens = texts.rows(answer, SCORES, len(call.documents))
    if scores.shape[1] != 1:
        raise WorkerFailed(f"The worker gave scores of shape {list(scores.shape)} for {len(call.documents)} documents.")
    order = np.argsort(-scores[:, 0], kind="stable")[: call.top_n]
    results: list[dict[str, Any]] = [{"index": int(i), "relevance_score": float(scores[i, 0])} for i in order]
    if call.return_documents:
        for row in results:
            row["document"] = {"text": call.documents[row["index"]]}
    return {"id": hex0x(answer.request_id), "model": call.model, "results": results, "usage": texts.usage(tokens)}


def _documents(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise InvalidRequest("expected a list of texts.", field="documents")
    return tuple(_document(item, f"documents[{index}]") for index, item in enumerate(given))


def _document(item: Any, where: str) -> str:
    text = item.get("text") if isinstance(item, dict) and set(item) == {"text"} else item
    if not isinstance(text, str) or not text:
        raise InvalidRequest('expected a text that is not empty, or {"text": …}.', field=where)
    return text
