"""The calls of functions in a text that comes in pieces: what is text, which function, and its arguments as they come.

Decides what counts as a call: exactly the model's form, of a function that was offered. All else is text, and what may
yet become a call is held back. Any cutting of a text into pieces gives the same. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from contracts.protocol.tool_formats import FUNCTION_NAME, ToolFormat

_BLANKS = " \t\r\n"
# Characters before a call's arguments, and behind them: who goes on longer writes no call.
_MOST_AROUND = 1_024
# What is held is read anew at each mark in it.
_LOOKED_AT = 4_096
_MORE, _NEVER = -1, -2
_NAME = re.compile(f'"({FUNCTION_NAME.pattern})"', re.ASCII)
_NAME_BEGINS = re.compile('(?:"[A-Za-z0-9_-]{,64})?', re.ASCII)
_SKIPPED = re.compile(f"[{_BLANKS}]*")
_OUTSIDE, _IN_STRING = re.compile(r'["{}\[\]]'), re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class Text:
    """More of the text outside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A call begins; calls are counted from 0."""

    call: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments, JSON as it was generated."""

    call: int
    text: str


Found: TypeAlias = Text | Begun | Arguments


class ToolCallScanner:
    """Reads one text; `calls` have begun, and `is_whole` tells whether the last of them has all its arguments."""

    def __init__(self, form: ToolFormat, names: Collection[str]) -> None:
        self._begin = form.begin
        self._head = ("{", '"name"', ":", None, ",", f'"{form.arguments}"', ":", "{")
        self._tail = ("}", form.end)
        self._names = names
        self._held = ""
        self._lead = ""  # what stood before a head that is held: text again if it proves to be none
        self._spoke = False  # since the last call, other than blanks
        self._end = _End()
        # Without a mark the text is a call from its beginning, or none.
        self._step: Callable[[list[Found]], bool] = self._read_text if form.begin else self._read_head
        self.calls = 0
        self.is_whole = True

    def feed(self, piece: str) -> list[Found]:
        """Take the next piece; returns what is certain now."""
        found: list[Found] = []
        for at in range(0, len(piece), _LOOKED_AT):
            self._held += piece[at : at + _LOOKED_AT]
            while self._step(found):
                pass
        return found

    def rest(self, *, cut: bool) -> list[Found]:
        """Return what was held back, when nothing more comes; `cut` tells whether the text would have gone on.

        A call whose name did not come whole is nothing, nor is the beginning of a mark at which a text was cut.
        """
        held, self._held = self._held, ""
        begun = _overlap(held, self._begin)
        if cut and begun > 1:  # a single character may well be the text's own
            held = held[:-begun]
        # Where there is no mark, blanks alone may have been the whole text.
        in_text = self._step == self._read_text or not (self._lead or self.calls or held.strip(_BLANKS))
        is_text = in_text and (self._spoke or not self.calls or held.strip(_BLANKS))
        return [Text(held)] if held and is_text else []

    # Each step reads what it can of what is held; tells whether the next step is to go on with the rest.

    def _read_text(self, found: list[Found]) -> bool:
        at = self._held.find(self._begin) if self._begin else -1
        end = at if at >= 0 else len(self._held) - _overlap(self._held, self._begin)
        # Blanks alone say nothing before a call; so many of them are a text.
        if self._spoke or end > _MOST_AROUND or self._held[:end].strip(_BLANKS):
            self._say(found, end)
            end = 0
        if at < 0:
            return False
        self._lead, self._held = self._cut(end + len(self._begin))
        self._step = self._read_head
        return True

    def _read_head(self, found: list[Found]) -> bool:
        end, name = _match(self._head, self._held)
        if end == _MORE:
            return False
        if end == _NEVER or name not in self._names:
            self._held, self._step = self._lead + self._held, self._read_text
            self._say(found, len(self._lead))
            return True
        self._held = self._held[end - 1 :]  # the brace is the arguments' own
        found.append(Begun(self.calls, name))
        self.calls += 1
        self.is_whole, self._end, self._step = False, _End(), self._read_arguments
        return True

    def _read_arguments(self, found: list[Found]) -> bool:
        end = self._end.find(self._held)
        self.is_whole = end is not None
        piece, self._held = self._cut(len(self._held) if end is None else end)
        if piece:
            found.append(Arguments(self.calls - 1, piece))
        if end is None:
            return False
        self._step = self._read_tail
        return True

    def _read_tail(self, found: list[Found]) -> bool:  # noqa: ARG002
        end, _ = _match(self._tail, self._held)
        if end == _MORE:
            return False
        self._held = self._held[max(end, 0) :]
        self._spoke, self._step = False, self._read_text
        return True

    def _say(self, found: list[Found], end: int) -> None:
        text, self._held = self._cut(end)
        if text:
            self._spoke = True
            found.append(Text(text))

    def _cut(self, at: int) -> tuple[str, str]:
        return self._held[:at], self._held[at:]


class _End:
    """Looks for the end of a JSON object whose text comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, piece: str) -> int | None:
        """Return where in the next piece the object ends, None if it goes on."""
        at = 0
        if self._escaped and piece:
            self._escaped, at = False, 1
        while mark := (_IN_STRING if self._in_string else _OUTSIDE).search(piece, at):
            at = mark.end()
            match mark[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = at == len(piece)
                    at += 1
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return at
        return None


def _match(words: Sequence[str | None], text: str) -> tuple[int, str]:
    """Return where the words, with blanks between, end in a text that begins with them; and the name in None's place.

    Instead of a place it is _MORE while the text may go on so, _NEVER where it does not begin so.
    """
    at, name, going = 0, "", len(text) <= _MOST_AROUND
    for word in words:
        at = _SKIPPED.match(text, at).end()  # type: ignore[union-attr]
        if word is None:
            mark = _NAME.match(text, at)
            if mark is None:
                return _MORE if going and _NAME_BEGINS.fullmatch(text, at) else _NEVER, ""
            name, at = mark[1], mark.end()
        elif text.startswith(word, at):
            at += len(word)
        else:
            return _MORE if going and word.startswith(text[at : at + len(word)]) else _NEVER, ""
    return at if at <= _MOST_AROUND else _NEVER, name


def _overlap(text: str, word: str) -> int:
    """Return the length of the longest end of `text` that begins `word`, less than all of it."""
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:size])), 0)
