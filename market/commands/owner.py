"""`market deploy`, `market model`: what a network's founder and a model's owner do on chain."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.deployments.networks import network as known_network
from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.money import both, check_terms, parse_money
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP, finish, show_plan
from market.commands.listing import Listing
from market.commands.model_package import UNIT_HELP, check_uri, model_check, model_init, unit_named
from market.commands.output import JsonOption, emit, errors_as_messages, print_fields, print_table
from market.commands.profile import DryRunOption, PasswordOption, Profile
from market.commands.publish import model_publish
from market.errors import ConfigurationError
from market.sdk import packages
from market.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from contracts.bindings.model_registry import ModelState
    from market.sdk.chain import Chain

model_app = typer.Typer(cls=Listing, help="Model packages and their listings.", no_args_is_help=True)
model_app.command("init")(model_init)
model_app.command("check")(model_check)
model_app.command("publish")(model_publish)


def deploy(
    *,
    network: Annotated[str, typer.Option(help="devnet, base-sepolia or sepolia.")] = "devnet",
    rpc_url: Annotated[str, typer.Option("--rpc-url", envvar="MARKET_RPC_URL", help="Node of the chain.")],
    keystore: Annotated[Path, typer.Option("--keystore", help="Keystore file of the deployer.")],
    password_file: PasswordOption = None,
    token: Annotated[
        str | None, typer.Option(help="Payment token; default the network's USDC, test dollars on devnet.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File for the addresses; default contracts/deployments/<chain id>.json.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the contracts to a network and write down their addresses.

    Cut short and given again, it goes on where it was: what it signed lies beside that file until it is written.
    """
    from market.sdk.chain import Chain  # web3 takes seconds to import

    with errors_as_messages(as_json=as_json):
        target = known_network(network)
        path = output or Path(str(files("contracts.deployments"))) / f"{target.chain_id}.json"
        if path.exists():
            raise ConfigurationError(f"{path} exists already.", field="output", remedy="Name another file.")
        wallet = Profile(DEFAULT_DATA_DIR, None, keystore=keystore, password_file=password_file).wallet()
        paid_in = target.token if token is None else address_from_hex(token, field="token")
        data = {"network": target.name, "chainId": str(target.chain_id), "file": str(path)}
        if dry_run:
            planned, planned_at = Chain.plan_deployment(rpc_url, wallet, token=paid_in, chain_id=target.chain_id)
            contracts = planned_at.contracts()
            data |= {name: checksum(address) for name, address in contracts.items()}
            show_plan(planned, contracts, data, data, as_json=as_json)
            return
        chain = Chain.deploy(rpc_url, wallet, path, token=paid_in, chain_id=target.chain_id)
        data |= {name: checksum(address) for name, address in chain.contracts().items()}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


