"""Chat and text completions as requests to a text-generation model.

Decides what of OpenAI's parameters this market offers and what the worker is sent for them. Called by the routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from contracts.protocol.manifest import Manifest
from contracts.protocol.metering import MAX_CHOICES, MAX_TOKENS_LIMIT
from contracts.protocol.tensors import Tensor
from market.errors import InvalidRequest
from market.gateway.openai import fields
from market.gateway.openai.messages import read_messages
from market.gateway.openai.naming import ALL_INPUTS
from market.gateway.openai.texts import check_task
from market.gateway.openai.tools import Tools, read_tools
from market.gateway.tensors_json import InferenceBody

TASK = "text-generation"
LOGPROBS, TOP_TOKENS, TOP_LOGPROBS = "logprobs", "top_tokens", "top_logprobs"
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TEMPERATURE = 2.0
MAX_SCHEMA_BYTES = 1 << 16
_SEEDS = 1 << 53

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
_CHAT = _BOTH | {
    "max_completion_tokens",
    "messages",
    "parallel_tool_calls",
    "response_format",
    "tool_choice",
    "tools",
    "top_logprobs",
}
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
    "verbosity": ("medium",),
    "web_search_options": (),
}
_NOT_OFFERED_TEXT = _NOT_OFFERED | {"best_of": (1,), "echo": (False,), "suffix": ("",)}


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """A checked completion request for `n` texts; `parameters` are the worker's, `top` the likeliest tokens to show.

    `names` says by which name the client gave what the worker is sent, `calls_at` where its messages tell of calls.
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
    tools: Tools = field(default_factory=Tools)
    calls_at: str | None = None

    def decode(self, manifest: Manifest) -> InferenceBody:
        """Return the request for the model.

        Raises:
            WrongTask: the model does not generate text.
            InvalidRequest: it gives no log probabilities, or none of other tokens, or calls no functions.
        """
        check_task(self.model, manifest, TASK)
        given = {spec.name for spec in manifest.outputs}
        for name, wanted in ((LOGPROBS, self.logprobs), (TOP_LOGPROBS, self.top)):
            if wanted and name not in given:
                where = name if self.chat else LOGPROBS
                raise InvalidRequest(f"{self.model} gives no {name}.", field=where, remedy="Leave it out.")
        calls = manifest.tool_format is not None
        about_calls = "tools" if self.tools.shown else self.calls_at
        if about_calls is not None and not calls:
            raise InvalidRequest(
                f"{self.model} calls no functions.",
                field=about_calls,
                remedy="Ask a model of which GET /v1/models says tool_calls.",
            )
        parameters = {**self.parameters, **(self.tools.parameters if calls else {})}
        prompt = np.array([self.prompt.encode()], dtype=object)
        return InferenceBody((Tensor.from_numpy("prompt", prompt),), (), parameters, None)


def read_chat(body: Mapping[str, Any], tools: Tools | None = None) -> GenerationCall:
    """Read a chat completion request; `tools` in place of those in it.

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
    messages, tools = read_messages(body.get("messages")), tools or read_tools(body)
    chat = {"messages": messages.rows, "tools": tools.shown} if tools.shown else messages.rows
    prompt = json.dumps(chat, ensure_ascii=False, separators=(",", ":"))
    call = _call(body, prompt, logprobs=logprobs, top=top, chat=True, most=most, schema=schema, names=names)
    return replace(call, tools=tools, calls_at=messages.calls_at)


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
            "prompt.tools": "tools",
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
