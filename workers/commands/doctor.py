"""`worker doctor`: every check, what is wrong and how to mend it."""

from __future__ import annotations

from pathlib import Path

import typer

from contracts.protocol.hexes import checksum
from workers import node as nodes
from workers.commands import findings
from workers.commands.findings import Checks
from workers.commands.output import EXIT_REFUSED, AsJson, EnvFile, messages, print_json
from workers.errors import StartError
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging


def doctor(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Check key, chain, stake, models, gateway, clock, broker, runtime, cards, disk; say how to mend each fault."""
    with messages(as_json=as_json):
        settings = load_settings(env_file)
        configure_logging("error", settings.log_format)
        checks = examine(settings, env_file)
    if as_json:
        print_json({"checks": [row.to_json() for row in checks.rows], "faults": checks.faults})
    else:
        for line in checks.lines():
            typer.echo(line)
    raise typer.Exit(EXIT_REFUSED if checks.faults else 0)


def examine(settings: WorkerSettings, env_file: Path | None) -> Checks:
    """Make every check."""
    checks = Checks()
    sides: list[nodes.ChainSide] = []
    ahead: list[float | None] = [None]
    owners: dict[str, bytes] = {}
    ours: set[bytes] = set()

    def chain() -> str:
        sides.append(nodes.open_chain(settings))
        return f"chain {settings.chain_id}, worker {checksum(sides[0].key.address)}"

    def models() -> str:
        store = nodes.open_store(settings)
        for model_id, listing, _ in nodes.find_models(sides[0], settings):
            owners[listing.name] = listing.owner
            store.look(model_id, listing.uri)
        return ", ".join(owners)

    def registration() -> str:
        said = findings.stake(sides[0])
        ours.update({sides[0].key.address, nodes.check_operator(sides[0])})
        return said

    def gateway() -> str:
        url = settings.gateway_url
        if url is None:
            if not settings.gateway_addresses:
                raise StartError(
                    "no gateway is named.",
                    field="WORKER_GATEWAYS",
                    remedy="Name its address, or set WORKER_GATEWAY_URL to link to one; `worker init` asks for it.",
                )
            return f"own lane, for {', '.join(checksum(address) for address in settings.gateway_addresses)}"
        status, ahead[0] = findings.gateway_answer(url)
        address = checksum(_found(settings, url, sides[0])) if sides else str(status["gateway"])
        fee = int(status.get("feePpm", 0))
        if fee > settings.max_fee_ppm:
            raise StartError(
                f"it takes {fee} ppm of each price, {settings.max_fee_ppm} are accepted.",
                field="WORKER_MAX_FEE_PPM",
                remedy="Raise it, or work for another gateway.",
            )
        return f"{url} is {address}, fee {fee} ppm"

    checks.add("settings", lambda: str(env_file) if env_file else "from the environment alone")
    if checks.add("key and chain", chain):
        checks.add("registration", registration)
        checks.add("models", models)
    for path in (settings.keystore, settings.keystore_password_file):
        if path is not None and path.is_file():
            checks.add("key file", lambda path=path: findings.key_file(path))  # type: ignore[misc]
    if checks.add("gateway", gateway) and settings.gateway_url is not None and sides:
        url, worker = settings.gateway_url, sides[0].key.address
        checks.add("audits", lambda: findings.audits(url, worker))
    checks.add("clock", lambda: findings.clock(ahead[0], nodes.chain_time(sides[0]) if sides else None))
    checks.add("broker", lambda: findings.broker(settings))
    checks.add("runtime", lambda: findings.runtime(settings))
    checks.add("cards", findings.gpus)
    checks.add("memory", lambda: findings.memory(settings))
    checks.add("disk", lambda: findings.disk(settings))
    checks.add("ports", lambda: findings.metrics_port(settings))
    checks.add("sandbox", lambda: findings.sandbox(settings, owners, frozenset(ours)))
    return checks


def _found(settings: WorkerSettings, url: str, side: nodes.ChainSide) -> bytes:
    from workers.link.node import find_gateway

    return find_gateway(settings, url, side)
