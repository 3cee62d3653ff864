"""`market wallet`, `market channel`, `market mint`: keys, deposits, test dollars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.bindings.keystore import KeystoreError
from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.money import format_amount, parse_amount
from market.commands.output import JsonOption, console, emit, errors_as_messages, print_fields
from market.commands.profile import (
    ChainIdOption,
    DataDirOption,
    DeploymentOption,
    KeystoreOption,
    PasswordOption,
    Profile,
    RpcOption,
    UrlOption,
)
from market.sdk.wallet import Wallet
from market.settings import DEFAULT_DATA_DIR

wallet_app = typer.Typer(help="Keys in keystore files.", no_args_is_help=True)
channel_app = typer.Typer(help="Payment channels to a gateway.", no_args_is_help=True)


@wallet_app.command("new")
def wallet_new(
    keystore: Annotated[Path, typer.Argument(help="File to write.")],
    password_file: Annotated[Path, typer.Option("--password-file", help="File whose first line is the password.")],
    as_json: JsonOption = False,
) -> None:
    """Draw a fresh key and write its keystore file."""
    with errors_as_messages(as_json=as_json):
        try:
            password = password_file.read_bytes().split(b"\n", 1)[0]
        except OSError as error:
            raise KeystoreError(f"cannot read {password_file}: {error.strerror}.", field="password-file") from error
        if not password:
            raise KeystoreError(
                f"{password_file} is empty.", field="password-file", remedy="Write a password in its first line."
            )
        wallet = Wallet.generate()
        wallet.save(keystore, password)
        data = {"address": wallet.checksum_address, "keystore": str(keystore)}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


@wallet_app.command("show")
def wallet_show(
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    rpc_url: RpcOption = None,
    deployment: DeploymentOption = None,
    chain_id: ChainIdOption = None,
    role: Annotated[str, typer.Option(help="Account of the local network, if no keystore is given.")] = "client",
    as_json: JsonOption = False,
) -> None:
    """Show a key's address and what it holds."""
    with errors_as_messages(as_json=as_json):
        profile = Profile.load(
            data_dir,
            rpc_url=rpc_url,
            deployment=deployment,
            chain_id=chain_id,
            keystore=keystore,
            password_file=password_file,
        )
        wallet = profile.wallet(role)
        chain = profile.chain()
        tokens, native = chain.balance(wallet.address), chain.native_balance(wallet.address)
        data = {"address": wallet.checksum_address, "tokens": str(tokens), "wei": str(native)}
        fields = {"address": wallet.checksum_address, "tokens": format_amount(tokens), "wei": str(native)}
        emit(data, as_json=as_json, text=lambda: print_fields(fields))


@channel_app.command("open")
def channel_open(
    amount: Annotated[str, typer.Argument(help="Tokens to deposit, such as 5 or 0.25.")],
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    rpc_url: RpcOption = None,
    deployment: DeploymentOption = None,
    chain_id: ChainIdOption = None,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a channel to the gateway, and wait until the gateway sees the deposit."""
    with errors_as_messages(as_json=as_json):
        units = parse_amount(amount)
        profile = Profile.load(
            data_dir,
            url=url,
            rpc_url=rpc_url,
            deployment=deployment,
            chain_id=chain_id,
            keystore=keystore,
            password_file=password_file,
        )
        wallet = profile.wallet()
        with profile.market(wallet) as market:
            gateway = address_from_hex(market.status()["gateway"], field="gateway")
            chain = profile.chain()
            channel = chain.open_channel(wallet, gateway, units)
            market.use_channel(channel, chain.domain)
            seen = market.wait_for_channel(channel.digest(chain.domain), deposited=units)
        emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


@channel_app.command("status")
def channel_status(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the channel in use: deposit, charge, what is left."""
    with errors_as_messages(as_json=as_json):
        profile = Profile.load(data_dir, url=url, keystore=keystore, password_file=password_file)
        with profile.market(profile.wallet()) as market:
            seen = market.get(f"/market/v1/channels/{hex0x(market.channel().channel_id)}")
        emit(seen, as_json=as_json, text=lambda: _show_channel(seen))


def mint(
    amount: Annotated[str, typer.Argument(help="Test dollars to make.")],
    to: Annotated[str | None, typer.Option(help="Receiver; default the acting key.")] = None,
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    rpc_url: RpcOption = None,
    deployment: DeploymentOption = None,
    chain_id: ChainIdOption = None,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make test dollars, on networks whose token is the worthless TestUSD."""
    with errors_as_messages(as_json=as_json):
        units = parse_amount(amount)
        profile = Profile.load(
            data_dir,
            rpc_url=rpc_url,
            deployment=deployment,
            chain_id=chain_id,
            keystore=keystore,
            password_file=password_file,
        )
        wallet = profile.wallet()
        receiver = wallet.address if to is None else address_from_hex(to, field="to")
        chain = profile.chain()
        chain.mint(wallet, receiver, units)
        balance = chain.balance(receiver)
        data = {"address": checksum(receiver), "minted": str(units), "tokens": str(balance)}
        emit(
            data,
            as_json=as_json,
            text=lambda: console.print(f"{checksum(receiver)} now holds {format_amount(balance)} test dollars"),
        )


def _show_channel(seen: dict[str, str]) -> None:
    amounts = {name: format_amount(int(seen[name])) for name in ("deposited", "settled", "charged", "available")}
    print_fields({"channel": seen["channelId"], "gateway": seen["gateway"], **amounts})
