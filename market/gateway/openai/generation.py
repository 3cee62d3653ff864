"""Chat and text completions as requests to a text-generation model.

Decides what of OpenAI's parameters this market offers and what the worker is sent for them. Called by the routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import MAX_CHOICES, MAX_TOKENS_LIMIT
from contracts.protocol.tensors import Tensor
from market.errors import InvalidRequest
from market.gateway.openai import fields
from market.gateway.openai.naming import ALL_INPUTS
from market.gateway.openai.texts import check_task
from market.gateway.tensors_json import InferenceBody

TASK = "text-generation"
LOGPROBS, TOP_TOKENS, TOP_LOGPROBS = "logprobs", "top_tokens", "top_logprobs"
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TEMPERATURE = 2.0
MAX_SCHEMA_BYTES = 1 << 16
_SEEDS = 1 << 53
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MEANS_NOTHING = frozenset({"role", "content", "name", "tool_call_id"})

_BOTH = frozenset(
    {
        "logprobs",
        "max_tokens",
        "model",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)
_CHAT = _BOTH | {"messages", "max_completion_tokens", "response_format", "top_logprobs"}
_TEXT = _BOTH | {"prompt"}
_NOT_OFFERED: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
}
_NOT_OFFERED_CHAT = _NOT_OFFERED | {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_NOT_OFFERED_TEXT = _NOT_OFFERED | {"best_of": (1,), "echo": (False,), "suffix": ("",)}


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """A checked completion request for `n` texts; `parameters` are the worker's, `top` the likeliest tokens to show.

    `names` says by which name the client gave what the worker is sent.
    """

    model: str
    prompt: str
    parameters: Mapping[str, Any]
    chat: bool
    stream: bool
    include_usage: bool
    logprobs: bool
    names: Mapping[str, str]
    n: int = 1
    top: int = 0

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model.

        Raises:
            WrongTask: the model does not generate text.
            InvalidRequest: it gives no log probabilities, or none of other tokens.
        """
        check_task(self.model, manifest, TASK)
        given = {spec.name for spec in manifest.outputs}
        for name, wanted in ((LOGPROBS, self.logprobs), (TOP_LOGPROBS, self.top)):
            if wanted and name not in given:
                where = name if self.chat else LOGPROBS
                raise InvalidRequest(f"{self.model} gives no {name}.", field=where, remedy="Leave it out.")
        prompt = np.array([self.prompt.encode()], dtype=object)
        return InferenceBody((Tensor.from_numpy("prompt", prompt),), (), self.parameters, None)


def read_chat(body: Mapping[str, Any]) -> GenerationCall:
    """Read a chat completion request.

    Raises:
        InvalidRequest: names the parameter.
    """
    fields.check_names(body, _CHAT, _NOT_OFFERED_CHAT)
    most = fields.whole(body, "max_completion_tokens", 1, MAX_TOKENS_LIMIT)
    logprobs = fields.truth(body, LOGPROBS)
    top = fields.whole(body, TOP_LOGPROBS, 0, MAX_TOP_LOGPROBS) or 0
    if top and not logprobs:
        raise InvalidRequest("is taken with logprobs only.", field=TOP_LOGPROBS, remedy='Add "logprobs": true.')
    schema = _schema(body.get("response_format"))
    names = {
        "max_tokens": "max_tokens" if most is None else "max_completion_tokens",
        "json_schema": "response_format.json_schema.schema",
    }
    messages = json.dumps(_messages(body.get("messages")), ensure_ascii=False, separators=(",", ":"))
    return _call(body, messages, logprobs=logprobs, top=top, chat=True, most=most, schema=schema, names=names)


def read_text(body: Mapping[str, Any]) -> GenerationCall:
    """Read a text completion request.

    Raises:
        InvalidRequest: names the parameter.
    """
    fields.check_names(body, _TEXT, _NOT_OFFERED_TEXT)
    # OpenAI counts the likeliest tokens here; the chosen token's own probability comes with any number.
    top = fields.whole(body, LOGPROBS, 0, MAX_TOP_LOGPROBS)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise _no_text(prompt)
    names = {TOP_LOGPROBS: LOGPROBS}
    return _call(body, prompt, logprobs=top is not None, top=top or 0, chat=False, most=None, names=names)


