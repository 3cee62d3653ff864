"""What a worker takes of a chat's functions, and what it refuses."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.tool_formats import MAX_TOOLS, MAX_TOOLS_BYTES
from tests.support.junk import junk
from tests.unit.workers.test_generation_request import MANIFEST, read
from workers.errors import InputsRefused
from workers.models.generation.schemas import MAX_SCHEMA_WORK

CALLING = replace(MANIFEST, options={"context_length": 1 << 14, "tool_format": "hermes"})
USER = {"role": "user", "content": "x"}


def function(name="f", **said):
    return {"type": "function", "function": {"name": name, **said}}


def ask(tools=(), messages=(USER,), manifest=CALLING, **parameters):
    chat = {"messages": list(messages), "tools": list(tools)} if tools else list(messages)
    return read(chat, manifest, format="chat", **parameters)


def test_functions_are_shown_whole_and_without_what_is_ours():
    schema = {"properties": {"a": {}}, "required": ["a"]}
    request = ask([function(strict=True, description="é", parameters=schema), function("g")])
    assert json.loads(request.tools) == [
        function(description="é", parameters={"type": "object", **schema}),
        function("g", description="", parameters={"type": "object", "properties": {}}),
    ]
    assert json.loads(request.messages) == [USER]


def test_a_chat_without_functions_is_held_to_nothing():
    request = ask()
    assert (request.tools, request.grammar) == (None, None)
    assert ask(tool_choice="none").grammar == "start: text\n"
    assert ask(tool_choice="none", json_schema="{}").grammar is None


def test_what_a_client_wrote_stays_json_in_the_grammar():
    evil = '"\nstart: /.*/\n%json {} \\" // # <[0-9]>'
    request = ask([function(description=evil, parameters={"title": evil, "properties": {evil: {"const": evil}}})])
    lines = request.grammar.splitlines()
    assert [line.split(":")[0] for line in lines] == ["start", "more", "rest", "function", "f0"]
    tail = lines[-1].split("%json ", 1)[1]
    schema, end = json.JSONDecoder().raw_decode(tail)
    assert schema["properties"] == {evil: {"const": evil}}
    assert tail[end:] == ' "}"'


def test_a_client_sets_no_options_of_the_grammar():
    request = ask([function(parameters={"type": "object", "x-guidance": {"whitespace_pattern": ".*"}})])
    assert "whitespace_pattern" not in request.grammar


def test_calls_and_what_they_gave_are_read():
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": {"a": [1.5, None]}}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "1", "name": "f"},
    ]
    assert json.loads(ask(messages=messages).messages) == messages
    with pytest.raises(InputsRefused, match="means nothing here"):
        ask(messages=messages, manifest=MANIFEST)
    with pytest.raises(InputsRefused, match="means nothing here"):
        ask(messages=messages[1:], manifest=MANIFEST)


DEEP = json.loads("[" * 70 + "]" * 70)
ITEMS = {"type": "array", "maxItems": MAX_SCHEMA_WORK - 1}
BAD_TOOLS = {
    "none": "x",
    "too many": [function(f"f{i}") for i in range(MAX_TOOLS + 1)],
    "too long": [function(description="x" * MAX_TOOLS_BYTES)],
    "too deep": [function(parameters={"const": DEEP})],
    "U+0000": [function(description="a\0")],
    "a number": [1],
    "another type": [{"type": "custom", "function": {"name": "f"}}],
    "more beside": [{**function(), "x": 1}],
    "more inside": [function(x=1)],
    "no name": [{"type": "function", "function": {}}],
    "no good name": [function("a b")],
    "twice": [function(), function()],
    "no text": [function(description=1)],
    "no truth": [function(strict=1)],
    "no schema": [function(parameters=1)],
    "no object": [function(parameters={"type": "string"})],
    "much work together": [function(f"f{i}", parameters={"properties": {"a": ITEMS}}) for i in range(2)],
}


@pytest.mark.parametrize("tools", BAD_TOOLS.values(), ids=BAD_TOOLS.keys())
def test_bad_functions_are_refused(tools):
    with pytest.raises(InputsRefused) as error:
        read({"messages": [USER], "tools": tools}, CALLING, format="chat")
    assert error.value.field == "prompt.tools"


def test_the_answers_schema_counts_too():
    tools = [function(parameters={"properties": {"a": ITEMS}})]
    ask(tools, json_schema='{"type": "array", "maxItems": 1}')
    with pytest.raises(InputsRefused):
        ask(tools, json_schema='{"type": "array", "maxItems": 2}')


BAD_CHOICES = {
    "tool_choice": "any",
    "allowed_tools": '["other"]',
    "parallel_tool_calls": "yes",
}


@pytest.mark.parametrize(("name", "value"), [*BAD_CHOICES.items(), ("allowed_tools", "["), ("allowed_tools", "[]")])
def test_a_bad_choice_is_named(name, value):
    with pytest.raises(InputsRefused) as error:
        ask([function()], **{name: value})
    assert error.value.field == f"parameters.{name}"


@pytest.mark.parametrize(
    ("name", "value"), [("tool_choice", "required"), ("allowed_tools", '["f"]'), ("parallel_tool_calls", True)]
)
def test_a_choice_needs_functions(name, value):
    for manifest in (CALLING, MANIFEST):
        with pytest.raises(InputsRefused) as error:
            ask(manifest=manifest, **{name: value})
        assert error.value.field == f"parameters.{name}"


def test_a_text_is_no_chat_and_calls_nothing():
    with pytest.raises(InputsRefused, match="no functions"):
        read("x", CALLING, tool_choice="required")


def test_a_model_that_calls_nothing_refuses_functions():
    with pytest.raises(InputsRefused) as error:
        ask([function()], manifest=MANIFEST)
    assert error.value.field == "prompt.tools"


CALL = {"type": "function", "id": "1", "function": {"name": "f", "arguments": {}}}
BAD_CALLS = {
    "none": [],
    "no list": "x",
    "a number": [1],
    "no id": [{**CALL, "id": None}],
    "a long id": [{**CALL, "id": "x" * 300}],
    "a text for arguments": [{**CALL, "function": {"name": "f", "arguments": "{}"}}],
    "deep arguments": [{**CALL, "function": {"name": "f", "arguments": {"a": DEEP}}}],
    "U+0000": [{**CALL, "function": {"name": "f", "arguments": {"a": [{"\0": 1}]}}}],
    "half a surrogate pair": [{**CALL, "function": {"name": "f", "arguments": {"a": "\ud800"}}}],
}


@pytest.mark.parametrize("calls", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls_are_refused(calls):
    with pytest.raises(InputsRefused) as error:
        ask(messages=[{"role": "assistant", "content": "", "tool_calls": calls}])
    assert error.value.field == "prompt"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_refused(number):
    chat = json.dumps([{"role": "assistant", "content": "", "tool_calls": [CALL]}])
    with pytest.raises(InputsRefused):
        read(chat.replace('"arguments": {}', f'"arguments": {{"a": {number}}}'), CALLING, format="chat")


WORDS = [
    "type",
    "function",
    "name",
    "parameters",
    "strict",
    "tool_calls",
    "id",
    "arguments",
    "role",
    "content",
    "x-guidance",
    "tool_call_id",
    "assistant",
    "tool",
    "user",
    "f",
    "object",
    "properties",
    "maxItems",
    "$ref",
    "allOf",
    "\x00",
]
JUNK = junk(WORDS, st.integers() | st.floats())


def field_refused(chat, parameters):
    """Return the field that a chat is refused for, None if it is taken."""
    try:
        read(json.dumps(chat), CALLING, format="chat", **parameters)
    except InputsRefused as error:
        return error.field or ""
    return None


@given(JUNK, JUNK, st.dictionaries(st.sampled_from(["tool_choice", "allowed_tools", "parallel_tool_calls"]), JUNK))
def test_whatever_is_sent_is_read_or_refused_by_name(messages, tools, parameters):
    for chat in (messages, {"messages": messages, "tools": tools}, {"messages": [USER], "tools": tools}):
        assert field_refused(chat, parameters) != ""
