"""`market wallet`, `market mint`, `market earnings`, `market withdraw`: keys, test dollars, what was earned."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from contracts.bindings.keystore import KeystoreError, read_password, write_secret
from contracts.protocol.errors import InvalidAmount
from contracts.protocol.hexes import address_from_hex, checksum
from contracts.protocol.money import both, parse_payment
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP, finish
from market.commands.listing import Listing
from market.commands.output import JsonOption, console, emit, errors_as_messages, print_fields
from market.commands.profile import Profile
from market.sdk.wallet import Wallet

wallet_app = typer.Typer(cls=Listing, help="Keys in keystore files.", no_args_is_help=True)


@wallet_app.command("new")
def wallet_new(
    keystore: Annotated[Path, typer.Argument(help="File to write.")],
    password_file: Annotated[
        Path,
        typer.Option("--password-file", help="File whose first line is the password; drawn where it is not there."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Draw a fresh key and write its keystore file."""
    with errors_as_messages(as_json=as_json):
        if keystore.exists():
            raise KeystoreError(f"{keystore} exists already.", field="keystore", remedy="Name another file.")
        drawn = not password_file.exists()
        if drawn:
            write_secret(password_file, secrets.token_urlsafe(32).encode() + b"\n", field="password-file")
        password = read_password(password_file)
        if not password:
            raise KeystoreError(
                f"{password_file} is empty.", field="password-file", remedy="Write a password in its first line."
            )
        wallet = Wallet.generate()
        wallet.save(keystore, password)
        data = {"address": wallet.checksum_address, "keystore": str(keystore)}
        fields = {**data, "password": f"{password_file}, drawn now"} if drawn else data
        emit(data, as_json=as_json, text=lambda: print_fields(fields))


@wallet_app.command("show")
@acting(gateway=False)
def wallet_show(
    profile: Profile,
    role: Annotated[str, typer.Option(help="Account of the local network, if no keystore is given.")] = "client",
    *,
    as_json: bool,
) -> None:
    """Show a key's address and what it holds."""
    wallet = profile.wallet(role)
    chain = profile.chain()
    tokens, native = chain.balance(wallet.address), chain.native_balance(wallet.address)
    data = {"address": wallet.checksum_address, "tokens": str(tokens), "wei": str(native)}
    fields = {"address": wallet.checksum_address, "tokens": both(tokens), "wei": str(native)}
    emit(data, as_json=as_json, text=lambda: print_fields(fields))


@acting(gateway=False)
def mint(
    profile: Profile,
    amount: Annotated[str, typer.Argument(help=AMOUNT_HELP)],
    to: Annotated[str | None, typer.Option(help="Receiver; default the acting key.")] = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make test dollars, on networks whose token is the worthless TestUSD."""
    units = parse_payment(amount)
    wallet = profile.wallet()
    receiver = wallet.address if to is None else address_from_hex(to, field="to")
    chain = profile.chain(dry_run=dry_run)
    chain.mint(wallet, receiver, units)
    if dry_run:
        data = {"address": checksum(receiver), "minted": str(units)}
        finish(chain, data, {"address": checksum(receiver), "minted": both(units)}, as_json=as_json)
        return
    balance = chain.balance(receiver)
    data = {"address": checksum(receiver), "minted": str(units), "tokens": str(balance)}
    emit(
        data,
        as_json=as_json,
        text=lambda: console.print(f"{checksum(receiver)} now holds {both(balance)} test dollars"),
    )


@acting()
def earnings(
    profile: Profile,
    address: Annotated[str | None, typer.Argument(help="Payee; default the acting key.")] = None,
    role: Annotated[str, typer.Option(help="Account of the local network, if no key is given.")] = "operator",
    *,
    as_json: bool,
) -> None:
    """Show what an operator or owner earned at the gateway, and what of it is on chain to be withdrawn.

    Arrears are what a credit note that was presented still claims of the gateway's reserve.
    """
    payee = profile.wallet(role).address if address is None else address_from_hex(address, field="address")
    with profile.market() as market:
        chain, gateway = profile.chain_of(market)
        earned = int(market.get(f"/market/v1/payees/{checksum(payee)}")["earned"])
    credited, withdrawn = chain.payee(gateway, payee)
    amounts = {
        "earned": earned,
        "credited": credited,
        "withdrawn": withdrawn,
        "available": credited - withdrawn,
        "unsettled": max(0, earned - credited),
        "arrears": chain.arrears(gateway, payee),
    }
    data = {"payee": checksum(payee), "gateway": checksum(gateway), **{k: str(v) for k, v in amounts.items()}}
    fields = {"payee": checksum(payee), **{name: both(value) for name, value in amounts.items()}}
    emit(data, as_json=as_json, text=lambda: print_fields(fields))


@acting()
def withdraw(
    profile: Profile,
    amount: Annotated[str | None, typer.Argument(help=AMOUNT_HELP + " Default: all that is credited.")] = None,
    gateway: Annotated[str | None, typer.Option(help="Gateway that credited it; default the one at --url.")] = None,
    role: Annotated[str, typer.Option(help="Account of the local network, if no key is given.")] = "operator",
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Draw what settlements credited to the acting key, an operator's or an owner's, and its arrears first."""
    asked = None if amount is None else parse_payment(amount)
    wallet = profile.wallet(role)
    if gateway is None:
        with profile.market() as market:
            chain, source = profile.chain_of(market, dry_run=dry_run)
    else:
        source = address_from_hex(gateway, field="gateway")
        chain = profile.chain(dry_run=dry_run)
    arrears = chain.collect_arrears(wallet, source)
    credited, withdrawn = chain.payee(source, wallet.address)
    units = credited - withdrawn if asked is None else asked
    if units == 0 and not chain.planned:
        raise InvalidAmount(
            f"{checksum(source)} has credited {wallet.checksum_address} nothing that is not withdrawn yet.",
            field="amount",
            remedy="`market earnings` shows what is settled and what still waits.",
        )
    chain.withdraw(wallet, source, units)
    tokens = chain.balance(wallet.address)
    data = {"payee": wallet.checksum_address, "withdrawn": str(units), "arrears": str(arrears), "tokens": str(tokens)}
    fields = {"payee": wallet.checksum_address, "withdrawn": both(units), "holds": both(tokens)}
    if arrears:
        fields["of it arrears"] = both(arrears)
    finish(chain, data, fields, as_json=as_json)
