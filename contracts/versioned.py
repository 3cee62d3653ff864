"""`--version`, the same of both programs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer


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
