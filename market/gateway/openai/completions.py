"""The answers of chat and text completions: whole, or chunk by chunk.

Decides how a worker's text, finish reason, counts and probabilities are written, and where the receipt rides: in a
stream on the chunk that has the finish reason, as its member `market`, which OpenAI's clients keep and do not mind.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from typing import Any

from contracts.protocol.errors import TensorError
from contracts.protocol.tensors import unpack_bytes
from market.errors import WorkerFailed
from market.gateway import headers
from market.gateway.openai.generation import GenerationCall
from market.inference.model import Answer, Partial

# What OpenAI's clients know; a generation that was stopped for its reader or its deadline was cut in its length.
_REASONS = {"stop": "stop", "length": "length", "cancelled": "length"}
_MEMBERS = {
    headers.RECEIPT: "receipt",
    headers.CHARGED: "charged",
    headers.CUMULATIVE: "cumulative",
    headers.REQUEST_ID: "requestId",
    headers.REPEATED: "repeated",
}


class Completion:
    """Writes one completion from its pieces and its answer."""

    def __init__(self, call: GenerationCall) -> None:
        self._call = call
        self._created = int(time.time())
        self._id = ""
        self._pieces: list[Partial] = []
        self._given = 0
        # A character may be cut in two by a worker that streams bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._opened = False

    def collect(self, piece: Partial) -> None:
        """Keep a piece, for the texts of single tokens."""
        self._pieces.append(piece)

    # --- in pieces ------------------------------------------------------------------------------------------------

    def piece(self, piece: Partial) -> list[dict[str, Any]]:
        """Return the chunks that bring a piece."""
        self._pieces.append(piece)
        self._given += len(piece.text)
        self._name(piece.request_id)
        return self._text(self._decoder.decode(piece.text))

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the chunks that end a stream: what was not sent yet, the finish reason with the receipt, the usage.

        Raises:
            WorkerFailed: the answer is not one of a generation.
        """
        text, reason, (prompt, completion) = _outputs(answer)
        self._name(answer.request_id)
        chunks = self._text(self._decoder.decode(text[self._given :], final=True))
        if not self._opened:
            chunks += self._text("", always=True)
        choice = self._delta(None)
        choice["finish_reason"] = reason
        choice["logprobs"] = self._logprobs(answer)
        chunks.append({**self._chunk([choice]), "market": paper(answer)})
        if self._call.include_usage:
            chunks.append({**self._chunk([]), "usage": _usage(prompt, completion)})
        return chunks

    def _text(self, text: str, *, always: bool = False) -> list[dict[str, Any]]:
        return [self._chunk([self._delta(text)])] if text or always else []

    def _delta(self, text: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if self._call.chat:
            delta = {} if text is None else {"content": text}
            choice["delta"] = delta if self._opened else {"role": "assistant", **delta}
        else:
            choice["text"] = text or ""
        self._opened = True
        return {**choice, "logprobs": None, "finish_reason": None}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk" if self._call.chat else "text_completion",
            "created": self._created,
            "model": self._call.model,
            "choices": choices,
        }
        if self._call.include_usage:
            chunk["usage"] = None
        return chunk

    # --- whole ----------------------------------------------------------------------------------------------------

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the answer's JSON.

        Raises:
            WorkerFailed: the answer is not one of a generation.
        """
        data, reason, (prompt, completion) = _outputs(answer)
        self._name(answer.request_id)
        text = data.decode("utf-8", "replace")
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": self._logprobs(answer)}
        if self._call.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {
            "id": self._id,
            "object": "chat.completion" if self._call.chat else "text_completion",
            "created": self._created,
            "model": self._call.model,
            "choices": [choice],
            "usage": _usage(prompt, completion),
        }

    def _name(self, request_id: bytes) -> None:
        if not self._id:
            self._id = ("chatcmpl-" if self._call.chat else "cmpl-") + request_id.hex()

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        found = next((tensor for tensor in answer.tensors if tensor.name == "logprobs"), None)
        if not self._call.logprobs or found is None:
            return None
        values = [float(value) for value in found.to_numpy().reshape(-1).tolist()]
        texts = _token_texts(self._pieces, len(values))
        if not self._call.chat:
            offsets = [len("".join(texts[:index])) for index in range(len(texts))]
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}
        rows = [
            {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
            for text, value in zip(texts, values, strict=True)
        ]
        return {"content": rows, "refusal": None}


def paper(answer: Answer) -> dict[str, str]:
    """Return what a plain answer's headers say of payment and receipt, for the end of a stream."""
    return {_MEMBERS[name]: value for name, value in headers.answer_headers(answer).items()}


def _token_texts(pieces: Sequence[Partial], count: int) -> list[str]:
    """Return the text of each token: a piece of several tokens gives its text to the last of them."""
    texts: list[str] = []
    for piece in pieces:
        if piece.tokens:
            texts += [""] * (piece.tokens - 1) + [piece.text.decode("utf-8", "replace")]
    return (texts + [""] * count)[:count]


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _outputs(answer: Answer) -> tuple[bytes, str, tuple[int, int]]:
    outputs = {tensor.name: tensor for tensor in answer.tensors}
    try:
        [text] = unpack_bytes(outputs["text"].data, "text")
        [reason] = unpack_bytes(outputs["finish_reason"].data, "finish_reason")
        prompt, completion = (int(count) for count in outputs["usage"].to_numpy().tolist())
        return text, _REASONS[reason.decode()], (prompt, completion)
    except (KeyError, ValueError, TypeError, TensorError) as error:
        raise WorkerFailed("The worker's answer is not that of a generation.") from error