@model_app.command("pack")
def model_pack(
    folder: Annotated[Path, typer.Argument(help="Folder with the ONNX file and whatever belongs to it.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help="name:DATATYPE:dim,dim with -1 for free sizes.")],
    outputs: Annotated[list[str], typer.Option("--output", help="name:DATATYPE:dim,dim.")],
    entry: Annotated[str, typer.Option(help="The ONNX file.")] = "model.onnx",
    unit: Annotated[str, typer.Option(help=UNIT_HELP)] = "request",
    batch_axis: Annotated[int | None, typer.Option(help="Axis along which requests are joined.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most rows of a request.")] = 64,
    license_name: Annotated[str, typer.Option("--license", help="SPDX name of the model's licence.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Hash a folder's files and write its manifest as you say it; `init` guesses what this asks for."""
    with errors_as_messages(as_json=as_json):
        manifest = packages.pack(
            folder,
            inputs=tuple(packages.parse_spec(text) for text in inputs),
            outputs=tuple(packages.parse_spec(text) for text in outputs),
            entry=entry,
            unit=unit_named(unit),
            batch_axis=batch_axis,
            max_batch=max_batch,
            license_name=license_name,
        )
        data = {"modelId": hex0x(manifest.model_id), "files": str(len(manifest.files))}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


@model_app.command("update")
@acting(gateway=False)
def model_update(
    profile: Profile,
    name: Annotated[str, typer.Argument(help="Name of the listing.")],
    min_price: Annotated[str | None, typer.Option(help="Least price of a unit. " + AMOUNT_HELP)] = None,
    max_price: Annotated[str | None, typer.Option(help="Highest price of a unit. " + AMOUNT_HELP)] = None,
    royalty_ppm: Annotated[int | None, typer.Option(help="The owner's share in millionths.")] = None,
    uri: Annotated[str | None, typer.Option(help="Where workers fetch the package.")] = None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change a listing's terms; what is not given stays."""
    if (min_price, max_price, royalty_ppm, uri) == (None, None, None, None):
        raise ConfigurationError(
            "nothing is given that could change.",
            field="name",
            remedy="Give --min-price, --max-price, --royalty-ppm or --uri.",
        )
    if uri is not None:
        check_uri(uri)
    chain = profile.chain(dry_run=dry_run)
    model_id, known = _listed(chain, name)
    low = known.min_price if min_price is None else parse_money(min_price, field="min-price")
    high = known.max_price if max_price is None else parse_money(max_price, field="max-price")
    royalty = known.royalty_ppm if royalty_ppm is None else royalty_ppm
    address = known.uri if uri is None else uri
    check_terms(low, high, royalty)
    chain.update_model(
        profile.wallet("owner"), model_id, min_price=low, max_price=high, royalty_ppm=royalty, uri=address
    )
    data = {
        "name": name,
        "modelId": hex0x(model_id),
        "minPrice": str(low),
        "maxPrice": str(high),
        "royaltyPpm": str(royalty),
        "uri": address,
    }
    fields = {**data, "minPrice": both(low), "maxPrice": both(high)}
    finish(chain, data, fields, as_json=as_json)


@model_app.command("delist")
@acting(gateway=False)
def model_delist(
    profile: Profile,
    name: Annotated[str, typer.Argument(help="Name of the listing.")],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take a listing down: no gateway sells it any more; its name stays yours."""
    _set_active(profile, name, active=False, dry_run=dry_run, as_json=as_json)


@model_app.command("relist")
@acting(gateway=False)
def model_relist(
    profile: Profile,
    name: Annotated[str, typer.Argument(help="Name of the listing.")],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put a listing up again."""
    _set_active(profile, name, active=True, dry_run=dry_run, as_json=as_json)


@model_app.command("earnings")
@acting(chain=False)
def model_earnings(
    profile: Profile,
    address: Annotated[str | None, typer.Argument(help="Owner; default the acting key.")] = None,
    *,
    as_json: bool,
) -> None:
    """Show what each of an owner's models earned at the gateway: requests served, and royalties, the best first."""
    owner = checksum(profile.wallet("owner").address if address is None else address_from_hex(address, field="address"))
    with profile.market() as market:
        earned = {one["modelId"]: one for one in market.get(f"/market/v1/owners/{owner}/earnings")["models"]}
        listed = {one["modelId"]: one["name"] for one in market.get(f"/market/v1/models?owner={owner}")}
    rows = [
        {
            "model": listed.get(model_id, ""),
            "modelId": model_id,
            "requests": earned[model_id]["requests"] if model_id in earned else 0,
            "earned": earned[model_id]["earned"] if model_id in earned else "0",
        }
        for model_id in listed | earned
    ]
    rows.sort(key=lambda row: -int(row["earned"]))
    total = sum(int(row["earned"]) for row in rows)
    data = {"owner": owner, "models": rows, "earned": str(total)}

    def text() -> None:
        shown = [(row["model"] or row["modelId"], str(row["requests"]), both(int(row["earned"]))) for row in rows]
        print_table("What the models earned", ("model", "requests", "royalties"), shown)
        print_fields({"owner": owner, "earned": both(total)})

    emit(data, as_json=as_json, text=text)


def _set_active(profile: Profile, name: str, *, active: bool, dry_run: bool, as_json: bool) -> None:
    with errors_as_messages(as_json=as_json):
        chain = profile.chain(dry_run=dry_run)
        model_id, _ = _listed(chain, name)
        chain.set_model_active(profile.wallet("owner"), model_id, active=active)
        data = {"name": name, "modelId": hex0x(model_id), "active": active}
        finish(chain, data, data, as_json=as_json)


def _listed(chain: Chain, name: str) -> tuple[bytes, ModelState]:
    model_id, known = chain.model_by_name(name)
    if not any(model_id):
        raise ConfigurationError(f"no listing is called {name!r}.", field="name", remedy="See `market status`.")
    return model_id, known
