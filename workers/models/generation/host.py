"""The generating process: one model, many generations, a token of each a round.

Started by `workers.models.generation.model` as a program, with the folder of a checked package and one socket. It holds
no key and no connection; a stranger's model is screened first and runs in a sandbox. A new generation's prompt is read
in pieces between the others' tokens, so that a long prompt does not make them wait. Ends when the socket does.

It is told `["start", id, {…}]` and `["stop", id]`. It says once `["ready", {…}]`, or `["unusable", detail]` with the
option that it is for if it is one, then lists of `["delta", id, text, tokens]`, `["top", id, [[text, logprob], …]]`,
`["done", id, reason, prompt_tokens, completion_tokens, logprobs | nil]` and of
`["refused" | "crowded" | "failed", id, detail, field | nil]`.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.protocol.tool_formats import TOOL_FORMAT, TOOL_FORMATS, ToolFormat
from workers.models.generation.decoder import Decoder, UnfitDecoder, fitness
from workers.models.generation.genai import og
from workers.models.generation.language import ToolWords, UnfitTemplate, is_guided, open_empty, open_model
from workers.models.generation.stops import StopScanner
from workers.models.generation.tools import culprit
from workers.models.generation.ways import Generation, InTurns, Together, Way
from workers.models.runtime import open_file
from workers.models.sandbox import limit_here
from workers.models.screening import screen
from workers.models.wire import Wire

# What the runtime says where a grammar proves too large only while it is followed.
_GRAMMARS_WORDS = ("Error committing tokens", "Error computing mask")
PIECE_TOKENS = 128  # of a prompt, between the others' tokens


class Host:
    """Runs generations; `limits` are `context`, `active`, `tokens` of all active ones together, and `vocabulary`.

    `form` is how the model calls functions, None if it does not.
    """

    def __init__(
        self, tokenizer: Any, way: Way, wire: Wire, limits: Mapping[str, int], form: ToolFormat | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._tool_words = None if form is None else ToolWords(tokenizer, form)
        self._way = way
        self._ends = {int(token) for token in np.atleast_1d(self._tokenizer.eos_token_ids)}
        self._wire = wire
        self._limits = limits
        self._most_active = min(limits["active"], way.most)
        self._waiting: dict[int, Generation] = {}
        self._active: dict[int, Generation] = {}
        self._events: list[list[Any]] = []
        self._texts: dict[int, str] = {}

    def serve(self) -> None:
        """Serve until the other side is gone."""
        while True:
            busy = bool(self._active or self._waiting)
            while select.select([self._wire.sock], [], [], 0 if busy else None)[0]:
                for message, _ in self._wire.take():
                    self._hear(message)
                busy = True
            self._admit()
            self._read_a_piece()
            self._advance()
            if self._events:
                self._wire.send(self._events)
                self._events = []

    def _hear(self, message: list[Any]) -> None:
        match message:
            case ["start", int() as number, dict() as request]:
                self._guard(number, lambda _: self._start(number, request))
            case ["stop", int() as number]:
                one = self._active.get(number) or self._waiting.get(number)
                if one is not None:
                    self._done(number, one, "cancelled")

    def _start(self, number: int, request: Mapping[str, Any]) -> None:
        prompt = request["prompt"]
        if request["messages"] is not None:
            try:
                prompt = self._render(request["messages"], request["tools"])
            except RuntimeError as error:
                detail = f"the chat template: {str(error)[:200]}"
                self._events.append(["refused", number, detail, self._culprit(request)])
                return
        tokens = np.asarray(self._tokenizer.encode(prompt), np.int32)
        context = self._limits["context"]
        if not 0 < len(tokens) < context:
            detail = f"the prompt has {len(tokens)} tokens; the model's context is {context} with at least one to give."
            self._events.append(["refused", number, detail, "prompt"])
            return
        request = {**request, "max_tokens": min(request["max_tokens"], context - len(tokens))}
        if request["grammar"] is not None and self._tool_words is not None:
            request["grammar"] = self._tool_words.whole(request["grammar"])
        if 0 < self._limits["vocabulary"] <= request["top_k"]:
            request["top_k"] = 0  # all; the runtime fails where it is told of more than there are
        one = Generation(request, self._tokenizer.create_stream(), StopScanner(request["stop"]), tokens)
        if one.budget > self._limits["tokens"]:
            detail = f"{one.budget} tokens; this worker's memory takes {self._limits['tokens']}."
            self._events.append(["crowded", number, detail, "max_tokens"])
            return
        self._waiting[number] = one

    def _render(self, messages: str, tools: str | None) -> str:
        shown = {} if tools is None else {"tools": tools}
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, **shown))

    def _culprit(self, request: Mapping[str, Any]) -> str:
        """Return what a chat template fails with: the functions, if it takes the messages without them."""
        if request["tools"] is None:
            return "prompt"
        try:
            self._render(request["messages"], None)
        except RuntimeError:
            return "prompt"
        return "prompt.tools"

    def _admit(self) -> None:
        for number, one in list(self._waiting.items()):
            held = sum(other.budget for other in self._active.values())
            if len(self._active) >= self._most_active or held + one.budget > self._limits["tokens"]:
                return
            del self._waiting[number]
            self._active[number] = one
            self._guard(number, self._open)

    def _open(self, number: int) -> None:
        one = self._active[number]
        try:
            self._way.open(one)
        except RuntimeError as error:
            if not is_guided(one.request):
                raise
            self._drop(number)
            self._events.append(_refused_grammar(number, one, error))

    def _read_a_piece(self) -> None:
        """Read one piece of the prompt that came first."""
        number = next((n for n, one in self._active.items() if one.read < len(one.tokens)), None)
        if number is not None:
            self._guard(number, self._read)

    def _read(self, number: int) -> None:
        one = self._active[number]
        piece = one.tokens[one.read : one.read + PIECE_TOKENS]
        self._way.read(one, piece)
        one.read += len(piece)

    def _advance(self) -> None:
        ready = {id(one): number for number, one in self._active.items() if one.read == len(one.tokens)}
        if not ready:
            return

        def tell(one: Generation, found: int | Exception) -> None:
            number = ready[id(one)]
            if isinstance(found, Exception):
                self._fail(number, found)
            else:
                self._guard(number, lambda _: self._take(number, one, found))

        self._way.advance([self._active[number] for number in ready.values()], tell)

    def _take(self, number: int, one: Generation, token: int) -> None:
        if token in self._ends:
            del one.logprobs[one.made :]
            self._finish(number, one, "stop")
            return
        one.made += 1
        one.pending += 1
        if one.request["top_logprobs"]:
            self._events.append(["top", number, [[self._text(token), logprob] for token, logprob in one.top]])
        self._say(number, one, one.stops.feed(one.stream.decode(token)))
        if one.stops.found:
            self._finish(number, one, "stop")
        elif one.made >= one.request["max_tokens"]:
            self._finish(number, one, "length")

    def _text(self, token: int) -> str:
        """Return a token's own text; of one that is a part of a character, what the tokenizer makes of it."""
        known = self._texts.get(token)
        if known is None:
            known = self._texts[token] = str(self._tokenizer.decode(np.array([token], np.int32)))
        return known

    def _finish(self, number: int, one: Generation, reason: str) -> None:
        self._say(number, one, one.stops.rest())
        self._done(number, one, reason)

    def _say(self, number: int, one: Generation, text: str) -> None:
        if text:
            self._events.append(["delta", number, text, one.pending])
            one.pending = 0

    def _done(self, number: int, one: Generation, reason: str) -> None:
        self._drop(number)
        logprobs = one.logprobs if one.request["logprobs"] else None
        self._events.append(["done", number, reason, one.read, one.made, logprobs])

    def _drop(self, number: int) -> None:
        one = self._active.pop(number, None)
        if one is not None:
            self._way.close(one)
        self._waiting.pop(number, None)

    def _guard(self, number: int, act: Any) -> None:
        """Act for one generation; what goes wrong is its own affair."""
        try:
            act(number)
        except OSError:
            raise
        except Exception as error:  # onnxruntime-genai raises bare RuntimeError and worse
            self._fail(number, error)

    def _fail(self, number: int, error: Exception) -> None:
        one = self._active.get(number)
        self._drop(number)
        if one is not None and is_guided(one.request) and str(error).startswith(_GRAMMARS_WORDS):
            self._events.append(_refused_grammar(number, one, error))
        else:
            self._events.append(["failed", number, _first_line(error), None])


