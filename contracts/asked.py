"""Commands that are imported when they are asked for: each program has many, and one run needs one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_group

from contracts.interrupts import EndingQuietly


class Place(NamedTuple):
    """Where a command's function or `Typer` stands, as `module:name`, and the first paragraph of its help."""

    at: str
    says: str


class AskedGroup(TyperGroup):
    """A group of commands by name; its help lists them by what `places` says, and imports none of them."""

    places: ClassVar[Mapping[str, Place]]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        commands: Any = _Asked(self.places, self.rich_markup_mode)
        self.commands = commands

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # as typer calls it
        """Write the list."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.says) for name, place in self.places.items()])


class _Asked(Mapping[str, Any]):
    """The commands by name, each made when it is looked up."""

    def __init__(self, places: Mapping[str, Place], markup: Any) -> None:
        self._places, self._markup = places, markup
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return the command.

        Raises:
            KeyError: there is none of this name.
        """
        if name not in self._made:
            module, _, attribute = self._places[name].at.partition(":")
            with EndingQuietly():
                found = getattr(import_module(module), attribute)
                self._made[name] = self._command(name, found)
        return self._made[name]

    def _command(self, name: str, found: Any) -> Any:
        around = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=self._markup)
        if isinstance(found, typer.Typer):
            around.add_typer(found, name=name)
        else:
            around.command(name)(found)
        return get_group(around).commands[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
