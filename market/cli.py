"""The `market` program: gives each command its name; what they do stands in `market.commands`."""

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
        "demo": Place(
            "market.commands.local:demo", "Run a whole paid inference on real parts, and leave nothing running."
        ),
        "up": Place("market.commands.local:up", "Run a local market until Ctrl-C; its state stays in the data folder."),
        "serve": Place("market.commands.services:serve", "Run the gateway: HTTP front, payments, dispatch."),
        "jobs": Place("market.commands.services:jobs", "Run the gateway's jobs: read the chain, settle, clean up."),
        "broker-acl": Place(
            "market.commands.broker:broker_acl",
            "Print a worker's line for the ACL file of Redis or Valkey; the password itself is not printed.",
        ),
        "status": Place("market.commands.client:status", "Show the gateway, its models and its workers."),
        "infer": Place(
            "market.commands.client:infer", "Pay for one inference from the channel in use, and keep its receipt."
        ),
        "trace": Place(
            "market.commands.trace:trace",
            "Show when each step of a request happened, what it cost, and in which transaction it was settled.",
        ),
        "mint": Place(
            "market.commands.money:mint", "Make test dollars, on networks whose token is the worthless TestUSD."
        ),
        "earnings": Place(
            "market.commands.money:earnings",
            "Show what an operator or owner earned at the gateway, and what of it is on chain to be withdrawn.",
        ),
        "withdraw": Place(
            "market.commands.money:withdraw",
            "Draw what settlements credited to the acting key, an operator's or an owner's, and its arrears first.",
        ),
        "audit": Place(
            "market.commands.audit:audit",
            "Add up an owner's or operator's receipts in the gateway's batches, and compare with "
            "what the chain credited.",
        ),
        "deploy": Place(
            "market.commands.owner:deploy", "Deploy the contracts to a network and write down their addresses."
        ),
        "receipts": Place("market.commands.client:receipts_app", "Receipts of paid requests."),
        "channel": Place("market.commands.channel:channel_app", "Payment channels to a gateway."),
        "keys": Place("market.commands.keys:keys_app", "API keys over a channel: the newest, if none is named."),
        "wallet": Place("market.commands.money:wallet_app", "Keys in keystore files."),
        "audits": Place("market.commands.audits:audits_app", "Audits of results: who answered otherwise than others."),
        "model": Place("market.commands.owner:model_app", "Model packages and their listings."),
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
