"""The `worker` program: gives each command its name; what they do stands in `workers.commands`."""

from __future__ import annotations

import os
import sys

from contracts.interrupts import INTERRUPTED, EndingQuietly

with EndingQuietly():
    import typer

    from contracts.protocol.own_machine import spare_proxy
    from contracts.versioned import group
    from workers.commands import doctor, drain, init, models, papers, serve, stake

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Earn by running ONNX models."
)
app.callback()(group)
app.command("init")(init.init)
app.command("run")(serve.run)
app.command("drain")(drain.drain)
app.command("doctor")(doctor.doctor)
app.command("register")(stake.register)
app.command("stake")(stake.stake)
app.command("unstake")(stake.unstake)
app.command("withdraw")(stake.withdraw)
app.command("rescue")(papers.rescue)
app.command("audit")(papers.audit)
app.command("challenge")(papers.challenge)
app.command("uphold")(papers.uphold)
app.command("check")(models.check)
app.command("tune")(models.tune)
app.command("quantize")(models.quantize)
app.command("convert")(models.convert)


def main() -> None:
    """Run the command line."""
    try:
        spare_proxy(os.environ)
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
