"""The answers of /v1/responses: whole, or event by event.

Decides how what a chat would answer is written as OpenAI's Response object and as its typed events. The receipt rides
where it does for chats: in the headers of a whole answer, and in a stream on the last event, as the response's member
`market`. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Item:
    """An item of the output in the making; `call` is the chat's, None where it is the message."""

    id: str
    index: int
    call: Mapping[str, Any] | None
    pieces: list[str] = field(default_factory=list)


class ResponseEvents:
    """Writes one response, from the pieces and the answer of its chat."""

    end = b""

    def __init__(self, call: ResponseCall) -> None:
        self._call = call
        self._chat = Completion(call.chat)
        self._number = 0
        self._begun = False
        self._items: list[dict[str, Any]] = []
        self._open: _Item | None = None

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
        calls = choice["message"].get("tool_calls", [])
        items = [] if text is None else [_message(chat, 0, _part(text, None if calls else choice["logprobs"]))]
        items += [_call(one, one["function"]["arguments"]) for one in calls]
        items[-1]["status"] = _status(reason, of_call=bool(calls))
        response = self._response(chat, _status(reason), items, reason, chat["usage"])
        return {**response, "market": chat["market"]} if "market" in chat else response

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
        reason = choice["finish_reason"]
        status = _status(reason)
        # The probabilities are of all the answer's tokens: they stand beside a text that is all of it.
        of_call = self._open is not None and self._open.call is not None
        events += self._close(end, _status(reason, of_call=of_call), None if self._items else choice["logprobs"])
        response = self._response(end, status, self._items, reason, usage["usage"])
        return [*events, self._event(f"response.{status}", response={**response, "market": end["market"]})]

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
        delta = chunk["choices"][0]["delta"]
        [call] = delta.get("tool_calls", [None])
        one = self._open
        if one is None or (call is not None and "id" in call) or (call is None and one.call is not None):
            events += self._close(chunk, "completed", None)
            one, started = self._start(chunk, call)
            events += started
        text = delta["content"] if call is None else call["function"]["arguments"]
        one.pieces.append(text)
        if call is None:
            return [*events, self._of_text("response.output_text.delta", one, delta=text, logprobs=[])]
        if text:  # a call begins without any
            kind = "response.function_call_arguments.delta"
            events.append(self._event(kind, item_id=one.id, output_index=one.index, delta=text))
        return events

    def _begin(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._begun = True
        response = self._response(chunk, "in_progress", [], None, None)
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _start(self, chat: Mapping[str, Any], call: Mapping[str, Any] | None) -> tuple[_Item, list[dict[str, Any]]]:
        """Begin an item, the message or a call."""
        index = len(self._items)
        if call is not None:
            made = _call(call, "")
            one = self._open = _Item(made["id"], index, call)
            item = {**made, "status": "in_progress"}
            return one, [self._event("response.output_item.added", output_index=index, item=item)]
        message = _message(chat, index, _part("", None))
        one = self._open = _Item(message["id"], index, None)
        item = {**message, "status": "in_progress", "content": []}
        return one, [
            self._event("response.output_item.added", output_index=index, item=item),
            self._of_text("response.content_part.added", one, part=_part("", None)),
        ]

    def _close(self, chat: Mapping[str, Any], status: str, logprobs: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """End the item that is open, if one is."""
        one, self._open = self._open, None
        if one is None:
            return []
        text = "".join(one.pieces)
        if one.call is not None:
            item, kind = _call(one.call, text), "response.function_call_arguments.done"
            named = {"item_id": one.id, "output_index": one.index, "name": item["name"]}
            events = [self._event(kind, **named, arguments=text)]
        else:
            part = _part(text, logprobs)
            item = _message(chat, one.index, part)
            events = [
                self._of_text("response.output_text.done", one, text=text, logprobs=part["logprobs"]),
                self._of_text("response.content_part.done", one, part=part),
            ]
        item["status"] = status
        self._items.append(item)
        return [*events, self._event("response.output_item.done", output_index=one.index, item=item)]

    def _of_text(self, kind: str, one: _Item, **members: Any) -> dict[str, Any]:
        return self._event(kind, item_id=one.id, output_index=one.index, content_index=0, **members)

    def _event(self, kind: str, **members: Any) -> dict[str, Any]:
        number = self._number
        self._number += 1
        return {"type": kind, "sequence_number": number, **members}

    # --- both -----------------------------------------------------------------------------------------------------

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
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            **self._call.echo,
        }


def _named(kind: str, chat: Mapping[str, Any]) -> str:
    """Return an id of the response, by its request's: the same for an answer that is given once more."""
    return f"{kind}_{chat['id'].rpartition('-')[2]}"


def _message(chat: Mapping[str, Any], index: int, part: Mapping[str, Any]) -> dict[str, Any]:
    # After calls there is text only from a worker that keeps to nothing.
    id_ = _named("msg", chat) + (f"_{index}" if index else "")
    named = {"id": id_, "type": "message", "role": "assistant"}
    return {**named, "status": "completed", "content": [part]}


def _call(call: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    """Return a chat's call as an item."""
    id_ = f"fc_{call['id'].removeprefix('call_')}"
    named = {"id": id_, "type": "function_call", "call_id": call["id"], "name": call["function"]["name"]}
    return {**named, "status": "completed", "arguments": arguments}


def _status(reason: str, *, of_call: bool = False) -> str:
    """Return the status of a response, or of its last item, which a stop string may cut if it is a call."""
    return "incomplete" if reason in _INCOMPLETE or (of_call and reason == "stop") else "completed"


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
