"""The answers of chat and text completions: whole, or chunk by chunk.

Decides how a worker's text, finish reason, counts and probabilities are written, and where the receipt rides: in a
stream on the chunk that has the finish reason, as its member `market`, which OpenAI's clients keep and do not mind.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from contracts.protocol.errors import TensorError
from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor, unpack_bytes
from market.errors import WorkerFailed
from market.gateway import headers
from market.gateway.openai.generation import GenerationCall
from market.gateway.openai.tool_calls import Arguments, Begun, Found, Text, ToolCallScanner
from market.gateway.tensors_json import InferenceBody
from market.inference.model import Answer, Partial

# What OpenAI's clients know; a generation that was stopped for its reader or its deadline was cut in its length.
_REASONS = {"stop": "stop", "length": "length", "cancelled": "length"}
_ID_DIGITS = 24
_MEMBERS = {
    headers.RECEIPT: "receipt",
    headers.CHARGED: "charged",
    headers.CUMULATIVE: "cumulative",
    headers.REQUEST_ID: "requestId",
    headers.REPEATED: "repeated",
}


class _Choice:
    """What was sent of one text."""

    __slots__ = ("decoder", "given", "opened", "pieces", "scanner")

    def __init__(self) -> None:
        self.pieces: list[Partial] = []
        self.given = 0
        # A character may be cut in two by a worker that streams bytes.
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.opened = False
        self.scanner: ToolCallScanner | None = None


class Completion:
    """Writes one completion, of one text or several, from its pieces and its answer.

    What a model's text has of calls becomes `tool_calls`; the receipt stays that of the text, which is written beside.
    """

    def __init__(self, call: GenerationCall) -> None:
        self._call = call
        self._created = int(time.time())
        self._id = ""
        self._request_id = b""
        self._choices = [_Choice() for _ in range(call.n)]

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model, which says how calls are read from its texts.

        Raises:
            InvalidRequest: as the call's own.
        """
        body = self._call.decode(manifest)
        tools, form = self._call.tools, manifest.tool_format
        if tools.shown and form is not None:
            for choice in self._choices:
                choice.scanner = ToolCallScanner(form, tools.names)
        return body

    def collect(self, piece: Partial) -> None:
        """Keep a piece, for the texts of single tokens."""
        self._choices[piece.index].pieces.append(piece)

    # --- in pieces ------------------------------------------------------------------------------------------------

    def piece(self, piece: Partial) -> list[dict[str, Any]]:
        """Return the chunks that bring a piece."""
        self.collect(piece)
        self._name(piece.request_id)
        choice = self._choices[piece.index]
        choice.given += len(piece.text)
        return self._text(piece.index, choice.decoder.decode(piece.text))

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the chunks that end a stream: what was not sent yet, the finish reasons with the receipt, the usage.

        Raises:
            WorkerFailed: the answer is not one of a generation.
        """
        outputs = self._take(answer)
        chunks: list[dict[str, Any]] = []
        for index, choice in enumerate(self._choices):
            chunks += self._text(index, choice.decoder.decode(outputs.texts[index][choice.given :], final=True))
            if choice.scanner is not None:
                chunks += self._found(index, choice.scanner.rest(cut=outputs.reasons[index] == "length"))
            if not choice.opened:
                chunks.append(self._chunk([self._delta(index, "")]))
        for index in range(self._call.n):
            end = self._delta(index, None)
            end["finish_reason"] = self._reason(index, outputs)
            end["logprobs"] = self._logprobs(index, outputs)
            chunks.append(self._chunk([end]))
        chunks[-1]["market"] = {**paper(answer), **self._raw(outputs)}
        if self._call.include_usage:
            chunks.append({**self._chunk([]), "usage": _usage(outputs)})
        return chunks

    def _text(self, index: int, text: str) -> list[dict[str, Any]]:
        scanner = self._choices[index].scanner
        if scanner is not None:
            return self._found(index, scanner.feed(text))
        return [self._chunk([self._delta(index, text)])] if text else []

    def _found(self, index: int, found: Sequence[Found]) -> list[dict[str, Any]]:
        """Return the chunks of what a text was found to have."""
        return [self._chunk([self._delta_of(index, one)]) for one in found]

    def _delta_of(self, index: int, found: Found) -> dict[str, Any]:
        choice = self._choices[index]
        if isinstance(found, Text):
            return self._delta(index, found.text)
        first = not choice.opened
        delta = self._delta(index, None)
        if first:
            delta["delta"]["content"] = None
        call: dict[str, Any] = {"index": found.call}
        if isinstance(found, Begun):
            call |= self._begun(index, found, "")
        else:
            call["function"] = {"arguments": found.text}
        delta["delta"]["tool_calls"] = [call]
        return delta

    def _begun(self, index: int, found: Begun, arguments: str) -> dict[str, Any]:
        # The same in a repeated answer, which has the same request id.
        place = b"%d/%d" % (index, found.call)
        id_ = f"call_{sha256(self._request_id + place).hex()[:_ID_DIGITS]}"
        return {"id": id_, "type": "function", "function": {"name": found.name, "arguments": arguments}}

    def _delta(self, index: int, text: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {"index": index}
        choice = self._choices[index]
        if self._call.chat:
            delta = {} if text is None else {"content": text}
            found["delta"] = delta if choice.opened else {"role": "assistant", **delta}
        else:
            found["text"] = text or ""
        choice.opened = True
        return {**found, "logprobs": None, "finish_reason": None}

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
        outputs = self._take(answer)
        raw = self._raw(outputs)
        return {
            "id": self._id,
            "object": "chat.completion" if self._call.chat else "text_completion",
            "created": self._created,
            "model": self._call.model,
            "choices": [self._whole(index, outputs) for index in range(self._call.n)],
            "usage": _usage(outputs),
            **({"market": raw} if raw else {}),
        }

    def _whole(self, index: int, outputs: _Outputs) -> dict[str, Any]:
        text = outputs.texts[index].decode("utf-8", "replace")
        cut = outputs.reasons[index] == "length"
        written = {"message": self._message(index, text, cut=cut)} if self._call.chat else {"text": text}
        reason, logprobs = self._reason(index, outputs), self._logprobs(index, outputs)
        return {"index": index, "finish_reason": reason, "logprobs": logprobs, **written}

    def _message(self, index: int, text: str, *, cut: bool) -> dict[str, Any]:
        scanner = self._choices[index].scanner
        if scanner is None:
            return {"role": "assistant", "content": text, "refusal": None}
        found = [*scanner.feed(text), *scanner.rest(cut=cut)]
        content = "".join(one.text for one in found if isinstance(one, Text))
        begun = [one for one in found if isinstance(one, Begun)]
        arguments: list[list[str]] = [[] for _ in begun]
        for one in found:
            if isinstance(one, Arguments):
                arguments[one.call].append(one.text)
        calls = [self._begun(index, one, "".join(arguments[one.call])) for one in begun]
        if not calls:
            return {"role": "assistant", "content": content, "refusal": None}
        return {"role": "assistant", "content": content or None, "refusal": None, "tool_calls": calls}

    def _reason(self, index: int, outputs: _Outputs) -> str:
        """Return why a text ended, once all of it was read."""
        reason, scanner = outputs.reasons[index], self._choices[index].scanner
        made_calls = scanner is not None and scanner.calls > 0 and scanner.is_whole
        return "tool_calls" if made_calls and reason == "stop" else reason

    def _raw(self, outputs: _Outputs) -> dict[str, Any]:
        """Return the texts as they were generated, which the receipt names, where they are not what is answered."""
        if self._choices[0].scanner is None:
            return {}
        return {"texts": [text.decode("utf-8", "replace") for text in outputs.texts]}

    def _take(self, answer: Answer) -> _Outputs:
        outputs = _outputs(answer, self._call.n)
        self._name(answer.request_id)
        for piece in answer.pieces:
            self.collect(piece)
        return outputs

    def _name(self, request_id: bytes) -> None:
        if not self._id:
            self._request_id = request_id
            self._id = ("chatcmpl-" if self._call.chat else "cmpl-") + request_id.hex()

    def _logprobs(self, index: int, outputs: _Outputs) -> dict[str, Any] | None:
        found = outputs.chances(index)
        if not self._call.logprobs or found is None:
            return None
        values, tops = found
        texts = _token_texts(self._choices[index].pieces, len(values))
        if not self._call.chat:
            offsets = [0, *accumulate(map(len, texts))][: len(texts)]
            likeliest = [dict(row) for row in tops] if self._call.top else None
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": likeliest, "text_offset": offsets}
        rows = [
            {**_token(text, value), "top_logprobs": [_token(*one) for one in top]}
            for text, value, top in zip(texts, values, tops, strict=True)
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


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _usage(outputs: _Outputs) -> dict[str, int]:
    prompt, completion = outputs.prompt, sum(outputs.made)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a generation's tensors say; `made` are the tokens of each text."""

    texts: list[bytes]
    reasons: list[str]
    prompt: int
    made: list[int]
    logprobs: list[float] | None
    tops: list[list[tuple[str, float]]]

    def chances(self, index: int) -> tuple[list[float], list[list[tuple[str, float]]]] | None:
        """Return the logarithms of one text's tokens, and for each token the likeliest in its place."""
        if self.logprobs is None:
            return None
        first = sum(self.made[:index])
        mine = slice(first, first + self.made[index])
        return self.logprobs[mine], self.tops[mine]


