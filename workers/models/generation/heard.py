"""What a generating process says, held to what it was asked: its word is a stranger's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.errors import JobError, ModelUnusable
from workers.models.generation.request import GenerationRequest
from workers.models.wire import Garbled, printable

# Of no tokenizer a token is longer.
MOST_CHARACTERS_PER_TOKEN = 1024
_REASONS = frozenset({"stop", "length", "cancelled"})


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation; `logprobs` is None if nobody asked, `top` has the likeliest of each token, if asked."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: list[float] | None
    top: list[list[tuple[str, float]]] = field(default_factory=list)


class Listener(Protocol):
    """Hears of one generation, always from the same thread."""

    def delta(self, text: str, tokens: int) -> None:
        """Hear of new text, and how many tokens it took."""

    def finished(self, end: Finished) -> None:
        """Hear of the end."""

    def failed(self, error: JobError) -> None:
        """Hear that nothing came of it."""


class Heard:
    """What was heard of one generation, held to what was asked."""

    def __init__(self, listener: Listener, request: GenerationRequest, context: int) -> None:
        self.listener = listener
        self._request = request
        self._context = context
        self._tokens = 0
        self._characters = 0
        self._top: list[list[tuple[str, float]]] = []

    def delta(self, text: str, tokens: int) -> None:
        """Count new text.

        Raises:
            Garbled: it is more than was asked for.
        """
        self._tokens += tokens
        self._characters += len(text)
        most = self._request.max_tokens
        if tokens < 0 or self._tokens > most or self._characters > (most + 1) * MOST_CHARACTERS_PER_TOKEN:
            raise Garbled("more text than was asked for.")

    def top(self, rows: Any) -> None:
        """Keep a token's likeliest ones, each a text and a logarithm.

        Raises:
            Garbled: they are more or others than were asked for.
        """
        asked = self._request.top_logprobs
        width = len(self._top[0]) if self._top else len(rows) if isinstance(rows, list) else 0
        if not isinstance(rows, list) or not len(rows) == width <= asked or len(self._top) >= self._request.max_tokens:
            raise Garbled("more tokens than were asked for.")
        row = []
        for one in rows:
            match one:
                case [str() as text, float() as logprob] if len(text) <= MOST_CHARACTERS_PER_TOKEN:
                    row.append((text, logprob))
                case _:
                    raise Garbled("no token's chance.")
        self._top.append(row)

    def end(self, reason: str, prompt: int, made: int, logprobs: Any) -> Finished:
        """Return the end.

        Raises:
            Garbled: it cannot be the end of what was asked.
        """
        counts = 0 <= prompt <= self._context and self._tokens <= made <= self._request.max_tokens
        numbers = [] if logprobs is None else logprobs
        wanted = made if self._request.logprobs else 0
        if (
            not counts
            or reason not in _REASONS
            or not isinstance(numbers, list)
            or len(numbers) != wanted
            or not all(isinstance(one, float) for one in numbers)
            or len(self._top) != (made if self._request.top_logprobs else 0)
        ):
            raise Garbled("an end that cannot be.")
        return Finished(reason, prompt, made, numbers if self._request.logprobs else None, self._top)


_READY = ("provider", "fell_back", "version", "advance", "why")


def read_ready(said: Any) -> dict[str, str]:
    """Return what a process that is ready says of itself.

    Raises:
        ModelUnusable: it says that it cannot serve.
        Garbled: it says neither.
    """
    match said:
        case [
            "ready",
            {"provider": str(), "fell_back": str(), "version": str(), "advance": "together" | "in turns", "why": str()},
        ]:
            return {name: printable(text) for name, text in said[1].items() if name in _READY}
        case ["unusable", str() as detail]:
            raise ModelUnusable(printable(detail))
        case ["unusable", str() as detail, "tool_format" as option]:
            remedy = "Leave the option out, or correct the chat template or tokenizer."
            raise ModelUnusable(printable(detail), field=f"options.{option}", remedy=remedy)
    raise Garbled("it did not say that it is ready.")


def listed(events: Any) -> list[Any]:
    """Return a round of news.

    Raises:
        Garbled: it is no list.
    """
    if not isinstance(events, list):
        raise Garbled("no list of events.")
    return events
