"""The functions that a chat offers to its model, and which of them it may or must call.

Decides what of OpenAI's `tools`, `tool_choice` and `parallel_tool_calls` is offered, and what the worker is sent for
them: the functions beside the messages, since their tokens are paid like those, the choice as parameters. Called by the
reader of chats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.protocol.tool_formats import MAX_DEPTH, MAX_TOOLS, MAX_TOOLS_BYTES
from market.errors import InvalidRequest
from market.gateway.openai import fields
from market.gateway.openai.messages import check_function_name

_KEYS = frozenset({"name", "description", "parameters", "strict"})
_MODES = ("none", "auto", "required")
_EXPECTED_CHOICE = "expected none, auto, required, or an object that names a function or allowed_tools"


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called; `shown` are the functions, empty where nothing may be, and `parameters` the worker's.

    `allowed` names those of them that may be called, empty for all.
    """

    shown: list[dict[str, Any]] = field(default_factory=list)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The names of the functions that may be called: of no other is a call believed."""
        return self.allowed or frozenset(one["function"]["name"] for one in self.shown)


def read_tools(body: Mapping[str, Any]) -> Tools:
    """Read what a chat's body says of functions.

    Raises:
        InvalidRequest: names the parameter.
    """
    several = True if body.get("parallel_tool_calls") is None else fields.truth(body, "parallel_tool_calls")
    shown, choice = _functions(body.get("tools")), body.get("tool_choice")
    if not shown:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("is taken with tools only.", field="tool_choice", remedy="Add tools, or leave it out.")
        return Tools()
    names = [one["function"]["name"] for one in shown]
    mode, allowed, one_only = _choice(choice, names)
    if mode == "none":
        # The model need not know, and nobody pay for, what it must not use.
        return Tools([], {"tool_choice": "none"})
    parameters: dict[str, Any] = {}
    if mode != "auto":
        parameters["tool_choice"] = mode
    if allowed is not None:
        parameters["allowed_tools"] = json.dumps(allowed, separators=(",", ":"))
    if one_only or not several:
        parameters["parallel_tool_calls"] = False
    return Tools(shown, parameters, frozenset(allowed or ()))


def _functions(raw: Any) -> list[dict[str, Any]]:
    if raw is None or raw == []:
        return []
    if not isinstance(raw, list) or len(raw) > MAX_TOOLS:
        got = f"{len(raw)}" if isinstance(raw, list) else fields.shown(raw)
        raise InvalidRequest(f"expected a list of at most {MAX_TOOLS} functions, got {got}.", field="tools")
    found = [_function(one, f"tools[{index}]") for index, one in enumerate(raw)]
    names = set()
    for index, one in enumerate(found):
        name = one["function"]["name"]
        if name in names:
            raise InvalidRequest(f"{name!r} is given twice.", field=f"tools[{index}].function.name")
        names.add(name)
    if len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")) > MAX_TOOLS_BYTES:
        raise InvalidRequest(
            f"more than {MAX_TOOLS_BYTES} bytes of JSON.",
            field="tools",
            remedy="Offer fewer, or describe them shorter.",
        )
    return found


def _function(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("type") != "function":
        got = fields.shown(raw.get("type") if isinstance(raw, dict) else raw)
        raise InvalidRequest(f"expected a tool of type 'function', got {got}.", field=f"{where}.type")
    said = raw.get("function")
    if not isinstance(said, dict):
        raise InvalidRequest(f"expected an object, got {fields.shown(said)}.", field=f"{where}.function")
    for names, known, at in ((raw, {"type", "function"}, where), (said, _KEYS, f"{where}.function")):
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise InvalidRequest("is not offered here.", field=f"{at}.{unknown[:80]}", remedy="Leave it out.")
    found: dict[str, Any] = {"name": check_function_name(said.get("name"), f"{where}.function.name")}
    description = said.get("description")
    if description is not None:
        if not isinstance(description, str):
            raise InvalidRequest(
                f"expected a text, got {fields.shown(description)}.", field=f"{where}.function.description"
            )
        found["description"] = description
    schema = said.get("parameters")
    if schema is not None:
        found["parameters"] = _schema(schema, f"{where}.function.parameters")
    if fields.truth({f"{where}.function.strict": said.get("strict")}, f"{where}.function.strict"):
        found["strict"] = True
    return {"type": "function", "function": found}


def _schema(schema: Any, where: str) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"expected a JSON schema, an object, got {fields.shown(schema)}.", field=where)
    if schema.get("type", "object") != "object":
        raise InvalidRequest(
            f"expected 'object', since arguments are one, got {fields.shown(schema['type'])}.", field=f"{where}.type"
        )
    if fields.is_deep(schema, MAX_DEPTH):
        raise InvalidRequest(f"nested deeper than {MAX_DEPTH}.", field=where)
    return schema


def _choice(choice: Any, names: list[str]) -> tuple[str, list[str] | None, bool]:
    """Return the mode, the functions that are allowed, None for all, and whether one call is all there may be."""
    if choice is None or choice in _MODES:
        return choice or "auto", None, False
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return "required", [_named(choice, names, "tool_choice")], True
    if kind == "allowed_tools" and isinstance(choice.get("allowed_tools"), dict):
        said, where = choice["allowed_tools"], "tool_choice.allowed_tools"
        mode, tools = said.get("mode"), said.get("tools")
        if mode not in ("auto", "required"):
            raise InvalidRequest(f"expected auto or required, got {fields.shown(mode)}.", field=f"{where}.mode")
        if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
            raise InvalidRequest(
                f"expected a list of 1 to {MAX_TOOLS} functions, got {fields.shown(tools)}.", field=f"{where}.tools"
            )
        return mode, [_named(one, names, f"{where}.tools[{index}]") for index, one in enumerate(tools)], False
    raise InvalidRequest(f"{_EXPECTED_CHOICE}, got {fields.shown(choice)}.", field="tool_choice")


def _named(choice: Any, names: list[str], where: str) -> str:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(
            f"{fields.shown(name)} is none of tools.",
            field=f"{where}.function.name",
            remedy="Name one that is offered.",
        )
    return name
