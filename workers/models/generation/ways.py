"""The two ways in which a generating process advances: all generations by one run of the decoder, or one by one.

Both read prompts piece by piece and give a token of each generation a round. Called by `generation.host`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.models.generation.decoder import Decoder, Logits
from workers.models.generation.language import Guide, is_guided, open_generator
from workers.models.generation.sampling import Sampler
from workers.models.generation.stops import StopScanner


@dataclass(eq=False)
class Generation:
    """One of them; `state` is its way's."""

    request: Mapping[str, Any]
    stream: Any
    stops: StopScanner
    tokens: NDArray[np.int32]
    read: int = 0  # tokens of the prompt that the model has seen
    made: int = 0
    pending: int = 0  # tokens whose text was not yet sent
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[int, float]] = field(default_factory=list)  # the likeliest in place of the newest token
    state: Any = None

    @property
    def budget(self) -> int:
        """How many tokens it may have in all."""
        return len(self.tokens) + int(self.request["max_tokens"])

    def note(self, logits: NDArray[np.float32], token: int) -> None:
        """Keep the logarithm of a token's chance, and the likeliest tokens in its place with theirs."""
        above = logits - logits.max()
        whole = np.log(np.exp(above).sum())
        self.logprobs.append(float(above[token] - whole))
        most = min(int(self.request["top_logprobs"]), len(above))
        if most:
            likeliest = np.argpartition(above, -most)[-most:]
            likeliest = likeliest[np.argsort(-above[likeliest], kind="stable")]
            self.top = [(int(one), float(above[one] - whole)) for one in likeliest]


# Is told of each generation its next token, or what went wrong with it.
Tell = Callable[[Generation, "int | Exception"], None]


class Way(Protocol):
    """How generations advance, `most` at once."""

    most: int

    def open(self, one: Generation) -> None:
        """Begin one."""

    def read(self, one: Generation, piece: NDArray[np.int32]) -> None:
        """Let the model see a piece of its prompt; only one at a time is in the midst of that."""

    def advance(self, ready: Sequence[Generation], tell: Tell) -> None:
        """Make a token of each whose prompt is read."""

    def close(self, one: Generation) -> None:
        """Forget one."""


class InTurns:
    """Each has a generator of onnxruntime-genai: any decoder, any provider, and what the runtime gives to it alone."""

    most = 1 << 30

    def __init__(self, model: Any) -> None:
        self._model = model

    def open(self, one: Generation) -> None:
        """Begin one."""
        one.state = open_generator(self._model, one.request, one.budget)

    def read(self, one: Generation, piece: NDArray[np.int32]) -> None:
        """Let the model see a piece of its prompt."""
        one.state.append_tokens(piece)

    def advance(self, ready: Sequence[Generation], tell: Tell) -> None:
        """Make a token of each."""
        for one in ready:
            try:
                token = self._next(one)
            except Exception as error:  # onnxruntime-genai raises bare RuntimeError and worse
                tell(one, error)
            else:
                tell(one, token)

    def close(self, one: Generation) -> None:
        """Forget one."""
        one.state = None

    def _next(self, one: Generation) -> int:
        logits = np.array(one.state.get_logits()).reshape(-1) if one.request["logprobs"] else None
        one.state.generate_next_token()
        token = int(one.state.get_next_tokens()[0])
        if logits is not None:
            one.note(logits, token)
        return token


@dataclass
class _Row:
    choose: Callable[[NDArray[np.float32]], int]
    place: int = -1  # in the decoder's cache; none before the prompt is looked at
    seen: int = 0
    logits: Logits | None = None  # after what it has seen, if not chosen from yet
    last: int = 0


class Together:
    """All have a row each in one run. `fewest` rows make every row's numbers its own, whoever is beside it; 0: none do.

    A generation that names a seed never runs with fewer. The rows that are past their prompt are the decoder's first;
    the one that is reading has the next.
    """

    def __init__(self, decoder: Decoder, empty: Any, fewest: int) -> None:
        self._decoder = decoder
        self.most = decoder.capacity
        self._empty = empty
        self._fewest = fewest
        self._rows: list[Generation] = []
        self._reading: Generation | None = None

    def open(self, one: Generation) -> None:
        """Begin one."""
        request = one.request
        if is_guided(request):
            one.state = _Row(Guide(self._empty, request, one.tokens, one.budget).choose)
        else:
            options = {name: request[name] for name in ("temperature", "top_p", "top_k", "seed")}
            one.state = _Row(Sampler(**options).choose)

    def read(self, one: Generation, piece: NDArray[np.int32]) -> None:
        """Let the model see a piece of its prompt."""
        row: _Row = one.state
        if self._reading is None:
            self._reading, row.place = one, len(self._rows)
        logits = self._decoder.read(row.place, piece, row.seen)
        row.seen += len(piece)
        if row.seen == len(one.tokens):
            row.logits = logits
            self._rows.append(one)
            self._reading = None

    def advance(self, ready: Sequence[Generation], tell: Tell) -> None:
        """Make a token of each."""
        try:
            self._run([one for one in self._rows if one.state.logits is None])
        except Exception as error:  # onnxruntime raises its own unrelated classes
            for one in list(self._rows):
                tell(one, error)
            return
        for one in ready:
            row: _Row = one.state
            logits, row.logits = row.logits, None
            try:
                row.last = row.choose(logits)  # type: ignore[arg-type]
                if one.request["logprobs"]:
                    one.note(logits, row.last)  # type: ignore[arg-type]
            except Exception as error:  # onnxruntime-genai raises bare RuntimeError and worse
                tell(one, error)
            else:
                tell(one, row.last)

    def close(self, one: Generation) -> None:
        """Forget one, and let the last row take its place."""
        row: _Row | None = one.state
        one.state = None
        if row is None or row.place < 0:
            return
        hole = row.place
        if one is self._reading:
            self._reading = None
        else:
            self._rows.remove(one)
            followers = [*self._rows[-1:], *([self._reading] if self._reading is not None else [])]
            for other in followers:
                if other.state.place > hole:
                    self._decoder.move(other.state.place, hole, other.state.seen)
                    hole, other.state.place = other.state.place, hole
            self._rows.sort(key=lambda each: int(each.state.place))
        self._decoder.forget(hole)

    def _run(self, going: Sequence[Generation]) -> None:
        """Compute the logits of the first rows; those that have some already are the last ones."""
        if not going:
            return
        tokens = [one.state.last for one in going]
        lengths = [one.state.seen for one in going]
        if any(one.request["seed"] is not None for one in going):
            for place in range(len(going), self._fewest):
                # What a row beside writes lies behind what it has seen, and is written over.
                tokens.append(0)
                lengths.append(next((each.state.seen for each in self._all() if each.state.place == place), 0))
        logits = self._decoder.step(tokens, lengths)
        for one, found in zip(going, logits, strict=False):
            one.state.logits = found
            one.state.seen += 1

    def _all(self) -> list[Generation]:
        return [*self._rows, *([self._reading] if self._reading is not None else [])]
