"""The `worker` program: gives each command its name; what they do stands in `workers.commands`."""

from __future__ import annotations

import os
import sys

from contracts.interrupts import INTERRUPTED, EndingQuietly

with EndingQuietly():
    import typer

    from contracts.asked import AskedGroup
    from contracts.protocol.own_machine import spare_proxy
    from contracts.versioned import group


class Commands(AskedGroup):
    """All of them, as their help lists them."""

    places = {
        "init": "workers.commands.init:init",
        "run": "workers.commands.serve:run",
        "drain": "workers.commands.drain:drain",
        "doctor": "workers.commands.doctor:doctor",
        "register": "workers.commands.stake:register",
        "stake": "workers.commands.stake:stake",
        "unstake": "workers.commands.stake:unstake",
        "withdraw": "workers.commands.stake:withdraw",
        "rescue": "workers.commands.papers:rescue",
        "audit": "workers.commands.papers:audit",
        "challenge": "workers.commands.papers:challenge",
        "uphold": "workers.commands.papers:uphold",
        "check": "workers.commands.models:check",
        "tune": "workers.commands.models:tune",
        "quantize": "workers.commands.models:quantize",
        "convert": "workers.commands.models:convert",
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Earn by running ONNX models.",
)
app.callback()(group)


def main() -> None:
    """Run the command line."""
    try:
        spare_proxy(os.environ)
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
