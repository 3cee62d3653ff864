"""The `market` program: gives each command its name; what they do stands in `market.commands`."""

from __future__ import annotations

import os
import sys

from contracts.interrupts import INTERRUPTED, EndingQuietly

with EndingQuietly():
    import typer

    from contracts.protocol.own_machine import spare_proxy
    from contracts.versioned import group
    from market.commands import audit, audits, broker, channel, client, keys, local, money, owner, services, trace
    from market.commands.listing import Listing

app = typer.Typer(
    cls=Listing,
    help="A decentralized inference marketplace: paid per request, receipted, settled on an EVM ledger.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(group)
app.command("demo")(local.demo)
app.command("up")(local.up)
app.command("serve")(services.serve)
app.command("jobs")(services.jobs)
app.command("broker-acl")(broker.broker_acl)
app.command("status")(client.status)
app.command("infer")(client.infer)
app.command("trace")(trace.trace)
app.add_typer(client.receipts_app, name="receipts")
app.add_typer(channel.channel_app, name="channel")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(money.wallet_app, name="wallet")
app.command("mint")(money.mint)
app.command("earnings")(money.earnings)
app.command("withdraw")(money.withdraw)
app.command("audit")(audit.audit)
app.add_typer(audits.audits_app, name="audits")
app.add_typer(owner.model_app, name="model")
app.command("deploy")(owner.deploy)


def main() -> None:
    """Run the program."""
    try:
        spare_proxy(os.environ)
        app(prog_name="market")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
