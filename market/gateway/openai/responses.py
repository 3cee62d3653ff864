"""Requests of /v1/responses, as the chats that they are.

Decides what of OpenAI's newer interface this market offers: one answer to what the request itself brings. Nothing is
stored, so there is nothing to go on from. What a chat could not hold is refused by this route's own names. Called by
the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from market.errors import InvalidRequest
from market.gateway.openai import fields
from market.gateway.openai.generation import GenerationCall, read_chat
from market.gateway.openai.naming import by_names_of
from market.gateway.openai.response_input import SEND_ALL, read_input
from market.gateway.openai.tools import Tools, read_tools

MAX_METADATA = 16
MAX_METADATA_CHARACTERS = 512
# What the same is called in a chat.
_NAMES = {
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
}
_ALIKE = frozenset({"model", "seed", "stop", "stream", "temperature", "top_k", "top_logprobs", "top_p"})
_READ = frozenset(
    {
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "parallel_tool_calls",
        "reasoning",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
    }
)
# It bounds calls of tools that a provider runs; here are none.
_IDLE = frozenset({"max_tool_calls"})
_NOT_OFFERED: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "truncation": ("disabled",),
}
_LOGPROBS = "message.output_text.logprobs"
# Models here have no reasoning apart from their text, so there is none to include.
_INCLUDED = frozenset({_LOGPROBS, "reasoning.encrypted_content"})
# What an answer tells of a function at least.
_TOLD = {"description": None, "parameters": None, "strict": False}


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """A checked request: the chat that it is, and what its answer repeats of it."""

    chat: GenerationCall
    echo: Mapping[str, Any]


def read_response(body: Mapping[str, Any]) -> ResponseCall:
    """Read a request of /v1/responses.

    Raises:
        InvalidRequest: names the parameter.
    """
    for name in ("previous_response_id", "conversation"):
        if body.get(name) is not None:
            raise InvalidRequest(f"{fields.shown(body[name])} is not offered here.", field=name, remedy=SEND_ALL)
    fields.check_names(body, _ALIKE | _READ | _IDLE, _NOT_OFFERED)
    _check_reasoning(body.get("reasoning"))
    form, described = _form(body.get("text"))
    items, tools = read_input(body.get("input")), _tools(body)
    asked: dict[str, Any] = {
        **{name: body.get(name) for name in _ALIKE},
        "messages": [*_instructions(body.get("instructions")), *items.messages],
        "max_completion_tokens": body.get("max_output_tokens"),
        "logprobs": _logprobs(body.get("include")) or bool(body.get("top_logprobs")),
        "response_format": form,
    }
    if fields.truth(body, "stream"):
        asked["stream_options"] = {"include_usage": True}
    _check_stream_options(body)
    with by_names_of(_NAMES):
        chat = read_chat({name: value for name, value in asked.items() if value is not None}, tools)
    names = {**_NAMES, **{sent: _NAMES.get(name, name) for sent, name in chat.names.items()}}
    echo = {
        **{name: body.get(name) for name in ("instructions", "max_output_tokens", "temperature", "top_p")},
        "metadata": _metadata(body.get("metadata")),
        "text": {"format": described},
        "top_logprobs": body.get("top_logprobs") or 0,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [{**_TOLD, **one} for one in body.get("tools") or []],
    }
    return ResponseCall(replace(chat, names=names, calls_at=items.calls_at), echo)


def _instructions(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, str):
        raise InvalidRequest(f"expected a text, got {fields.shown(value)}.", field="instructions")
    return [{"role": "system", "content": value}]


def _tools(body: Mapping[str, Any]) -> Tools:
    """Read the functions, which a chat has inside a member of their own."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    asked = {
        "tools": [_inside(one) for one in tools] if isinstance(tools, list) else tools,
        "tool_choice": choice,
        "parallel_tool_calls": body.get("parallel_tool_calls"),
    }
    if isinstance(choice, dict):
        asked["tool_choice"] = _inside(choice)
        if choice.get("type") == "allowed_tools":
            named = choice.get("tools")
            allowed = [_inside(one) for one in named] if isinstance(named, list) else named
            asked["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {**choice, "tools": allowed}}
    try:
        return read_tools(asked)
    except InvalidRequest as error:
        error.field = (error.field or "").replace(".function", "", 1).replace(".allowed_tools", "", 1)
        raise


def _inside(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    members = {name: value for name, value in tool.items() if name != "type" and value not in (None, False, [])}
    return {"type": "function", "function": members}


def _form(config: Any) -> tuple[dict[str, Any] | None, Mapping[str, Any]]:
    """Return the text's form as a chat names it, and as it was named here."""
    plain = {"type": "text"}
    if config is None:
        return None, plain
    if not isinstance(config, dict):
        raise InvalidRequest(f"expected an object, got {fields.shown(config)}.", field="text")
    for name, value in config.items():
        if name != "format" and value is not None and (name, value) != ("verbosity", "medium"):
            raise InvalidRequest("is not offered here.", field=f"text.{name[:80]}", remedy="Leave it out.")
    form = config.get("format")
    if form is None:
        return None, plain
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": form}, form
    # A chat's own check says what there is.
    return form, form if isinstance(form, dict) else plain


def _logprobs(value: Any) -> bool:
    if value is None:
        return False
    if not isinstance(value, list):
        raise InvalidRequest(f"expected a list of names, got {fields.shown(value)}.", field="include")
    for index, name in enumerate(value):
        if not isinstance(name, str) or name not in _INCLUDED:
            raise InvalidRequest(
                f"{fields.shown(name)} is not offered here.", field=f"include[{index}]", remedy="Leave it out."
            )
    return _LOGPROBS in value


def _check_reasoning(value: Any) -> None:
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"expected an object, got {fields.shown(value)}.", field="reasoning")
    effort = (value or {}).get("effort")
    if effort not in (None, "none"):
        raise InvalidRequest(
            f"{fields.shown(effort)} is not offered here.", field="reasoning.effort", remedy="Leave it out."
        )


def _check_stream_options(body: Mapping[str, Any]) -> None:
    options = body.get("stream_options")
    if options is None:
        return
    if not fields.truth(body, "stream"):
        raise InvalidRequest("is taken with stream only.", field="stream_options")
    if not isinstance(options, dict) or set(options) - {"include_obfuscation"}:
        raise InvalidRequest('expected {"include_obfuscation": true or false}.', field="stream_options")


def _metadata(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    texts = [one for pair in value.items() for one in pair] if isinstance(value, dict) else [None]
    if len(texts) > 2 * MAX_METADATA or not all(
        isinstance(one, str) and len(one) <= MAX_METADATA_CHARACTERS for one in texts
    ):
        raise InvalidRequest(
            f"expected at most {MAX_METADATA} names with texts of at most {MAX_METADATA_CHARACTERS} characters.",
            field="metadata",
        )
    found: Mapping[str, str] = value
    return found
