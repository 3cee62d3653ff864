"""What a client's operations ask of whoever drives them, and what comes of it: requests, pauses, deposits, turns.

Plain values; what an answer that is none says of itself is read here too. Yielded by `kernel.Kernel`'s operations, done
by `client.Market` and `aio.AsyncMarket`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from contracts.protocol.errors import Retry
from contracts.protocol.typed_data import Channel, Domain
from market.sdk.errors import GatewayRefused

OK = 200

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the answer is a `Reply`, or `GatewayUnreachable` is thrown.

    With `stream` the content of a 200 is left on the connection, to be read by `Read`.
    """

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deposit:
    """Deposit into the channel of a chain's escrow and wait until the chain has it."""

    channel: Channel
    domain: Domain
    amount: int


class Turn:
    """Wait until another request of this client has ended; `on` calls back, at once if it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: Callable[[], object] | None = None
        self._come = False

    def on(self, callback: Callable[[], object]) -> None:
        """Call back when the turn has come."""
        with self._lock:
            self._callback = callback
            come = self._come
        if come:
            callback()

    def come(self) -> None:
        """Say that it has."""
        with self._lock:
            self._come = True
            callback = self._callback
        if callback is not None:
            callback()


@dataclass(frozen=True, slots=True)
class Read:
    """Return what comes next of the streamed answer, None at its end; `GatewayUnreachable` is thrown if it breaks."""


@dataclass(frozen=True, slots=True)
class Give:
    """Hand a piece of text to whoever iterates over the stream; `Left` is thrown if nobody does any more."""

    text: str


class Left(Exception):
    """Whoever iterated over a stream has left it; the connection is closed by now."""


Effect = Send | Pause | Deposit | Turn | Read | Give
Steps = Generator[Effect, Any, _T]


def refusal(reply: Reply) -> GatewayRefused:
    """Return the problem of an answer that is none."""
    try:
        problem = orjson.loads(reply.content)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or not problem:
        problem = {
            "detail": f"it answered with status {reply.status}, not as a gateway does.",
            "field": "url",
            "remedy": "Check that the URL is a gateway's.",
        }
    return GatewayRefused(reply.status, plain_problem(problem))


def plain_problem(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem as the market writes it, also where it came in the shape of OpenAI's API."""
    inner = problem.get("error")
    if not isinstance(inner, dict):
        return dict(problem)
    return {**problem, **inner, "detail": inner.get("message"), "field": inner.get("param")}


def worth_repeating(reply: Reply) -> bool:
    """Tell whether a refusal may be none when the request is sent again."""
    if reply.status < 400 or reply.status == 402:
        return False
    refused = refusal(reply)
    if refused.code == "request-in-progress":
        return True
    return reply.status in (429, 502, 503, 504) and refused.retry is not Retry.NEVER


def asked_price(refused: GatewayRefused, default: int) -> int:
    """Return what the cheapest offer of a 402 asks for the request."""
    try:
        return min(int(offer["price"]) for offer in refused.problem["offers"])
    except (KeyError, TypeError, ValueError):
        return default
