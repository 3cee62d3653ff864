"""The answers of /v1/responses: whole, or event by event.

Decides how what a chat would answer is written as OpenAI's Response object and as its typed events. The receipt rides
where it does for chats: in the headers of a whole answer, and in a stream on the last event, as the response's member
`market`. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from market.gateway.openai.completions import Completion
from market.gateway.openai.problems import error_object
from market.gateway.openai.responses import ResponseCall
from market.gateway.tensors_json import InferenceBody
from market.inference.model import Answer, Partial

# Of a chat's finish reasons those after which something is missing.
_INCOMPLETE = {"length": "max_output_tokens"}


class ResponseEvents:
    """Writes one response, from the pieces and the answer of its chat."""

    end = b""

    def __init__(self, call: ResponseCall) -> None:
        self._call = call
        self._chat = Completion(call.chat)
        self._number = 0
        self._begun: Mapping[str, Any] | None = None
        self._text: list[str] = []

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model."""
        return self._chat.decode(manifest)

    def collect(self, piece: Partial) -> None:
        """Keep a piece, for the texts of single tokens."""
        self._chat.collect(piece)

    # --- whole ----------------------------------------------------------------------------------------------------

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the answer's JSON.

        Raises:
            WorkerFailed: the answer is not one of a generation.
        """
        chat = self._chat.whole(answer)
        [choice] = chat["choices"]
        reason, text = choice["finish_reason"], choice["message"]["content"]
        message = self._message(chat, _part(text, choice["logprobs"]), _status(reason))
        return self._response(chat, _status(reason), [message], reason, chat["usage"])

    # --- in events ------------------------------------------------------------------------------------------------

    def piece(self, piece: Partial) -> list[dict[str, Any]]:
        """Return the events that bring a piece."""
        return [event for chunk in self._chat.piece(piece) for event in self._more(chunk)]

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the events that end a stream: what was not sent yet, the whole text, the response with the receipt.

        Raises:
            WorkerFailed: the answer is not one of a generation.
        """
        *chunks, end, usage = self._chat.last(answer)
        events = [event for chunk in chunks for event in self._more(chunk)]
        [choice] = end["choices"]
        text, reason = "".join(self._text), choice["finish_reason"]
        part, status = _part(text, choice["logprobs"]), _status(reason)
        message = self._message(end, part, status)
        response = self._response(end, status, [message], reason, usage["usage"])
        return [
            *events,
            self._of_text("response.output_text.done", end, text=text, logprobs=part["logprobs"]),
            self._of_text("response.content_part.done", end, part=part),
            self._event("response.output_item.done", output_index=0, item=message),
            self._event(f"response.{status}", response={**response, "market": end["market"]}),
        ]

    def event(self, found: Mapping[str, Any]) -> bytes:
        """Return an event as it is sent: by its type, too."""
        return f"event: {found['type']}\ndata: ".encode() + orjson.dumps(found) + b"\n\n"

    def error(self, error: CodedError) -> dict[str, Any]:
        """Return the event of a failure, the last: OpenAI's members, and the object by which its clients raise it."""
        found = error_object(error)
        named = {name: found[name] for name in ("code", "message", "param")}
        return self._event("error", **named, error=found)

    def _more(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the events for a chunk of the chat, after those that open the response if it is the first."""
        events = [] if self._begun else self._begin(chunk)
        text = chunk["choices"][0]["delta"]["content"]
        self._text.append(text)
        return [*events, self._of_text("response.output_text.delta", chunk, delta=text, logprobs=[])]

    def _begin(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._begun = chunk
        response = self._response(chunk, "in_progress", [], None, None)
        item = {**self._message(chunk, _part("", None), "in_progress"), "content": []}
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", output_index=0, item=item),
            self._of_text("response.content_part.added", chunk, part=_part("", None)),
        ]

    def _of_text(self, kind: str, chat: Mapping[str, Any], **members: Any) -> dict[str, Any]:
        return self._event(kind, item_id=_named("msg", chat), output_index=0, content_index=0, **members)

    def _event(self, kind: str, **members: Any) -> dict[str, Any]:
        number = self._number
        self._number += 1
        return {"type": kind, "sequence_number": number, **members}

    # --- both -----------------------------------------------------------------------------------------------------

    def _message(self, chat: Mapping[str, Any], part: Mapping[str, Any], status: str) -> dict[str, Any]:
        return {"id": _named("msg", chat), "type": "message", "role": "assistant", "status": status, "content": [part]}

    def _response(
        self,
        chat: Mapping[str, Any],
        status: str,
        output: list[dict[str, Any]],
        reason: str | None,
        usage: Mapping[str, int] | None,
    ) -> dict[str, Any]:
        missing = _INCOMPLETE.get(reason or "")
        return {
            "id": _named("resp", chat),
            "object": "response",
            "created_at": chat["created"],
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None if missing is None else {"reason": missing},
            "model": chat["model"],
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            **self._call.echo,
        }


def _named(kind: str, chat: Mapping[str, Any]) -> str:
    """Return an id of the response, by its request's: the same for an answer that is given once more."""
    return f"{kind}_{chat['id'].rpartition('-')[2]}"


def _status(reason: str) -> str:
    return "incomplete" if reason in _INCOMPLETE else "completed"


def _part(text: str, logprobs: Mapping[str, Any] | None) -> dict[str, Any]:
    rows = [] if logprobs is None else logprobs["content"]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": rows}


def _usage(chat: Mapping[str, int]) -> dict[str, Any]:
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }
