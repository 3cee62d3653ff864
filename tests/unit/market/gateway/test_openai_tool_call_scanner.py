"""The calls in a text, however it is cut."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.protocol.tool_formats import TOOL_FORMATS
from market.gateway.openai.tool_calls import Arguments, Begun, Text, ToolCallScanner

NAMES = frozenset({"weather", "wea"})


def scanned(*pieces, form="hermes", cut=False):
    scanner = ToolCallScanner(TOOL_FORMATS[form], NAMES)
    found = [one for piece in pieces for one in scanner.feed(piece)] + scanner.rest(cut=cut)
    joined = []
    for one in found:
        if joined and type(one) is type(joined[-1]) and not isinstance(one, Begun):
            joined[-1] = replace(joined[-1], text=joined[-1].text + one.text)
        else:
            joined.append(one)
    return joined, scanner.calls, scanner.is_whole


def call(arguments="{}", name="weather"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def plain(arguments="{}", name="weather"):
    """Return a call without marks."""
    return f'{{"name": "{name}", "parameters": {arguments}}}'


HARD = json.dumps({"a": '}"]</tool_call>{\\', "b": [{"c": "\\\\"}], "é": None})
CASES = {
    "very many blanks before it": (" " * 1_025 + call(), [Text(" " * 1_025), Begun(0, "weather"), Arguments(0, "{}")]),
    "many blanks before it": (" " * 1_024 + call(), [Begun(0, "weather"), Arguments(0, "{}")]),
    "text": ("Hello there.", [Text("Hello there.")]),
    "nothing": ("", []),
    "blanks": (" \n", [Text(" \n")]),
    "a call": (call(), [Begun(0, "weather"), Arguments(0, "{}")]),
    "blanks before it": ("\n " + call(), [Begun(0, "weather"), Arguments(0, "{}")]),
    "text before it": ("Let me see.\n" + call(HARD), [Text("Let me see.\n"), Begun(0, "weather"), Arguments(0, HARD)]),
    "two calls": (
        call(HARD) + "\n" + call('{"a":1}', "wea") + "\n",
        [Begun(0, "weather"), Arguments(0, HARD), Begun(1, "wea"), Arguments(1, '{"a":1}')],
    ),
    "other blanks": (
        '<tool_call>{ "name"\t:"wea" ,\r\n"arguments" : { } } </tool_call>',
        [Begun(0, "wea"), Arguments(0, "{ }")],
    ),
    "text behind it": (call() + "\nDone.", [Begun(0, "weather"), Arguments(0, "{}"), Text("\nDone.")]),
    "almost a mark": ("1 <tool_ca", [Text("1 <tool_ca")]),
    "almost a mark, and more": ("1 <<tool_calls>", [Text("1 <<tool_calls>")]),
    "a mark and text": ("<tool_call> is a mark.", [Text("<tool_call> is a mark.")]),
    "a mark before a call": ("<tool_call>" + call(), [Text("<tool_call>"), Begun(0, "weather"), Arguments(0, "{}")]),
    "a name that nobody offered": (call(name="other"), [Text(call(name="other"))]),
    "arguments that are no object": (call("[1]"), [Text(call("[1]"))]),
    "more in it than there should be": (
        '<tool_call>{"name": "wea", "arguments": {}, "x": 1}</tool_call>',
        [Begun(0, "wea"), Arguments(0, "{}"), Text(', "x": 1}</tool_call>')],
    ),
    "blanks without end": ("<tool_call>" + " " * 2_000, [Text("<tool_call>" + " " * 2_000)]),
}


@pytest.mark.parametrize(("text", "found"), CASES.values(), ids=CASES.keys())
def test_whole_and_letter_by_letter(text, found):
    assert scanned(text)[0] == found
    assert scanned(*text)[0] == found


PLAIN = {
    "text": ("Hello { there }.", [Text("Hello { there }.")]),
    "nothing": ("", []),
    "blanks": (" \n", [Text(" \n")]),
    "a call": (plain(HARD), [Begun(0, "weather"), Arguments(0, HARD)]),
    "blanks around it": (f"\n {plain()}\n", [Begun(0, "weather"), Arguments(0, "{}")]),
    "a call behind text": ("So: " + plain(), [Text("So: " + plain())]),
    "another call behind it": (
        plain() + "; " + plain(),
        [Begun(0, "weather"), Arguments(0, "{}"), Text("; " + plain())],
    ),
    "another object": ('{"name": "Rome"}', [Text('{"name": "Rome"}')]),
    "a name that nobody offered": (plain(name="other"), [Text(plain(name="other"))]),
    "a call with marks": (call(), [Text(call())]),
}


@pytest.mark.parametrize(("text", "found"), PLAIN.values(), ids=PLAIN.keys())
def test_without_marks_a_call_is_the_whole_text(text, found):
    assert scanned(text, form="llama3_json")[0] == found
    assert scanned(*text, form="llama3_json")[0] == found


WHOLE = "I see.\n" + call(HARD)


def test_a_text_that_is_cut_shows_no_mark_and_says_that_the_call_is_not_whole():
    for end in range(len("I see.\n<tool_call>"), len(WHOLE)):
        found, calls, is_whole = scanned(WHOLE[:end])
        assert found[0] == Text("I see.\n")
        assert [one.text for one in found if isinstance(one, Text)] == ["I see.\n"]
        assert calls == sum(isinstance(one, Begun) for one in found)
        if calls:
            given_arguments = "".join(one.text for one in found if isinstance(one, Arguments))
            assert HARD.startswith(given_arguments)
            assert is_whole == (given_arguments == HARD)


def test_the_beginning_of_a_mark_at_which_a_text_was_cut_is_not_shown():
    for before, found in (("So ", [Text("So ")]), ("", []), (call() + "\n", scanned(call())[0])):
        for end in range(2, len("<tool_call>")):
            assert scanned(before + "<tool_call>"[:end], cut=True)[0] == found
    assert scanned("a <", cut=True)[0] == [Text("a <")]
    assert scanned("a <tool", cut=False)[0] == [Text("a <tool")]
    assert scanned("a <b", cut=True)[0] == [Text("a <b")]


PARTS = st.sampled_from([
    "<tool_call>", "</tool_call>", "{", "}", '"name"', '"arguments"', ":", ",", '"wea"', '"weather"', '"no"', "\n", " ",
    "a", "<", "é", '"parameters"', plain(HARD), '"', "\\", "[", "]", '{"name": "wea", "arguments": {', call(), call(HARD), " " * 600,
])  # fmt: skip


@given(st.lists(PARTS, max_size=14).map("".join), st.data())
@example("<tool_call>" + " " * 1_025, None)
def test_any_cut_gives_the_same(text, data):
    whole = scanned(text)
    assert scanned(*text) == whole
    assert scanned(*text, form="llama3_json") == scanned(text, form="llama3_json")
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
        assert scanned(*(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))) == whole


@given(st.lists(PARTS, max_size=14).map("".join))
def test_nothing_is_made_up(text):
    found, _, _ = scanned(text)
    at = 0
    for one in found:
        piece = f'"{one.name}"' if isinstance(one, Begun) else one.text
        at = text.index(piece, at) + len(piece)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5) | st.integers(),
        lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    )
)
def test_any_arguments_come_whole(value):
    for text in (json.dumps({"v": value}), json.dumps({"v": value}, ensure_ascii=False, indent=1)):
        assert scanned(*call(text)) == ([Begun(0, "weather"), Arguments(0, text)], 1, True)


@pytest.mark.parametrize("form", TOOL_FORMATS)
def test_blanks_are_not_gathered_without_end(form):
    scanner = ToolCallScanner(TOOL_FORMATS[form], NAMES)
    assert [one.text for _ in range(2_000) for one in scanner.feed(" ")]
