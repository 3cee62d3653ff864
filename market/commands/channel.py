"""`market channel`: open, fund and leave payment channels to a gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.bindings.remedies import date_of
from contracts.protocol.hexes import address_from_hex, hex0x
from contracts.protocol.money import both, parse_money
from contracts.protocol.typed_data import Refund
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP, finish
from market.commands.output import emit, print_fields
from market.commands.profile import Profile
from market.sdk.client import Market
from market.sdk.papers import KeptChannel

channel_app = typer.Typer(help="Payment channels to a gateway.", no_args_is_help=True)
_Amount = Annotated[str, typer.Argument(help=AMOUNT_HELP)]


@channel_app.command("open")
@acting()
def channel_open(
    profile: Profile,
    amount: _Amount,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Open a channel to the gateway, and wait until the gateway sees the deposit."""
    units = parse_money(amount)
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        gateway = address_from_hex(market.status()["gateway"], field="gateway")
        chain = profile.chain(dry_run=dry_run)
        channel = chain.open_channel(wallet, gateway, units)
        if dry_run:
            finish(chain, {"deposit": str(units)}, {"deposit": both(units)}, as_json=as_json)
            return
        market.use_channel(channel, chain.domain)
        seen = market.wait_for_channel(channel.digest(chain.domain), deposited=units)
    emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


@channel_app.command("status")
@acting(chain=False)
def channel_status(
    profile: Profile,
    *,
    as_json: bool,
) -> None:
    """Show the channel in use: deposit, charge, what is left."""
    with profile.market(profile.wallet()) as market:
        seen = market.get(f"/market/v1/channels/{hex0x(market.channel().channel_id)}")
    emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


@channel_app.command("topup")
@acting()
def channel_topup(
    profile: Profile,
    amount: _Amount,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add to the deposit of the channel in use."""
    units = parse_money(amount)
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        kept = market.channel()
        chain = profile.chain(dry_run=dry_run)
        chain.deposit(wallet, kept.channel, units)
        if dry_run:
            finish(chain, {"deposit": str(units)}, {"deposit": both(units)}, as_json=as_json)
            return
        deposited = chain.channel_state(kept.channel_id).deposited
        seen = market.wait_for_channel(kept.channel_id, deposited=deposited)
    emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


@channel_app.command("exit")
@acting()
def channel_exit(
    profile: Profile,
    amount: Annotated[str | None, typer.Argument(help=AMOUNT_HELP + " Default: all that is not settled.")] = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start to take money out without the gateway's consent; `market channel withdraw` pays it after the delay."""
    wallet = profile.wallet()
    kept = _channel_in_use(profile)
    chain = profile.chain(dry_run=dry_run)
    state = chain.channel_state(kept.channel_id)
    units = state.deposited - state.settled if amount is None else parse_money(amount)
    chain.initiate_exit(wallet, kept.channel, units)
    state = chain.channel_state(kept.channel_id)
    data = {"channelId": hex0x(kept.channel_id), "amount": str(units), "exitAt": state.exit_at}
    fields = {"channel": hex0x(kept.channel_id), "leaving": both(units)}
    if state.exit_at:
        fields["ready at"] = date_of(state.exit_at)
    finish(chain, data, fields, as_json=as_json)


@channel_app.command("refund")
@acting()
def channel_refund(
    profile: Profile,
    amount: Annotated[str | None, typer.Argument(help=AMOUNT_HELP + " Default: all that is free.")] = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take free money out at once with the gateway's consent; without it, `market channel exit` takes a delay."""
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        kept = market.channel()
        chain = profile.chain(dry_run=dry_run)
        seen = market.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
        busy = sum(int(seen[name]) for name in ("charged", "reserved", "exitAmount"))
        units = max(0, int(seen["deposited"]) - busy) if amount is None else parse_money(amount)
        refund = Refund(kept.channel_id, chain.refund_nonce(kept.channel_id), units)
        data = {"channelId": hex0x(kept.channel_id), "amount": str(units)}
        fields = {"channel": hex0x(kept.channel_id), "refund": both(units)}
        if dry_run:
            chain.plan_refund(wallet, kept.channel, refund)
        else:  # what is asked for is promised at once, and no longer spendable
            chain.refund(wallet, kept.channel, refund, market.ask_refund(refund))
    finish(chain, data, fields, as_json=as_json)


@channel_app.command("cancel-exit")
@acting()
def channel_cancel_exit(
    profile: Profile,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take an exit back, so that the channel can be used again."""
    wallet = profile.wallet()
    kept = _channel_in_use(profile)
    chain = profile.chain(dry_run=dry_run)
    chain.cancel_exit(wallet, kept.channel)
    data = {"channelId": hex0x(kept.channel_id), "leaving": "0"}
    finish(chain, data, {"channel": hex0x(kept.channel_id), "leaving": both(0)}, as_json=as_json)


@channel_app.command("withdraw")
@acting()
def channel_withdraw(
    profile: Profile,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pay out an exit whose delay is over."""
    wallet = profile.wallet()
    kept = _channel_in_use(profile)
    chain = profile.chain(dry_run=dry_run)
    before = chain.balance(wallet.address)
    chain.finalize_exit(wallet, kept.channel)
    paid = chain.balance(wallet.address) - before
    data = {"channelId": hex0x(kept.channel_id), "paid": str(paid)}
    finish(chain, data, {"channel": hex0x(kept.channel_id), "paid": both(paid)}, as_json=as_json)


def _channel_in_use(profile: Profile) -> KeptChannel:
    # From the papers first: a payer leaves without the gateway's help.
    wallet = profile.wallet()
    papers = profile.papers()
    known = papers.channels(payer=wallet.address)
    if known:
        return known[0]
    with Market(profile.gateway(), wallet, papers=papers) as market:
        return market.channel()


def _show_channel(seen: dict[str, str]) -> None:
    amounts = {name: both(int(seen[name])) for name in ("deposited", "settled", "charged", "available")}
    if int(seen["exitAmount"]):
        amounts["leaving"] = both(int(seen["exitAmount"]))
    print_fields({"channel": seen["channelId"], "gateway": seen["gateway"], **amounts})
