"""The functions that a chat may call: read, bounded, and written as a grammar that the text keeps to.

The grammar's rules that depend on a tokenizer, and those of the text around calls, are the host's to add. What a client
wrote goes into it as JSON only, so that it stays data. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.protocol.manifest import Manifest
from contracts.protocol.tool_formats import (
    FUNCTION_NAME,
    MAX_TOOLS,
    MAX_TOOLS_BYTES,
    ToolFormat,
)
from workers.errors import InputsRefused
from workers.models.generation.chats import check_plain
from workers.models.generation.schemas import Weight

FIELD = "prompt.tools"
CHOICES = ("auto", "required", "none")
_KEYS = frozenset({"name", "description", "parameters", "strict"})
# As Python's json writes, which is what models are trained with: without it small models write blanks without end.
_BLANKS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LINE = re.compile(r"\bat (\d{1,6})\(")
_NAMED = re.compile(rf'f\d+: "{{\\"name\\": \\"({FUNCTION_NAME.pattern})\\"', re.ASCII)
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Function:
    """What may be called; `schema` is of its arguments, and `strict` says that each of its words must be understood."""

    name: str
    schema: Mapping[str, Any]
    strict: bool


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions of a chat as the model is shown them, JSON; and the grammar of a text that may call some."""

    shown: str | None = None
    grammar: str | None = None


def read_tools(
    manifest: Manifest, tools: Any, parameters: Mapping[str, Any], *, schema: str | None, weight: Weight
) -> ToolUse:
    """Read a chat's functions, None if it has none, and which of them may or must be called; `schema` is the answer's.

    Raises:
        InputsRefused: names the parameter, or FIELD.
    """
    form = manifest.tool_format
    given = [name for name in ("tool_choice", "allowed_tools", "parallel_tool_calls") if name in parameters]
    if form is None:
        if tools is not None or given:
            raise InputsRefused("the model calls no functions.", field=FIELD if tools is not None else _at(given[0]))
        return ToolUse()
    choice = parameters.get("tool_choice", "auto")
    if choice not in CHOICES:
        raise InputsRefused(f"{choice!r:.80} is not one of {', '.join(CHOICES)}.", field=_at("tool_choice"))
    if tools is None:
        if choice == "required" or set(given) - {"tool_choice"}:
            raise InputsRefused("there are no functions.", field=_at(given[-1]))
        none = "tool_choice" in given and choice == "none" and schema is None
        return ToolUse(None, "start: text\n" if none else None)
    functions = _functions(tools, weight)
    allowed = _allowed(parameters.get("allowed_tools"), functions)
    several = parameters.get("parallel_tool_calls", True)
    if not isinstance(several, bool):
        raise InputsRefused(f"{several!r:.80} is not true or false.", field=_at("parallel_tool_calls"))
    shown = json.dumps([_shown(one) for one in tools], ensure_ascii=False)
    return ToolUse(shown, _grammar(form, allowed, choice=choice, several=several, schema=schema))


