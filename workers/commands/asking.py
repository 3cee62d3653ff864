"""The questions of `worker init`: an option answers one, else the person at the terminal, else its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
import typer

from contracts.bindings.rpc import connect
from contracts.protocol.errors import CodedError
from contracts.protocol.money import ATOMIC_PER_TOKEN
from workers.commands.findings import TIMEOUT_SECONDS
from workers.errors import GatewayNotReady, ModelNotListed, OfferOutsideBounds, StartError

T = TypeVar("T")


class Answers:
    """Where answers come from."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def text(self, name: str, given: object, question: str, default: object = None) -> str:
        """Return the answer to one question.

        Raises:
            StartError: nobody is asked, and there is no default.
        """
        if given is not None:
            return str(given)
        if not self.quiet:
            return str(typer.prompt(question, default=None if default is None else str(default)))
        if default is None:
            raise StartError(f"{question}: no answer.", field=name, remedy=f"Add --{name}.")
        return str(default)

    def checked(self, name: str, given: object, question: str, default: object, check: Callable[[str], T]) -> T:
        """Return what `check` makes of the answer; a person whose answer it refuses is asked again.

        Raises:
            CodedError: nobody is asked, and the option or the default is refused.
        """
        while True:
            answer = self.text(name, given, question, default)
            try:
                return check(answer)
            except CodedError as error:
                if self.quiet or given is not None:
                    raise
                typer.echo(f"  {error}", err=True)


def choose_node(ask: Answers, given: str | None, chain_id: int) -> str:
    """Return the node to read the chain from; a person whose answer serves no such chain is asked again.

    An option or the default is taken as it is: the node may start later, and `worker doctor` looks.
    """

    def reached(url: str) -> str:
        if not ask.quiet and given is None:
            connect(url, chain_id, timeout_seconds=TIMEOUT_SECONDS)
        return url

    return ask.checked("rpc-url", given, f"JSON-RPC node of chain {chain_id}", "http://127.0.0.1:8545", reached)


def choose_models(ask: Answers, url: str, given: str | None, price: int | None) -> str:
    """Return what to serve as `WORKER_MODELS` takes it, each model with its price inside its owner's bounds.

    Raises:
        GatewayNotReady: the gateway does not tell its models.
        ModelNotListed | OfferOutsideBounds: a choice is not to be had.
    """
    listed = {row["name"]: row for row in _listed(url) if row["active"]}
    if not listed:
        raise ModelNotListed("the gateway knows no active model.", field="models", remedy="Ask an owner to list one.")
    if not ask.quiet:
        typer.echo(f"Models of this gateway; prices are in atomic units, {ATOMIC_PER_TOKEN:,} of which are a dollar:")
        for name, row in listed.items():
            lowest = _lowest(row)
            typer.echo(
                f"  {name}: {row['task'] or 'not served yet'}, {row['minPrice']} to {row['maxPrice']} a {_spoken(row)}"
                f", {len(row['offers'])} offer(s), lowest {'none' if lowest is None else lowest}"
            )

    def split(text: str) -> list[tuple[dict[str, Any], str, str]]:
        return [_named(item.strip(), listed) for item in text.split(",") if item.strip()]

    chosen = ask.checked("models", given, "Models to serve, by comma", ",".join(listed), split)
    return ",".join(f"{name}={_price(ask, name, own, row, price)}" for row, name, own in chosen)


def _listed(url: str) -> list[dict[str, Any]]:
    try:
        found = httpx.get(f"{url.rstrip('/')}/market/v1/models", timeout=TIMEOUT_SECONDS).raise_for_status().json()
        return [row for row in found if {"name", "active", "minPrice", "maxPrice", "offers"} <= row.keys()]
    except (httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
        raise GatewayNotReady(f"{url} does not tell its models.", field="gateway") from error


def _named(item: str, listed: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], str, str]:
    """Return a choice's listing, its name, and the price beside it, empty if there is none."""
    name, _, own = item.partition("=")
    row = listed.get(name) or next((row for row in listed.values() if row["modelId"] == name), None)
    if row is None:
        raise ModelNotListed(
            f"{name} is not a model of this gateway.", field="models", remedy=f"It has {_some(listed)}."
        )
    if own:
        _within(own, name, row)
    return row, name, own


def _price(ask: Answers, name: str, own: str, row: dict[str, Any], price: int | None) -> int:
    least, most = int(row["minPrice"]), int(row["maxPrice"])
    # As low as the lowest offer there is, else the middle of what the owner allows.
    lowest = _lowest(row)
    usual = (least + most) // 2 if lowest is None else lowest
    question = f"Price of a {_spoken(row)} of {name}, {least} to {most} units"
    return ask.checked("price", own or price, question, usual, lambda text: _within(text, name, row))


def _within(text: str, name: str, row: dict[str, Any]) -> int:
    least, most = int(row["minPrice"]), int(row["maxPrice"])
    if not text.isdecimal() or not least <= int(text) <= most:
        raise OfferOutsideBounds(
            f"{text} for {name}; its owner allows {least} to {most}.", field="price", remedy=f"Write {name}=PRICE."
        )
    return int(text)


def _some(listed: dict[str, Any]) -> str:
    names = list(listed)
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def _lowest(row: dict[str, Any]) -> int | None:
    return min((int(offer["unitPrice"]) for offer in row["offers"]), default=None)


def _spoken(row: Mapping[str, Any]) -> str:
    """Return what a model's price is for."""
    return str(row["unit"]).replace("_", " ")
