"""`worker rescue|audit|challenge|uphold`: what a worker's own papers are worth, with or without the gateway."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.protocol.hexes import checksum, from_hex, hex0x
from contracts.protocol.money import format_amount
from workers import audit as auditing
from workers import node as nodes
from workers import rescue as rescuing
from workers.commands.output import (
    AsJson,
    EnvFile,
    OperatorKeystore,
    OperatorPassword,
    messages,
    open_operator,
    say,
)
from workers.errors import StartError
from workers.papers import Journal
from workers.settings import load_settings


def rescue(
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the papers are worth; send nothing.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Collect what was earned without the gateway, from this worker's own papers and the chain alone."""
    with messages(as_json=as_json):
        settings = load_settings(env_file)
        side = nodes.open_chain(settings)
        operator = nodes.check_operator(side)
        journal = nodes.open_journal(settings, side, operator)
        found = rescuing.look(side.contracts, journal, operator)
        total, countersigned = journal.counts()
        report: dict[str, Any] = {
            "receipts": total,
            "countersigned": countersigned,
            "channels to claim": len(found.claims),
            "claimable": format_amount(found.claimable),
            "owed by notes": format_amount(found.owed),
        }
        if not dry_run:
            sender = open_operator(side, operator_keystore, operator_password_file)
            if sender.address != operator:
                raise StartError(
                    f"{checksum(sender.address)} is not the operator {checksum(operator)}.", field="operator-keystore"
                )
            tell = (lambda _: None) if as_json else typer.echo
            got = rescuing.collect(side.contracts, sender, journal, say=tell)
            report |= {
                "claimed": format_amount(got.claimed),
                "credited": format_amount(got.credited),
                "withdrawn": format_amount(got.withdrawn),
                "still owed": format_amount(got.still_owed),
            }
        journal.close()
        say(report, as_json=as_json)


MorePapers = Annotated[
    list[Path] | None, typer.Option("--papers", help="Papers of another worker of the same operator; repeatable.")
]
RequestId = Annotated[str, typer.Argument(help="Request id of a receipt, 0x and 64 hex digits.")]


def audit(papers: MorePapers = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Add up this worker's papers and hold them against what each gateway credited on chain."""
    with messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
        operator, disputes = nodes.check_operator(side), nodes.open_disputes(side)
        now = nodes.chain_time(side)
        rows = [
            {
                "gateway": checksum(one.gateway),
                "receipts": one.receipts,
                "countersigned": one.countersigned,
                "earned": format_amount(one.earned),
                "promised by note": format_amount(one.promised),
                "credited on chain": format_amount(one.credited),
                "withdrawn": format_amount(one.withdrawn),
                "overdue": format_amount(one.overdue),
                "short": format_amount(one.short),
                "newest overdue": [hex0x(r.request_id) for r in one.newest_overdue] if one.short else [],
            }
            for one in auditing.add_up(side.contracts, disputes, journals, operator, now=now)
        ]
        if as_json:
            sys.stdout.write(json.dumps({"gateways": rows}, indent=2) + "\n")
        for row in [] if as_json else rows:
            say({name: ", ".join(v) if isinstance(v, list) else v for name, v in row.items()}, as_json=False)
        if not rows and not as_json:
            typer.echo("These papers hold no receipts yet.")


def challenge(
    request_id: RequestId,
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    papers: MorePapers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it costs and may bring; send nothing.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Claim on chain, with a bond, that a receipt is in no batch of its gateway."""
    with messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
        disputes = nodes.open_disputes(side)
        signed = auditing.find(journals, from_hex(request_id, 32, field="request-id"))
        digest = signed.receipt.digest(side.domain)
        report: dict[str, Any] = {
            "receipt": hex0x(digest),
            "gateway": checksum(signed.receipt.gateway),
            "bond": format_amount(disputes.bond()),
            "price": format_amount(signed.receipt.price),
        }
        if not dry_run:
            sender = open_operator(side, operator_keystore, operator_password_file)
            mined = auditing.challenge(side.contracts, disputes, sender, signed, side.domain)
            answer_by = disputes.challenge_of(digest).answer_by
            report |= {"answer by": answer_by, "transaction": hex0x(mined.tx_hash)}
        say(report, as_json=as_json)


def uphold(
    request_id: RequestId,
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    papers: MorePapers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it may bring, and when; send nothing.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Collect bond and penalty of a challenge that the gateway did not answer in time."""
    with messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
        disputes = nodes.open_disputes(side)
        receipt = auditing.find(journals, from_hex(request_id, 32, field="request-id")).receipt
        found = auditing.open_challenge(disputes, receipt, side.domain)
        report: dict[str, Any] = {
            "receipt": hex0x(receipt.digest(side.domain)),
            "gateway": checksum(found.gateway),
            "challenger": checksum(found.challenger),
            "bond": format_amount(found.bond),
            "penalty": format_amount(found.penalty),
            "answer by": found.answer_by,
        }
        if dry_run:
            # The contract takes it in a block that is younger than that.
            report["seconds left"] = max(0, found.answer_by + 1 - nodes.chain_time(side))
        else:
            sender = open_operator(side, operator_keystore, operator_password_file)
            mined = auditing.uphold(disputes, sender, receipt, side.domain)
            report["transaction"] = hex0x(mined.tx_hash)
        say(report, as_json=as_json)


@contextmanager
def _opened_papers(env_file: Path | None, more: list[Path] | None) -> Iterator[tuple[nodes.ChainSide, list[Journal]]]:
    settings = load_settings(env_file)
    side = nodes.open_chain(settings)
    operator = nodes.check_operator(side)
    for path in more or ():
        if not path.is_file():
            raise StartError(f"{path} is not a file.", field="papers", remedy="Name a worker's papers-….db.")
    with ExitStack() as stack:
        journals = [nodes.open_journal(settings, side, operator)]
        journals += [Journal(path, domain=side.domain, operator=operator) for path in more or ()]
        for journal in journals:
            stack.callback(journal.close)
        yield side, journals
