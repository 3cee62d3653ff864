"""The help of a group of commands says whole what each does, where typer cuts it in mid-sentence."""

from __future__ import annotations

from typing import Any

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
