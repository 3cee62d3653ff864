"""The help of a group of commands says whole what each does, where typer cuts it in mid-sentence; and `--version`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class Listing(TyperGroup):
    """A group that lists its commands by the first paragraph of their help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and command.help and not command.short_help:
                command.short_help = " ".join(command.help.partition("\n\n")[0].split())
        super().format_commands(ctx, formatter)


def _tell(wanted: bool) -> None:
    if wanted:
        typer.echo(version("inference-market"))
        raise typer.Exit


def group(
    told: Annotated[
        bool, typer.Option("--version", help="Say which version this is, and exit.", callback=_tell, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before a command: `--version`, which ends the program."""
    del told
