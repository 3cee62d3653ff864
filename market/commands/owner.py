"""`market deploy`, `market model`: what a network's founder and a model's owner do on chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import parse_amount
from contracts.protocol.pricing import Unit
from market.commands.output import JsonOption, emit, errors_as_messages, print_fields
from market.commands.profile import (
    ChainIdOption,
    DataDirOption,
    DeploymentOption,
    KeystoreOption,
    PasswordOption,
    Profile,
    RpcOption,
)
from market.errors import ConfigurationError
from market.sdk import packages
from market.settings import DEFAULT_DATA_DIR

model_app = typer.Typer(help="Model packages and their listings.", no_args_is_help=True)


def deploy(
    output: Annotated[Path, typer.Argument(help="File to write the contracts' addresses to.")],
    *,
    rpc_url: Annotated[str, typer.Option("--rpc-url", envvar="MARKET_RPC_URL", help="Node of the chain.")],
    keystore: Annotated[Path, typer.Option("--keystore", help="Keystore file of the deployer.")],
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the contracts with a test token."""
    from market.sdk.chain import Chain  # web3 takes seconds to import

    with errors_as_messages(as_json=as_json):
        if output.exists():
            raise ConfigurationError(f"{output} exists already.", field="output", remedy="Name another file.")
        wallet = Profile(DEFAULT_DATA_DIR, None, keystore=keystore, password_file=password_file).wallet()
        chain = Chain.deploy(rpc_url, wallet, output)
        data = {name: checksum(address) for name, address in chain.contracts().items()}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


@model_app.command("pack")
def model_pack(
    folder: Annotated[Path, typer.Argument(help="Folder with the ONNX file and whatever belongs to it.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help="name:DATATYPE:dim,dim with -1 for free sizes.")],
    outputs: Annotated[list[str], typer.Option("--output", help="name:DATATYPE:dim,dim.")],
    entry: Annotated[str, typer.Option(help="The ONNX file.")] = "model.onnx",
    unit: Annotated[str, typer.Option(help="What is priced: request, row, token or byte.")] = "request",
    batch_axis: Annotated[int | None, typer.Option(help="Axis along which requests are joined.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most rows of a request.")] = 64,
    license_name: Annotated[str, typer.Option("--license", help="SPDX name of the model's licence.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Hash a folder's files and write its manifest; the manifest's hash is the model id."""
    with errors_as_messages(as_json=as_json):
        manifest = packages.pack(
            folder,
            inputs=tuple(packages.parse_spec(text) for text in inputs),
            outputs=tuple(packages.parse_spec(text) for text in outputs),
            entry=entry,
            unit=_unit(unit),
            batch_axis=batch_axis,
            max_batch=max_batch,
            license_name=license_name,
        )
        data = {"modelId": hex0x(manifest.model_id), "files": str(len(manifest.files))}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


@model_app.command("publish")
def model_publish(
    folder: Annotated[Path, typer.Argument(help="Packed folder.")],
    name: Annotated[str, typer.Argument(help="Name of the listing.")],
    *,
    min_price: Annotated[str, typer.Option(help="Least price of a unit, in tokens.")],
    max_price: Annotated[str, typer.Option(help="Highest price of a unit, in tokens.")],
    royalty_ppm: Annotated[int, typer.Option(help="The owner's share in millionths.")],
    uri: Annotated[str | None, typer.Option(help="Where workers fetch the package; default this folder.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    rpc_url: RpcOption = None,
    deployment: DeploymentOption = None,
    chain_id: ChainIdOption = None,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a packed folder and list its model on chain."""
    with errors_as_messages(as_json=as_json):
        manifest = packages.load(folder)
        profile = Profile.load(
            data_dir,
            rpc_url=rpc_url,
            deployment=deployment,
            chain_id=chain_id,
            keystore=keystore,
            password_file=password_file,
        )
        wallet = profile.wallet("owner")
        profile.chain().list_model(
            wallet,
            manifest,
            name=name,
            min_price=parse_amount(min_price, field="min-price"),
            max_price=parse_amount(max_price, field="max-price"),
            royalty_ppm=royalty_ppm,
            uri=uri or folder.resolve().as_uri(),
        )
        data = {"name": name, "modelId": hex0x(manifest.model_id), "owner": wallet.checksum_address}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


def _unit(text: str) -> Unit:
    try:
        return Unit[text.upper()]
    except KeyError as error:
        raise ConfigurationError(
            f"{text!r} is no unit.", field="unit", remedy="Use request, row, token or byte."
        ) from error
