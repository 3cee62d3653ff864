"""`worker`: run a worker, register it, move its stake, see whether this machine is ready."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.bindings.errors import ChainError
from contracts.bindings.keystore import load_keystore
from contracts.bindings.transactor import Transactor
from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, from_hex, hex0x
from contracts.protocol.money import format_amount, parse_amount
from contracts.protocol.typed_data import WorkerConsent
from workers import audit as auditing
from workers import model_commands
from workers import node as nodes
from workers import rescue as rescuing
from workers.errors import StartError
from workers.papers import Journal
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging

EXIT_REFUSED = 1
EXIT_UNUSABLE = 2
CONSENT_SECONDS = 3_600
# Texts in the making are finished before the worker ends.
DRAIN_SECONDS = 120.0

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Earn by running ONNX models.")

EnvFile = Annotated[
    Path | None, typer.Option("--env-file", envvar="WORKER_ENV_FILE", help="File with WORKER_… settings.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
OperatorKeystore = Annotated[
    Path, typer.Option("--operator-keystore", envvar="WORKER_OPERATOR_KEYSTORE", help="The staking account's keystore.")
]
OperatorPassword = Annotated[
    Path | None,
    typer.Option("--operator-password-file", envvar="WORKER_OPERATOR_PASSWORD_FILE", help="Its password file."),
]


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _messages(*, as_json: bool = False) -> Iterator[None]:
    try:
        yield
    except CodedError as error:
        if as_json:
            said = {"code": error.code, "detail": error.detail, "field": error.field, "remedy": error.remedy}
            sys.stdout.write(json.dumps({"error": said}, indent=2) + "\n")
        else:
            where = f"{error.field}: " if error.field else ""
            typer.echo(f"error ({error.code}) {where}{error.detail}", err=True)
            if error.remedy:
                typer.echo(f"  {error.remedy}", err=True)
        raise typer.Exit(EXIT_UNUSABLE if isinstance(error, StartError) else EXIT_REFUSED) from None


def _say(data: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        width = max(len(name) for name in data)
        for name, value in data.items():
            typer.echo(f"{name.ljust(width)}  {value}")


@app.command()
def run(
    env_file: EnvFile = None,
    gateway: Annotated[
        str | None,
        typer.Option(envvar="WORKER_GATEWAY_URL", help="Gateway of another operator to link to, https://…"),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="With --gateway: worker processes behind the link.")] = 1,
) -> None:
    """Serve models until told to stop; the jobs in hand are finished first."""
    with _messages():
        settings = load_settings(env_file)
        configure_logging(settings.log_level, settings.log_format)
        if gateway is not None:
            from workers.link.node import run as run_node

            run_node(settings, gateway, workers=workers, env_file=env_file)
            return
        from workers import tasks
        from workers.announce import Announcer
        from workers.app import app as celery_app
        from workers.app import configure

        node = nodes.build(settings)
        queue = configure(settings, node.key.address)
        announcer = Announcer(node)
        tasks.join(node, announcer)
        announcer.start()
        typer.echo(
            f"worker {checksum(node.key.address)} serves {len(node.served)} model(s) on {node.provider}", err=True
        )
        try:
            worker = celery_app.Worker(
                pool="solo",
                queues=[queue],
                hostname=f"worker@{node.key.address.hex()[:12]}",
                loglevel="WARNING",
                without_mingle=True,
                without_gossip=True,
                without_heartbeat=True,
                quiet=True,
            )
            _stop_offering_on_shutdown(announcer)
            worker.start()
        finally:
            announcer.stop()
            node.executor.generations.drain(DRAIN_SECONDS)
            node.sessions.close()
            node.journal.close()
        raise typer.Exit(worker.exitcode or 0)


def _stop_offering_on_shutdown(announcer: Any) -> None:
    from celery.signals import worker_shutting_down

    def stop(**_: object) -> None:
        announcer.stop()

    worker_shutting_down.connect(stop, weak=False)


@app.command()
def register(
    operator_keystore: OperatorKeystore,
    stake: Annotated[str, typer.Option(help="Stake in tokens, for example 100.")],
    operator_password_file: OperatorPassword = None,
    region: Annotated[str, typer.Option(help="Where the machine stands, for example eu-west.")] = "",
    hardware: Annotated[str, typer.Option(help="What it is, for example rtx-4090.")] = "",
    endpoint: Annotated[str, typer.Option(help="Public address, if it has one.")] = "",
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Stake for this worker's key and register it on chain."""
    with _messages(as_json=as_json):
        settings = load_settings(env_file)
        side = nodes.open_chain(settings)
        amount = parse_amount(stake, field="stake")
        sender = _operator(side, operator_keystore, operator_password_file)
        deadline = int(time.time()) + CONSENT_SECONDS
        consent = WorkerConsent(sender.address, side.key.address, deadline)
        signature = side.key.sign_digest(consent.digest(side.domain))
        registry, token = side.contracts.workers, side.contracts.token
        sender.run("approve", token.address, token.approve(registry.address, amount))
        mined = sender.run(
            "register",
            registry.address,
            registry.register(side.key.address, amount, region, hardware, endpoint, deadline, signature),
        )
        _said(side, sender.address, mined.tx_hash, as_json=as_json)


