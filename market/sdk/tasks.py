"""Texts in and out: what `embed` and `chat` send as tensors, and how the checked outputs read.

Pure; called by both clients. The inputs are those of the market's tasks, so that the receipt covers them like others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.errors import TensorError
from contracts.protocol.tensors import utf8
from market.sdk.errors import GatewayMisbehaved
from market.sdk.exchange import Inputs, Outcome

_SEEDS = 1 << 53
# What OpenAI calls its newer models' system role.
_ROLES = {"developer": "system"}


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors, float32[texts, D], and how many tokens the texts were."""

    vectors: NDArray[np.float32]
    tokens: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Chat:
    """A model's answer; `finish_reason` is stop or length."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    outcome: Outcome


def text_inputs(texts: Sequence[str]) -> Inputs:
    """Return the tensors of texts.

    Raises:
        TensorError: it is one text, whose characters would be paid for one by one, or holds what is no Unicode text.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TensorError("texts are a list of texts.", field="texts", remedy="Write [text], even for one.")
    return {"text": np.array([utf8(text, "texts") for text in texts], dtype=object)}


def chat_inputs(messages: Sequence[Mapping[str, str]]) -> Inputs:
    """Return the tensors of a conversation; a message has role and content.

    Raises:
        TensorError: it is no list of such messages, or one is no Unicode.
    """
    if isinstance(messages, str) or not all(_is_message(one) for one in messages):
        raise TensorError(
            "messages are a list of messages, each with a role and a content that are texts.",
            field="messages",
            remedy='Write [{"role": "user", "content": text}], even for one.',
        )
    plain = [{"role": _ROLES.get(one["role"], one["role"]), "content": one["content"]} for one in messages]
    conversation = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return {"prompt": np.array([utf8(conversation, "messages")], dtype=object)}


def _is_message(one: object) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(name), str) for name in ("role", "content"))


def chat_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a chat as the worker is sent them, by any route, so that both hash alike.

    Raises:
        TensorError: several texts are asked for.
    """
    sent = {name: value for name, value in given.items() if value is not None}
    if sent.pop("n", 1) != 1:
        raise TensorError(
            "a chat here gives one text.", field="n", remedy="Ask the route /v1/chat/completions, or the model itself."
        )
    if "max_completion_tokens" in sent:
        sent["max_tokens"] = sent.pop("max_completion_tokens")
    for name in ("temperature", "top_p"):
        if type(sent.get(name)) is int:
            sent[name] = float(sent[name])
    if type(sent.get("seed")) is int:
        sent["seed"] %= _SEEDS
    stops = sent.get("stop")
    if stops is not None:
        texts = [stops] if isinstance(stops, str) else list(stops)
        sent["stop"] = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
    return {**sent, "format": "chat"}


def embeddings(outcome: Outcome) -> Embeddings:
    """Read the outputs of a text-embedding model.

    Raises:
        GatewayMisbehaved: they are not.
    """
    try:
        vectors = np.asarray(outcome.outputs["embedding"], dtype=np.float32)
        return Embeddings(vectors, int(outcome.outputs["tokens"].sum()), outcome)
    except (KeyError, ValueError, TypeError) as error:
        raise GatewayMisbehaved("the model gives no embeddings.", field="outputs") from error


def chat_answer(outcome: Outcome) -> Chat:
    """Read the outputs of a text-generation model.

    Raises:
        GatewayMisbehaved: they are not.
    """
    outputs = outcome.outputs
    try:
        prompt, completion = (int(count) for count in outputs["usage"])
        return Chat(_text(outputs["text"][0]), _text(outputs["finish_reason"][0]), prompt, completion, outcome)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise GatewayMisbehaved("the model gives no text.", field="outputs") from error


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
