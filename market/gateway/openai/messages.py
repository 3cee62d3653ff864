"""The messages of a chat, as the model is given them.

Decides which roles and members mean something here, and that what a function gave answers a call that was made. Called
by the reader of chats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from contracts.protocol.tool_formats import FUNCTION_NAME, MAX_DEPTH, MAX_TOOLS
from market.errors import InvalidRequest
from market.gateway.openai import fields

MAX_CALL_ID = 256
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MEANS_NOTHING = frozenset({"role", "content", "name"})
_OF_ROLE = {"assistant": frozenset({"tool_calls"}), "tool": frozenset({"tool_call_id"})}


@dataclass(frozen=True, slots=True)
class Messages:
    """A chat's messages; `calls_at` is the name of the first member that tells of a call, None if none does."""

    rows: list[dict[str, Any]]
    calls_at: str | None


def read_messages(raw: Any) -> Messages:
    """Read the messages.

    Raises:
        InvalidRequest: names the message and its member.
    """
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest(f"expected a list of at least one message, got {fields.shown(raw)}.", field="messages")
    rows, calls_at = [], None
    # The calls of the newest message that has some, which the tools' messages behind it answer: name by id.
    open_calls: dict[str, str] = {}
    for index, given in enumerate(raw):
        where = f"messages[{index}]"
        row = _message(given, where)
        if row["role"] == "tool":
            row["tool_call_id"] = _answered(given.get("tool_call_id"), open_calls, f"{where}.tool_call_id")
            row["name"] = open_calls[row["tool_call_id"]]
        else:
            open_calls = {one["id"]: one["function"]["name"] for one in row.get("tool_calls", ())}
            if open_calls and calls_at is None:
                calls_at = f"{where}.tool_calls"
        rows.append(row)
    return Messages(rows, calls_at)


def _message(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InvalidRequest(f"expected an object with role and content, got {fields.shown(row)}.", field=where)
    role = row.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"expected one of {', '.join(_ROLES)}, got {fields.shown(role)}.", field=f"{where}.role")
    known = _MEANS_NOTHING | _OF_ROLE.get(role, frozenset())
    for name, value in row.items():
        if name not in known and value not in (None, []):
            raise InvalidRequest("is not offered here.", field=f"{where}.{name[:80]}", remedy="Leave it out.")
    calls = _calls(row.get("tool_calls"), f"{where}.tool_calls") if role == "assistant" else []
    content = row.get("content")
    if calls and content is None:
        content = ""
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        got = fields.shown(content)
        raise InvalidRequest(f"expected a text, or a list of text parts, got {got}.", field=f"{where}.content")
    return {"role": _ROLES[role], "content": content, **({"tool_calls": calls} if calls else {})}


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = fields.shown(part.get("type")) if isinstance(part, dict) else fields.shown(part)
        raise InvalidRequest(f"expected a part of type 'text', got {kind}.", field=where)
    text: str = part["text"]
    return text


def _calls(raw: Any, where: str) -> list[dict[str, Any]]:
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) > MAX_TOOLS:
        raise InvalidRequest(f"expected a list of at most {MAX_TOOLS} calls, got {fields.shown(raw)}.", field=where)
    calls = [_call(one, f"{where}[{index}]") for index, one in enumerate(raw)]
    ids = set()
    for index, one in enumerate(calls):
        if one["id"] in ids:
            raise InvalidRequest(f"{fields.shown(one['id'])} is given twice.", field=f"{where}[{index}].id")
        ids.add(one["id"])
    return calls


def _call(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("type", "function") != "function":
        got = fields.shown(raw.get("type") if isinstance(raw, dict) else raw)
        raise InvalidRequest(f"expected a call of type 'function', got {got}.", field=where)
    id_, function = check_call_id(raw.get("id"), f"{where}.id"), raw.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"expected an object, got {fields.shown(function)}.", field=f"{where}.function")
    name = check_function_name(function.get("name"), f"{where}.function.name")
    arguments = read_arguments(function.get("arguments"), f"{where}.function.arguments")
    return {"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}


def check_call_id(id_: Any, where: str) -> str:
    """Return a call's id.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(id_, str) or not 1 <= len(id_) <= MAX_CALL_ID:
        raise InvalidRequest(f"expected a text of 1 to {MAX_CALL_ID} characters, got {fields.shown(id_)}.", field=where)
    return id_


def check_function_name(name: Any, where: str) -> str:
    """Return a function's name.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(name, str) or FUNCTION_NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"expected a name of 1 to 64 letters, digits, _ and -, got {fields.shown(name)}.", field=where
        )
    return name


def read_arguments(text: Any, where: str) -> dict[str, Any]:
    """Return the arguments of a call that was made, which templates write anew.

    Raises:
        InvalidRequest: they are no JSON of an object.
    """
    try:
        # Some clients write nothing for no arguments.
        found = orjson.loads(text or "{}") if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or fields.is_deep(found, MAX_DEPTH):
        raise InvalidRequest(
            f"expected the JSON of an object, at most {MAX_DEPTH} deep, got {fields.shown(text)}.",
            field=where,
            remedy="Send the arguments as the answer had them.",
        )
    return found


def _answered(id_: Any, open_calls: Mapping[str, str], where: str) -> str:
    if not isinstance(id_, str) or id_ not in open_calls:
        raise InvalidRequest(
            f"{fields.shown(id_)} is the id of no call in the assistant's message before.",
            field=where,
            remedy="Send the assistant's message with its tool_calls first.",
        )
    return id_
