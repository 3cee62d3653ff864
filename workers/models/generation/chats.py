"""The messages of a chat, as the JSON that a chat template is given: read, and held to what templates can bear. Pure.

A chat is a list of messages, or with functions an object with `messages` and `tools`.
"""

from __future__ import annotations

import json
from typing import Any

from contracts.protocol.tool_formats import MAX_DEPTH, MAX_TOOLS, ToolFormat
from workers.errors import InputsRefused

ROLES = ("system", "user", "assistant", "tool")
MAX_WORD = 256  # of an id or a name


def read_chat(text: str, form: ToolFormat | None) -> tuple[str, Any]:
    """Return the messages as JSON of roles, texts and calls only, and the tools, None if there are none.

    Calls are read where the model has a form for them.

    Raises:
        InputsRefused: it is no chat.
    """
    try:
        rows = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _refused("the prompt is not JSON.", remedy="A chat is a list of messages.") from error
    tools = None
    if isinstance(rows, dict) and set(rows) == {"messages", "tools"}:
        rows, tools = rows["messages"], rows["tools"]
    if not isinstance(rows, list) or not rows:
        raise _refused("a chat is a list of at least one message.")
    messages = [_message(i, row, form) for i, row in enumerate(rows)]
    try:
        json.dumps(tools, ensure_ascii=False, allow_nan=False).encode()
        written = json.dumps(messages, ensure_ascii=False, allow_nan=False).encode().decode()
    except UnicodeEncodeError as error:
        raise _refused("a message has half a surrogate pair.") from error
    except (ValueError, RecursionError) as error:
        raise _refused("a message has a number beyond all numbers, or is nested too deep.") from error
    return written, tools


def without_nul(text: str, field: str = "prompt") -> str:
    """Return a text in which nothing ends early.

    Raises:
        InputsRefused: it has a character U+0000.
    """
    if "\0" in text:
        raise InputsRefused("a text has a character U+0000.", field=field, remedy="Leave it out.")
    return text


def check_plain(value: Any, field: str) -> None:
    """Hold what a template writes out to what it can bear: no text in it has U+0000, and it is not too deep.

    Raises:
        InputsRefused: it is too deep, or has one.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = []
        for one in level:
            if isinstance(one, str):
                without_nul(one, field)
            elif isinstance(one, dict):
                inner += [*one, *one.values()]
            elif isinstance(one, list):
                inner += one
        level = inner
        if not level:
            return
    raise InputsRefused(f"nested deeper than {MAX_DEPTH}.", field=field)


def _message(index: int, row: Any, form: ToolFormat | None) -> dict[str, Any]:
    if not isinstance(row, dict) or row.get("role") not in ROLES:
        raise _refused(f"message {index} has no role of {', '.join(ROLES)}.")
    role = row["role"]
    calls = {"assistant": {"tool_calls"}, "tool": {"tool_call_id"}}.get(role, set()) if form is not None else set()
    unknown = sorted(set(row) - {"role", "content", "name"} - calls)
    if unknown:
        raise _refused(f"message {index} has {unknown[0]!r:.80}, which means nothing here.")
    message = {"role": role, "content": _content(index, row.get("content"))}
    if role == "tool" and form is not None:
        message |= {name: _word(index, name, row[name]) for name in ("tool_call_id", "name") if name in row}
    if "tool_calls" in row:
        message["tool_calls"] = _calls(index, row["tool_calls"])
    return message


def _content(index: int, content: Any) -> str:
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise _refused(f"message {index} has no text.")
    return without_nul(content)


def _calls(index: int, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not 1 <= len(calls) <= MAX_TOOLS:
        raise _refused(f"the calls of message {index} are no list of 1 to {MAX_TOOLS}.")
    found = []
    for one in calls:
        match one:
            case {
                "type": "function",
                "id": str() as id_,
                "function": {"name": str() as name, "arguments": dict() as given},
            }:
                check_plain(given, "prompt")
                function = {"name": _word(index, "name", name), "arguments": given}
                found.append({"type": "function", "id": _word(index, "id", id_), "function": function})
            case _:
                raise _refused(f"message {index} has a call without id, name or arguments, an object.")
    return found


def _word(index: int, name: str, value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_WORD:
        raise _refused(f"message {index} has a {name} that is no text of 1 to {MAX_WORD} characters.")
    return without_nul(value)


def _no_number(word: str) -> Any:
    raise ValueError(word)


def _refused(detail: str, *, remedy: str | None = None) -> InputsRefused:
    return InputsRefused(detail, field="prompt", remedy=remedy)