def _functions(tools: Any, weight: Weight) -> list[Function]:
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise _refused(f"expected a list of 1 to {MAX_TOOLS} functions.")
    check_plain(tools, FIELD)
    if len(json.dumps(tools, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")) > MAX_TOOLS_BYTES:
        raise _refused(f"more than {MAX_TOOLS_BYTES} bytes.")
    functions = [_function(index, tool, weight) for index, tool in enumerate(tools)]
    if len({one.name for one in functions}) != len(functions):
        raise _refused("a name is given twice.")
    weight.check(FIELD)
    return functions


def _function(index: int, tool: Any, weight: Weight) -> Function:
    said = tool.get("function") if isinstance(tool, dict) and set(tool) == {"type", "function"} else None
    if not isinstance(said, dict) or tool["type"] != "function" or set(said) - _KEYS:
        raise _refused(f"{index} is no function with {', '.join(sorted(_KEYS))}.")
    name, strict = said.get("name"), said.get("strict", False)
    if not isinstance(name, str) or FUNCTION_NAME.fullmatch(name) is None:
        raise _refused(f"{index} has no name of {FUNCTION_NAME.pattern}.")
    if not isinstance(said.get("description", ""), str) or not isinstance(strict, bool):
        raise _refused(f"{name} has a description that is no text, or a strict that is not true or false.")
    schema = said.get("parameters", _NOTHING)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise _refused(f"the parameters of {name} are no schema of an object.")
    weight.weigh(schema)
    return Function(name, schema, strict)


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function as templates know them: some fail where a description or parameters are missing."""
    said = {name: value for name, value in tool["function"].items() if name != "strict"}
    schema = {"type": "object", "properties": {}, **said.get("parameters", {})}
    return {"type": "function", "function": {"description": "", **said, "parameters": schema}}


def _allowed(value: Any, functions: Sequence[Function]) -> list[Function]:
    if value is None:
        return list(functions)
    try:
        names = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        names = None
    known = {one.name for one in functions}
    if not isinstance(names, list) or not names or not all(isinstance(one, str) and one in known for one in names):
        raise InputsRefused("expected the JSON of a list of names of functions.", field=_at("allowed_tools"))
    return [one for one in functions if one.name in names]


def _grammar(form: ToolFormat, functions: Sequence[Function], *, choice: str, several: bool, schema: str | None) -> str:
    more = " more*" if several and form.begin else ""
    starts = []
    if choice != "required":
        starts.append("text" if schema is None else "answer")
    if choice == "required" or (choice == "auto" and schema is not None):
        starts.append(f"begin rest{more}")
    elif choice == "auto":
        starts.append(f"opened rest{more}")
    rules = [f"start: {' | '.join(starts)}"]
    if schema is not None and choice != "required":
        rules.append(f"answer: %json {_quoted(json.loads(schema))}")
    if choice != "none":
        space = json.dumps(form.space)
        rules.append(f"more: {space} begin rest")
        rules.append(f"rest: {space} function {space} end")
        rules.append(f"function: {' | '.join(f'f{index}' for index in range(len(functions)))}")
        for index, one in enumerate(functions):
            head = json.dumps(f'{{"name": "{one.name}", "{form.arguments}": ')
            rules.append(f'f{index}: {head} %json {_quoted(_held(one))} "}}"')
    return "\n".join(rules) + "\n"


def _held(one: Function) -> dict[str, Any]:
    """Return the schema by which arguments are written; words that nobody knows are passed over unless it is strict."""
    return {"type": "object", **one.schema, "x-guidance": {**_BLANKS, "lenient": not one.strict}}


def _quoted(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema)


def culprit(grammar: str, error: str) -> tuple[str, str]:
    """Return which schema of a grammar an error of llguidance is about, and its field; it names the rule's line."""
    line = _LINE.search(error)
    rules = grammar.split("\n")
    rule = rules[int(line[1]) - 1] if line is not None and 0 < int(line[1]) <= len(rules) else ""
    if rule.startswith("answer: "):
        return "the schema", "parameters.json_schema"
    named = _NAMED.match(rule)
    return ("the schemas" if named is None else f"the schema of {named[1]}"), FIELD


def mark_rules(form: ToolFormat, token_of: Callable[[str], int | None]) -> str:
    """Return the rules that a tokenizer decides: its own token for a mark, if `token_of` has one, or its letters."""
    if not form.begin:
        # A text that begins as a call does would be read as one.
        return 'begin: ""\nend: ""\nopened: ""\ntext: TEXT\nTEXT: /\\s*([^{\\s](?s:.*))?/'
    begin, end = token_of(form.begin), token_of(form.end)
    pattern = re.escape(form.begin).replace("/", r"\/")
    return "\n".join(
        [
            f"begin: {json.dumps(form.begin)}" + (f" | <[{begin}]>" if begin is not None else ""),
            f"end: {json.dumps(form.end)}" + (f" | <[{end}]>" if end is not None else ""),
            "text: TEXT",
            "opened: before" + (f" | TEXT <[{begin}]>" if begin is not None else ""),
            # Lazy: it ends with the first mark. A text has none, whichever way it is spelt.
            f"before[lazy]: /(?s:.*){pattern}/",
            f"TEXT: /(?s:.*)/ & ~/(?s:.*){pattern}(?s:.*)/",
        ]
    )


def _at(name: str) -> str:
    return f"parameters.{name}"


def _refused(detail: str) -> InputsRefused:
    return InputsRefused(detail, field=FIELD)