def _no_text(prompt: Any) -> InvalidRequest:
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, (int, list)) for item in prompt):
            return InvalidRequest("token arrays are not taken.", field="prompt", remedy="Send text.")
        if len(prompt) > 1:
            remedy = "Send each in a request of its own; for several texts of one prompt there is n."
            return InvalidRequest(f"expected one text, got a list of {len(prompt)}.", field="prompt", remedy=remedy)
    return InvalidRequest(f"expected one text that is not empty, got {fields.shown(prompt)}.", field="prompt")


def _call(
    body: Mapping[str, Any],
    prompt: str,
    *,
    logprobs: bool,
    top: int,
    chat: bool,
    most: int | None,
    names: Mapping[str, str],
    schema: str | None = None,
) -> GenerationCall:
    older = fields.whole(body, "max_tokens", 1, MAX_TOKENS_LIMIT)
    parameters: dict[str, Any] = {
        "max_tokens": older if most is None else most,
        "temperature": fields.real(body, "temperature", 0, MAX_TEMPERATURE),
        "top_p": fields.real(body, "top_p", 0, 1),
        "top_k": fields.whole(body, "top_k", 0, 1 << 20),
        "stop": _stops(body.get("stop")),
        "json_schema": schema,
    }
    seed = fields.whole(body, "seed", -(1 << 63), (1 << 63) - 1)
    parameters["seed"] = None if seed is None else seed % _SEEDS
    if chat:
        parameters["format"] = "chat"
    if logprobs:
        parameters[LOGPROBS] = True
    if top:
        parameters[TOP_LOGPROBS] = top
    n = fields.whole(body, "n", 1, MAX_CHOICES) or 1
    if n > 1:
        parameters["n"] = n
    stream = fields.truth(body, "stream")
    texts = "messages" if chat else "prompt"
    return GenerationCall(
        model=fields.text(body, "model"),
        prompt=prompt,
        parameters={name: value for name, value in parameters.items() if value is not None},
        chat=chat,
        stream=stream,
        include_usage=_include_usage(body.get("stream_options"), stream=stream),
        logprobs=logprobs,
        names={
            "prompt": texts,
            ALL_INPUTS: texts,
            **{f"parameters.{name}": names.get(name, name) for name in parameters},
        },
        n=n,
        top=top,
    )


def _schema(form: Any) -> str | None:
    """Return the schema that a response format asks for, as JSON; None where any text will do."""
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type":"object"}'
    if kind != "json_schema":
        raise InvalidRequest(
            f"expected text, json_object or json_schema, got {fields.shown(kind)}.", field="response_format"
        )
    given = form.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest(
            f"expected a schema, an object, got {fields.shown(schema)}.", field="response_format.json_schema.schema"
        )
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode(errors="replace")) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"more than {MAX_SCHEMA_BYTES} bytes.", field="response_format.json_schema.schema")
    return text


def _include_usage(options: Any, *, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("is taken with stream only.", field="stream_options")
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise InvalidRequest('expected {"include_usage": true or false}.', field="stream_options")
    return fields.truth(options, "include_usage")


def _stops(value: Any) -> str | None:
    stops = [value] if isinstance(value, str) else value
    if stops is None or stops == []:
        return None
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(stop, str) and 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops)
    ):
        raise InvalidRequest(
            f"expected at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters, got {fields.shown(value)}.",
            field="stop",
        )
    return json.dumps(stops, ensure_ascii=False, separators=(",", ":"))


def _messages(raw: Any) -> list[dict[str, str]]:
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest(f"expected a list of at least one message, got {fields.shown(raw)}.", field="messages")
    return [_message(row, f"messages[{index}]") for index, row in enumerate(raw)]


def _message(row: Any, where: str) -> dict[str, str]:
    if not isinstance(row, dict):
        raise InvalidRequest(f"expected an object with role and content, got {fields.shown(row)}.", field=where)
    role = row.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"expected one of {', '.join(_ROLES)}, got {fields.shown(role)}.", field=f"{where}.role")
    for name, value in row.items():
        if name not in _MEANS_NOTHING and value not in (None, []):
            raise InvalidRequest("is not offered here.", field=f"{where}.{name[:80]}", remedy="Leave it out.")
    content = row.get("content")
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        got = fields.shown(content)
        raise InvalidRequest(f"expected a text, or a list of text parts, got {got}.", field=f"{where}.content")
    return {"role": _ROLES[role], "content": content}


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = fields.shown(part.get("type")) if isinstance(part, dict) else fields.shown(part)
        raise InvalidRequest(f"expected a part of type 'text', got {kind}.", field=where)
    text: str = part["text"]
    return text
