"""The `market` program: gives each command its name; what they do stands in `market.commands`."""

from __future__ import annotations

import os
import sys

from contracts.interrupts import INTERRUPTED, EndingQuietly

with EndingQuietly():
    import typer

    from contracts.asked import AskedGroup
    from contracts.protocol.own_machine import spare_proxy
    from contracts.versioned import group
    from market.commands.listing import Listing


class Commands(AskedGroup, Listing):
    """All of them, as their help lists them."""

    places = {
        "demo": "market.commands.local:demo",
        "up": "market.commands.local:up",
        "serve": "market.commands.services:serve",
        "jobs": "market.commands.services:jobs",
        "broker-acl": "market.commands.broker:broker_acl",
        "status": "market.commands.client:status",
        "infer": "market.commands.client:infer",
        "trace": "market.commands.trace:trace",
        "mint": "market.commands.money:mint",
        "earnings": "market.commands.money:earnings",
        "withdraw": "market.commands.money:withdraw",
        "audit": "market.commands.audit:audit",
        "deploy": "market.commands.owner:deploy",
        "receipts": "market.commands.client:receipts_app",
        "channel": "market.commands.channel:channel_app",
        "keys": "market.commands.keys:keys_app",
        "wallet": "market.commands.money:wallet_app",
        "audits": "market.commands.audits:audits_app",
        "model": "market.commands.owner:model_app",
    }


app = typer.Typer(
    cls=Commands,
    help="A decentralized inference marketplace: paid per request, receipted, settled on an EVM ledger.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(group)


def main() -> None:
    """Run the program."""
    try:
        spare_proxy(os.environ)
        app(prog_name="market")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