@app.command()
def stake(
    amount: Annotated[str, typer.Argument(help="Tokens to add to the stake.")],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Add to the worker's stake."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        units = parse_amount(amount, field="amount")
        registry, token = side.contracts.workers, side.contracts.token
        sender.run("approve", token.address, token.approve(registry.address, units))
        return sender.run("stake", registry.address, registry.add_stake(side.key.address, units)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


@app.command()
def unstake(
    amount: Annotated[str, typer.Argument(help="Tokens to take out of the stake after the thaw.")],
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Start taking stake out; `worker withdraw` pays it when it has thawed."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        registry = side.contracts.workers
        units = parse_amount(amount, field="amount")
        return sender.run("thaw", registry.address, registry.thaw(side.key.address, units)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


@app.command()
def withdraw(
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Pay out stake that has thawed."""

    def act(side: nodes.ChainSide, sender: Transactor) -> bytes:
        registry = side.contracts.workers
        return sender.run("withdraw", registry.address, registry.withdraw_stake(side.key.address)).tx_hash

    _as_operator(act, operator_keystore, operator_password_file, env_file, as_json=as_json)


@app.command()
def rescue(
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the papers are worth; send nothing.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Collect what was earned without the gateway, from this worker's own papers and the chain alone."""
    with _messages(as_json=as_json):
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
            sender = _operator(side, operator_keystore, operator_password_file)
            if sender.address != operator:
                raise StartError(
                    f"{checksum(sender.address)} is not the operator {checksum(operator)}.", field="operator-keystore"
                )
            say = (lambda _: None) if as_json else typer.echo
            got = rescuing.collect(side.contracts, sender, journal, say=say)
            report |= {
                "claimed": format_amount(got.claimed),
                "credited": format_amount(got.credited),
                "withdrawn": format_amount(got.withdrawn),
                "still owed": format_amount(got.still_owed),
            }
        journal.close()
        _say(report, as_json=as_json)


MorePapers = Annotated[
    list[Path] | None, typer.Option("--papers", help="Papers of another worker of the same operator; repeatable.")
]
RequestId = Annotated[str, typer.Argument(help="Request id of a receipt, 0x and 64 hex digits.")]


@app.command()
def audit(papers: MorePapers = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Add up this worker's papers and hold them against what each gateway credited on chain."""
    with _messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
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
            _say({name: ", ".join(v) if isinstance(v, list) else v for name, v in row.items()}, as_json=False)
        if not rows and not as_json:
            typer.echo("These papers hold no receipts yet.")


@app.command()
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
    with _messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
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
            sender = _operator(side, operator_keystore, operator_password_file)
            mined = auditing.challenge(side.contracts, disputes, sender, signed, side.domain)
            answer_by = disputes.challenge_of(digest).answer_by
            report |= {"answer by": answer_by, "transaction": hex0x(mined.tx_hash)}
        _say(report, as_json=as_json)


@app.command()
def uphold(
    request_id: RequestId,
    operator_keystore: OperatorKeystore,
    operator_password_file: OperatorPassword = None,
    papers: MorePapers = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Collect bond and penalty of a challenge that the gateway did not answer in time."""
    with _messages(as_json=as_json), _opened_papers(env_file, papers) as (side, journals):
        disputes = nodes.open_disputes(side)
        receipt = auditing.find(journals, from_hex(request_id, 32, field="request-id")).receipt
        sender = _operator(side, operator_keystore, operator_password_file)
        mined = auditing.uphold(disputes, sender, receipt, side.domain)
        _say({"receipt": hex0x(receipt.digest(side.domain)), "transaction": hex0x(mined.tx_hash)}, as_json=as_json)


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


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a model package.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Load a package as this worker would and try a request on it; say every problem and its remedy."""
    with _messages(as_json=as_json):
        if not model_commands.check(folder, env_file, as_json=as_json):
            raise typer.Exit(EXIT_REFUSED)


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="Name or id of a listed model, or the folder of a package.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model here by precision, provider, threads and batch, and keep the best for `worker run`."""
    with _messages(as_json=as_json):
        model_commands.tune(model, env_file, as_json=as_json)


@app.command()
def doctor(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Check key, chain, registration, models, broker and runtime; say what to do about each fault."""
    rows: list[dict[str, str]] = []

    def check(what: str, look: Callable[[], str]) -> bool:
        try:
            rows.append({"check": what, "state": "ok", "detail": look()})
        except CodedError as error:
            remedy = error.remedy or ""
            rows.append({"check": what, "state": "fault", "code": error.code, "detail": f"{error.detail} {remedy}"})
        return rows[-1]["state"] == "ok"

    with _messages(as_json=as_json):
        settings = load_settings(env_file)
        configure_logging("error", settings.log_format)
        side: list[nodes.ChainSide] = []

        def chain() -> str:
            side.append(nodes.open_chain(settings))
            return f"chain {settings.chain_id}, worker {checksum(side[0].key.address)}"

        if check("key and chain", chain):
            check("registration", lambda: f"operator {checksum(nodes.check_registered(side[0]))}")
            check("models", lambda: ", ".join(m.name for _, m, _ in nodes.find_models(side[0], settings)))
        check("broker", lambda: str(nodes.open_redis(settings).info("server").get("redis_version")))
        check("runtime", lambda: _runtime(settings))
    faults = sum(row["state"] != "ok" for row in rows)
    if as_json:
        sys.stdout.write(json.dumps({"checks": rows, "faults": faults}, indent=2) + "\n")
    else:
        for row in rows:
            typer.echo(f"{'ok   ' if row['state'] == 'ok' else 'FAULT'}  {row['check'].ljust(14)} {row['detail']}")
    raise typer.Exit(EXIT_REFUSED if faults else 0)


def _runtime(settings: WorkerSettings) -> str:
    from workers.models.generation.model import is_installed
    from workers.models.runtime import choose_provider, version

    texts = "is installed" if is_installed() else "is not installed: no text generation"
    return f"{choose_provider(settings.provider)}, onnxruntime {version()}; onnxruntime-genai {texts}"


def _operator(side: nodes.ChainSide, keystore: Path, password_file: Path | None) -> Transactor:
    return Transactor(side.contracts.escrow.web3, load_keystore(keystore, password_file))


def _as_operator(
    act: Callable[[nodes.ChainSide, Transactor], bytes],
    keystore: Path,
    password_file: Path | None,
    env_file: Path | None,
    *,
    as_json: bool,
) -> None:
    with _messages(as_json=as_json):
        side = nodes.open_chain(load_settings(env_file))
        sender = _operator(side, keystore, password_file)
        _said(side, sender.address, act(side, sender), as_json=as_json)


def _said(side: nodes.ChainSide, operator: bytes, tx_hash: bytes, *, as_json: bool) -> None:
    try:
        state = side.contracts.workers.worker(side.key.address)
    except ChainError as error:
        raise StartError(error.detail, field="WORKER_RPC_URL") from error
    _say(
        {
            "worker": checksum(side.key.address),
            "operator": checksum(operator),
            "stake": format_amount(state.stake),
            "thawing": format_amount(state.thawing),
            "active": state.active,
            "transaction": hex0x(tx_hash),
        },
        as_json=as_json,
    )
