"""`market audits list|show|pardon`: where workers answered differently, checked, and a conviction taken back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import address_from_hex, checksum, from_hex, hex0x, signature_from_hex
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.typed_data import Domain, Receipt
from market.commands.listing import Listing
from market.commands.output import EXIT_REFUSED, JsonOption, emit, errors_as_messages, print_fields, print_table
from market.commands.profile import DataDirOption, Profile, UrlOption
from market.commands.services import EnvFileOption
from market.errors import AuditNotFound
from market.settings import DEFAULT_DATA_DIR, load_settings
from market.verification.audit_choice import commitment, is_chosen, threshold

audits_app = typer.Typer(
    cls=Listing, no_args_is_help=True, help="Audits of results: who answered otherwise than others."
)


@audits_app.command("list")
def audits_list(
    *,
    worker: Annotated[str | None, typer.Option(help="Only those in which this worker had a part.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the gateway's audits in which answers differed, the newest first, and who is convicted."""
    with errors_as_messages(as_json=as_json):
        query = "" if worker is None else f"?worker={hex0x(address_from_hex(worker, field='worker'))}"
        with Profile.load(data_dir, url=url).market() as market:
            found, workers = market.get(f"/market/v1/audits{query}"), market.get("/market/v1/audits/workers")
        data = {"audits": found, "workers": workers}

        def text() -> None:
            differed = [
                (str(one["number"]), _date(one["at"]), one["outcome"], one["against"] or "", one["detail"])
                for one in found
            ]
            print_table("Answers that differed", ("audit", "at", "outcome", "against", "what"), differed)
            standing = [
                (
                    one["worker"],
                    str(one["agreed"]),
                    "" if one["convictedAt"] is None else f"{_date(one['convictedAt'])}, audit {one['conviction']}",
                )
                for one in workers
            ]
            print_table("Workers", ("worker", "audits passed", "convicted"), standing)

        emit(data, as_json=as_json, text=text)


@audits_app.command("show")
def audits_show(
    number: Annotated[int, typer.Argument(help="Number of the audit.")],
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one audit, and check what can be: signatures, one input for all, and the choice once its secret is out."""
    with errors_as_messages(as_json=as_json):
        with Profile.load(data_dir, url=url).market() as market:
            found, status = market.get(f"/market/v1/audits/{number}"), market.status()
            secrets = market.get("/market/v1/audits/secrets?limit=1000")
        domain = Domain(int(status["chainId"]), address_from_hex(status["escrow"], field="escrow"))
        checks = check(found, secrets, domain)

        def text() -> None:
            print_fields({name: found[name] for name in ("outcome", "against", "detail", "tolerance", "modelId")})
            for one in found["statements"]:
                receipt = one["receipt"]
                print_fields(
                    {"worker": one["worker"], "  operator": one["operator"], "  answer": receipt["outputHash"]}
                )
            print_fields({name: "unknown yet" if held is None else held for name, held in checks.items()})

        emit({**found, "checks": checks}, as_json=as_json, text=text)
        if False in checks.values():
            raise typer.Exit(EXIT_REFUSED)


@audits_app.command("pardon")
def audits_pardon(
    worker: Annotated[str, typer.Argument(help="Address of the worker.")],
    *,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a worker's conviction back, as the gateway's operator: its offers are sold again, as a new worker's."""
    with errors_as_messages(as_json=as_json):
        address = address_from_hex(worker, field="worker")
        from market.bootstrap.audits import open_audit_book

        with open_audit_book(load_settings(env_file)) as book:
            if not asyncio.run(book.pardon(address, time.time())):
                raise AuditNotFound(f"{checksum(address)} is not convicted here.", field="worker")
        data = {"worker": checksum(address), "pardoned": True}
        emit(data, as_json=as_json, text=lambda: print_fields(data))


def check(found: dict[str, Any], secrets: list[dict[str, Any]], domain: Domain) -> dict[str, bool | None]:
    """Check an audit as the gateway shows it; None where it cannot be known yet."""
    try:
        receipts = [Receipt.from_json(one["receipt"]) for one in found["statements"]]
        signed = all(
            is_receipt_signed_by(
                receipt.digest(domain),
                signature_from_hex(one["workerSignature"], field="workerSignature"),
                receipt.worker,
                domain,
            )
            for one, receipt in zip(found["statements"], receipts, strict=True)
        )
        one_request = len({(one.input_hash, one.model_id) for one in receipts}) == 1
        return {
            "every receipt is signed by its worker": signed,
            "all were asked the same": one_request,
            "the request was chosen by the secret": _chosen(found, secrets, receipts[0].request_id),
        }
    except (ProtocolError, KeyError, IndexError) as error:
        return {f"it is well formed ({error})": False}


def _chosen(found: dict[str, Any], secrets: list[dict[str, Any]], request_id: bytes) -> bool | None:
    row = next((one for one in secrets if one["commitment"] == found["commitment"]), None)
    if row is None or row["secret"] is None:
        return None
    secret = from_hex(row["secret"], 32, field="secret")
    return hex0x(commitment(secret)) == found["commitment"] and is_chosen(secret, request_id, threshold(found["share"]))


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