def _outputs(answer: Answer, texts: int) -> _Outputs:
    by_name = {tensor.name: tensor for tensor in answer.tensors}
    try:
        prompt, *made = (int(count) for count in by_name["usage"].to_numpy().tolist())
        logprobs = by_name.get("logprobs")
        values = None if logprobs is None else [float(value) for value in logprobs.to_numpy().reshape(-1).tolist()]
        found = _Outputs(
            texts=unpack_bytes(by_name["text"].data, "text"),
            reasons=[_REASONS[one.decode()] for one in unpack_bytes(by_name["finish_reason"].data, "finish_reason")],
            prompt=prompt,
            made=made,
            logprobs=values,
            tops=_tops(by_name, len(values or ())),
        )
    except (KeyError, ValueError, TypeError, TensorError) as error:
        raise WorkerFailed("The worker's answer is not that of a generation.") from error
    counts = {len(found.texts), len(found.reasons), len(made)}
    if counts != {texts} or (values is not None and len(values) != sum(made)):
        raise WorkerFailed(f"The worker's answer is not one of {texts} texts.")
    return found


def _tops(by_name: Mapping[str, Tensor], tokens: int) -> list[list[tuple[str, float]]]:
    """Return for each token the likeliest in its place, with their logarithms; none where they were not asked for."""
    names, values = by_name.get("top_tokens"), by_name.get("top_logprobs")
    if names is None or values is None:
        return [[] for _ in range(tokens)]
    rows = [
        [(name.decode("utf-8", "replace"), float(value)) for name, value in zip(row, numbers, strict=True)]
        for row, numbers in zip(names.to_numpy().tolist(), values.to_numpy().tolist(), strict=True)
    ]
    if len(rows) != tokens:
        raise ValueError("as many rows as tokens.")
    return rows
