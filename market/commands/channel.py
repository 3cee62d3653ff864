"""`market channel`: open, fund and leave payment channels to a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.bindings.remedies import date_of
from contracts.protocol.errors import InvalidAmount
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import both, parse_payment
from contracts.protocol.typed_data import Refund
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP, finish
from market.commands.listing import Listing
from market.commands.output import console, emit, print_fields
from market.commands.profile import ChannelOption, Profile, unknown_channel
from market.sdk.papers import KeptChannel
from market.sdk.wallet import Wallet

if TYPE_CHECKING:
    from market.sdk.chain import Chain

channel_app = typer.Typer(cls=Listing, help="Payment channels to a gateway.", no_args_is_help=True)
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
    units = parse_payment(amount)
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        chain, gateway = profile.chain_of(market, dry_run=dry_run)
        channel = chain.open_channel(wallet, gateway, units, papers=None if dry_run else market.papers)
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
    channel: ChannelOption = None,
    *,
    as_json: bool,
) -> None:
    """Show the channel in use: deposit, charge, what is left."""
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        kept = market.channel() if channel is None else profile.remembered(wallet, channel)
        seen = market.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
    emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


@channel_app.command("topup")
@acting()
def channel_topup(
    profile: Profile,
    amount: _Amount,
    channel: ChannelOption = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add to the deposit of the channel in use."""
    units = parse_payment(amount)
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        kept = market.channel() if channel is None else profile.remembered(wallet, channel)
        chain = profile.chain(dry_run=dry_run)
        chain.check_domain(kept.domain)
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
    channel: ChannelOption = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start to take money out without the gateway's consent; `market channel withdraw` pays it after the delay."""
    asked = None if amount is None else parse_payment(amount)
    wallet, chain = profile.wallet(), profile.chain(dry_run=dry_run)
    kept = _channel_in_use(profile, wallet, chain, channel)
    state = chain.channel_state(kept.channel_id)
    units = state.deposited - state.settled if asked is None else asked
    if units == 0:
        raise InvalidAmount(
            f"nothing of the channel {hex0x(kept.channel_id)} is left that could leave.",
            field="amount",
            remedy="`market channel list` shows what every channel holds.",
        )
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
    channel: ChannelOption = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take free money out at once with the gateway's consent; without it, `market channel exit` takes a delay."""
    asked = None if amount is None else parse_payment(amount)
    wallet = profile.wallet()
    with profile.market(wallet) as market:
        kept = market.channel() if channel is None else profile.remembered(wallet, channel)
        market.use_channel(kept.channel, kept.domain)
        chain = profile.chain(dry_run=dry_run)
        chain.check_domain(kept.domain)
        seen = market.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
        busy = sum(int(seen[name]) for name in ("charged", "reserved", "exitAmount"))
        units = max(0, int(seen["deposited"]) - busy) if asked is None else asked
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
    channel: ChannelOption = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take an exit back, so that the channel can be used again."""
    wallet, chain = profile.wallet(), profile.chain(dry_run=dry_run)
    kept = _channel_in_use(profile, wallet, chain, channel)
    chain.cancel_exit(wallet, kept.channel)
    data = {"channelId": hex0x(kept.channel_id), "leaving": "0"}
    finish(chain, data, {"channel": hex0x(kept.channel_id), "leaving": both(0)}, as_json=as_json)


@channel_app.command("withdraw")
@acting()
def channel_withdraw(
    profile: Profile,
    channel: ChannelOption = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pay out an exit whose delay is over."""
    wallet, chain = profile.wallet(), profile.chain(dry_run=dry_run)
    kept = _channel_in_use(profile, wallet, chain, channel)
    before = chain.balance(wallet.address)
    chain.finalize_exit(wallet, kept.channel)
    paid = chain.balance(wallet.address) - before
    data = {"channelId": hex0x(kept.channel_id), "paid": str(paid)}
    finish(chain, data, {"channel": hex0x(kept.channel_id), "paid": both(paid)}, as_json=as_json)


@channel_app.command("list")
@acting(gateway=False)
def channel_list(
    profile: Profile,
    find: Annotated[
        bool, typer.Option("--find", help="Look on the chain, too, for channels that the papers do not have.")
    ] = False,
    *,
    as_json: bool,
) -> None:
    """List the key's channels on this chain, the newest first, with what the escrow holds for each.

    With --find those that the papers do not have are read from the chain and kept, so that their money can leave.
    """
    wallet, chain, papers = profile.wallet(), profile.chain(), profile.papers()
    if find:
        for number, channel in enumerate(chain.channels_of(wallet.address)):
            # Older than any that the papers saw being opened, so that none of these becomes the one in use.
            papers.keep_channel(channel, chain.domain, opened_at=float(number))
    rows: list[dict[str, Any]] = []
    for kept in papers.channels(payer=wallet.address, domain=chain.domain):
        state = chain.channel_state(kept.channel_id)
        rows.append(
            {
                "channelId": hex0x(kept.channel_id),
                "gateway": checksum(kept.channel.gateway),
                "deposited": str(state.deposited),
                "settled": str(state.settled),
                "leaving": str(state.exit_amount),
                "exitAt": state.exit_at,
            }
        )

    def text() -> None:
        for row in rows:
            _show_kept(row)
        if not rows:
            console.print("none is known here; --find looks on the chain", markup=False)

    emit(rows, as_json=as_json, text=text)


def _show_kept(row: Mapping[str, Any]) -> None:
    fields = {"channel": row["channelId"], "gateway": row["gateway"]}
    fields |= {name: both(int(row[name])) for name in ("deposited", "settled")}
    if row["exitAt"]:
        fields |= {"leaving": both(int(row["leaving"])), "ready at": date_of(row["exitAt"])}
    print_fields(fields)


def _channel_in_use(profile: Profile, wallet: Wallet, chain: Chain, named: str | None) -> KeptChannel:
    # From the papers alone: a payer leaves without the gateway's help.
    if named is not None:
        kept = profile.remembered(wallet, named)
        chain.check_domain(kept.domain)
        return kept
    known = profile.papers().channels(payer=wallet.address, domain=chain.domain)
    if not known:
        raise unknown_channel("no channel of this key on this chain is known here.")
    return known[0]


def _show_channel(seen: dict[str, str]) -> None:
    amounts = {name: both(int(seen[name])) for name in ("deposited", "settled", "charged", "available")}
    if int(seen["exitAmount"]):
        amounts["leaving"] = both(int(seen["exitAmount"]))
    print_fields({"channel": seen["channelId"], "gateway": seen["gateway"], **amounts})
