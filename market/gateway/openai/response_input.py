"""The input of /v1/responses, as the messages of a chat.

Decides which items mean something here: messages, calls of functions, and what they gave. Calls that follow each other,
or the assistant's text, are one message of a chat. Called by the reader of responses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from contracts.protocol.tool_formats import MAX_TOOLS
from market.errors import InvalidRequest
from market.gateway.openai import fields
from market.gateway.openai.messages import check_call_id, check_function_name, read_arguments

SEND_ALL = "Nothing is stored here: send the earlier messages in input."
_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text")
_OF_AN_ITEM = {
    "message": frozenset({"content", "id", "phase", "role", "status", "type"}),
    "function_call": frozenset({"arguments", "call_id", "id", "name", "status", "type"}),
    "function_call_output": frozenset({"call_id", "id", "name", "output", "status", "type"}),
}


@dataclass(slots=True)
class Input:
    """A chat's messages; `calls_at` names the first item that is a call, None if none is."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    calls_at: str | None = None
    # The ids of the calls that what follows may answer.
    open_calls: set[str] = field(default_factory=set)


def read_input(value: Any) -> Input:
    """Read a text or a list of items.

    Raises:
        InvalidRequest: names the item and its member.
    """
    if isinstance(value, str):
        return Input([{"role": "user", "content": value}])
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            f"expected a text or a list of at least one message, got {fields.shown(value)}.", field="input"
        )
    found = Input()
    for index, item in enumerate(value):
        _read_item(item, f"input[{index}]", found)
    return found


def _read_item(item: Any, where: str, found: Input) -> None:
    if not isinstance(item, dict):
        raise InvalidRequest(f"expected an object with role and content, got {fields.shown(item)}.", field=where)
    kind = item.get("type", "message")
    if kind == "item_reference":
        raise InvalidRequest("there is nothing to refer to.", field=where, remedy=SEND_ALL)
    if not isinstance(kind, str) or kind not in _OF_AN_ITEM:
        raise InvalidRequest(
            f"expected an item of type {', '.join(_OF_AN_ITEM)}, got {fields.shown(kind)}.", field=f"{where}.type"
        )
    for name, value in item.items():
        if name not in _OF_AN_ITEM[kind] and value not in (None, False, []):
            raise InvalidRequest("is not offered here.", field=f"{where}.{name[:80]}", remedy="Leave it out.")
    if kind == "message":
        found.open_calls = set()
        found.messages.append(_message(item, where))
    elif kind == "function_call":
        _add_call(item, where, found)
    else:
        found.messages.append(_output(item, where, found))


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"expected one of {', '.join(_ROLES)}, got {fields.shown(role)}.", field=f"{where}.role")
    return {"role": role, "content": _text(item.get("content"), f"{where}.content")}


def _add_call(item: dict[str, Any], where: str, found: Input) -> None:
    name = check_function_name(item.get("name"), f"{where}.name")
    id_ = check_call_id(item.get("call_id"), f"{where}.call_id")
    arguments = item.get("arguments")
    read_arguments(arguments, f"{where}.arguments")
    if not found.messages or found.messages[-1]["role"] != "assistant":
        found.messages.append({"role": "assistant", "content": ""})
        found.open_calls = set()
    calls = found.messages[-1].setdefault("tool_calls", [])
    if len(calls) == MAX_TOOLS:
        raise InvalidRequest(f"more than {MAX_TOOLS} calls, one after the other.", field=where)
    if id_ in found.open_calls:
        raise InvalidRequest(f"{fields.shown(id_)} is given twice.", field=f"{where}.call_id")
    calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}})
    found.open_calls.add(id_)
    found.calls_at = found.calls_at or where


def _output(item: dict[str, Any], where: str, found: Input) -> dict[str, Any]:
    id_ = item.get("call_id")
    if not isinstance(id_, str) or id_ not in found.open_calls:
        raise InvalidRequest(
            f"{fields.shown(id_)} is the call_id of no call before.",
            field=f"{where}.call_id",
            remedy="Send the function_call first, then what it gave.",
        )
    return {"role": "tool", "tool_call_id": id_, "content": _text(item.get("output"), f"{where}.output")}


def _text(content: Any, where: str) -> str:
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        got = fields.shown(content)
        raise InvalidRequest(f"expected a text, or a list of text parts, got {got}.", field=where)
    return content


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else part
    if not isinstance(part, dict) or kind not in _TEXT_PARTS:
        wanted = " or ".join(f"'{one}'" for one in _TEXT_PARTS)
        raise InvalidRequest(f"expected a part of type {wanted}, got {fields.shown(kind)}.", field=where)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"expected a text, got {fields.shown(text)}.", field=f"{where}.text")
    return text
