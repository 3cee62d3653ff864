"""`market audit`: a payee's receipts added up from the chain's roots, and held against its credit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from contracts.protocol.hexes import address_from_hex, checksum
from contracts.protocol.money import both
from market.commands.acting import acting
from market.commands.output import emit, print_fields
from market.commands.profile import Profile
from market.errors import ConfigurationError
from market.sdk.audit import Audit, leaves_of
from market.sdk.audit import audit as add_up


@acting()
def audit(
    profile: Profile,
    address: Annotated[str | None, typer.Argument(help="Payee; default the acting key.")] = None,
    role: Annotated[str, typer.Option(help="Account of the local network, if no key is given.")] = "owner",
    proof: Annotated[Path | None, typer.Option(help="File to write the receipts to, each with its proof.")] = None,
    *,
    as_json: bool,
) -> None:
    """Add up an owner's or operator's receipts in the gateway's batches, and compare with what the chain credited.

    Every batch is read whole and must rebuild its root on chain. With --proof, anybody can check a shortfall.
    """
    payee = profile.wallet(role).address if address is None else address_from_hex(address, field="address")
    with profile.market() as market:
        chain, gateway = profile.chain_of(market)
        found = add_up(chain, leaves_of(market), gateway, payee)
    if proof is not None:
        _write(proof, found)
    fields = {
        "payee": checksum(payee),
        "gateway": checksum(gateway),
        "batches": str(found.epochs),
        "not shown as settled": ", ".join(map(str, found.withheld)) or "none",
        "receipts": str(len(found.receipts)),
        "due": both(found.due),
        "credited": both(found.credited),
        "short": both(found.short),
    }
    emit(found.to_json(), as_json=as_json, text=lambda: print_fields(fields))


def _write(path: Path, found: Audit) -> None:
    data = {**found.to_json(), "receipts": [one.to_json() for one in found.receipts]}
    try:
        path.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        remedy = "Name a file in a folder that is there."
        raise ConfigurationError(f"cannot write {path}: {error.strerror}.", field="proof", remedy=remedy) from error