def _refused_grammar(number: int, one: Generation, error: Exception) -> list[Any]:
    what, field = "the schema", "parameters.json_schema"
    if one.request["grammar"] is not None:
        what, field = culprit(one.request["grammar"], str(error))
    return ["refused", number, f"{what}: {_first_line(error)}", field]


def open_way(said: Mapping[str, Any], provider: str) -> tuple[Any, Way, str]:
    """Load the model: its words, how its generations advance, and what is to be said of that."""
    reason = f"on {provider} each has the runtime's own cache." if said["together"] else "so told."
    if provider == "cpu" and said["together"]:
        try:
            return _open_together(said)
        except UnfitDecoder as error:
            reason = str(error)
    model = open_model(said["folder"], provider, said["threads"], said.get("memory_bytes", 0))
    return model, InTurns(model), reason


def _open_together(said: Mapping[str, Any]) -> tuple[Any, Way, str]:
    limits, file = said["limits"], said["decoder"]
    session = open_file(str(Path(said["folder"], file)), threads=said["threads"])
    places = min(limits["context"], limits["tokens"])
    decoder = Decoder(
        session,
        # Two at least: a generation that must not run alone has an idle row beside it.
        rows=max(min(limits["active"], limits["tokens"] // places), 2),
        places=places,
        heads=said["heads"],
        width=said["head_size"],
    )
    fewest = fitness(decoder)
    empty = open_empty(said["folder"], file, decoder.vocabulary)
    return empty, Together(decoder, empty, fewest), "" if fewest else "here a seed does not fix a text beside others."


def main() -> None:
    """Serve the model named on the command line over the socket named there."""
    said = json.loads(sys.argv[1])
    wire = Wire(socket.socket(fileno=int(sys.argv[2])))
    if said.get("memory_bytes"):
        limit_here(said["memory_bytes"], cards=said["cards"])
    og.disable_telemetry_events()
    ready = {"version": og.__version__, "provider": said["provider"], "fell_back": ""}
    try:
        _screen(Path(said["folder"]), said.get("screen", []))
        try:
            model, way, reason = open_way(said, said["provider"])
        except Exception as error:  # the runtime raises bare RuntimeError for a provider that it lacks
            if said["provider"] == "cpu":
                raise
            ready |= {"provider": "cpu", "fell_back": _first_line(error)}
            model, way, reason = open_way(said, "cpu")
        form = None if said["tool_format"] is None else TOOL_FORMATS[said["tool_format"]]
        host = Host(og.Tokenizer(model), way, wire, said["limits"], form)
        ready |= {"advance": "together" if isinstance(way, Together) else "in turns", "why": reason}
    except UnfitTemplate as error:
        wire.send(["unusable", _first_line(error), TOOL_FORMAT])
        return
    except Exception as error:  # whatever the runtime makes of a stranger's files
        wire.send(["unusable", _first_line(error)])
        return
    wire.send(["ready", ready])
    try:
        host.serve()
    except (EOFError, OSError):
        return


def _screen(folder: Path, names: Sequence[str]) -> None:
    """Screen a stranger's ONNX files by their bytes."""
    files = frozenset(path.name for path in folder.iterdir())
    for name in names:
        screen((folder / name).read_bytes(), name, files)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


if __name__ == "__main__":
    main()
