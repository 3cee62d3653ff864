"""The `worker` program: gives each command its name; what they do stands in `workers.commands`."""

from __future__ import annotations

import os
import sys

from contracts.interrupts import INTERRUPTED, EndingQuietly

with EndingQuietly():
    import typer

    from contracts.asked import AskedGroup, Place
    from contracts.protocol.own_machine import spare_proxy
    from contracts.versioned import group


class Commands(AskedGroup):
    """All of them, as their help lists them."""

    places = {
        "init": Place(
            "workers.commands.init:init",
            "Set up a worker on this machine: ask, check, write its settings, say the next step.",
        ),
        "run": Place(
            "workers.commands.serve:run", "Serve models until told to stop; what was sent here is finished first."
        ),
        "drain": Place(
            "workers.commands.drain:drain",
            "Let the running worker finish what it was sent, take nothing more, and end; nothing is "
            "lost or paid twice.",
        ),
        "doctor": Place(
            "workers.commands.doctor:doctor",
            "Check key, chain, stake, models, gateway, clock, broker, runtime, cards, disk; say how "
            "to mend each fault.",
        ),
        "register": Place("workers.commands.stake:register", "Stake for this worker's key and register it on chain."),
        "stake": Place("workers.commands.stake:stake", "Add to the worker's stake."),
        "unstake": Place(
            "workers.commands.stake:unstake",
            "Start taking stake out, 0 to leave it in after all; `worker withdraw` pays it when it has thawed.",
        ),
        "withdraw": Place("workers.commands.stake:withdraw", "Pay out stake that has thawed."),
        "rescue": Place(
            "workers.commands.papers:rescue",
            "Collect what was earned without the gateway, from this worker's own papers and the chain alone.",
        ),
        "audit": Place(
            "workers.commands.papers:audit",
            "Add up this worker's papers and hold them against what each gateway credited on chain.",
        ),
        "challenge": Place(
            "workers.commands.papers:challenge",
            "Claim on chain, with a bond, that a receipt is in no batch of its gateway.",
        ),
        "uphold": Place(
            "workers.commands.papers:uphold",
            "Collect bond and penalty of a challenge that the gateway did not answer in time.",
        ),
        "check": Place(
            "workers.commands.models:check",
            "Load a package as this worker would and try a request on it; say every problem and its remedy.",
        ),
        "tune": Place(
            "workers.commands.models:tune",
            "Measure a model here by precision, provider, threads and batch, and keep the best for `worker run`.",
        ),
        "quantize": Place(
            "workers.commands.models:quantize",
            "Write a package with 8 or 4 bit weights, and show what that costs in accuracy and "
            "brings in size and time.",
        ),
        "convert": Place(
            "workers.commands.models:convert",
            "Make a PyTorch or GGUF checkpoint into what `market model init` packs and a worker serves.",
        ),
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
