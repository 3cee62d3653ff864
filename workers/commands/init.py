"""`worker init`: from a machine to a worker that is ready to earn; asks what no option says, writes one settings file.

Nothing is sent before it is asked: staking only with `--register`, serving only with `--run`. A key that it draws and
the password beside it are readable by this user alone.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.bindings.keystore import load_keystore, save_keystore, write_secret
from contracts.deployments import Deployment, NoDeployment
from contracts.deployments import load as load_deployment
from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import address_from_hex, checksum
from contracts.protocol.money import format_amount
from contracts.protocol.signing import PrivateKey
from workers import node as nodes
from workers.commands import asking, doctor, findings, stake
from workers.commands.asking import Answers
from workers.commands.output import AsJson, default_env_file, messages, print_json
from workers.errors import GatewayNotReady, StartError
from workers.machine import find_gpus, gibibytes
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging


def init(
    gateway: Annotated[str | None, typer.Option(help="Gateway to work for, https://….")] = None,
    rpc_url: Annotated[str | None, typer.Option(help="JSON-RPC address of a node of the gateway's chain.")] = None,
    deployment: Annotated[
        Path | None, typer.Option(help="File with the contracts' addresses; default as the gateway names them.")
    ] = None,
    keystore: Annotated[
        Path | None, typer.Option(help="The worker's keystore; drawn, with a password, where it is not.")
    ] = None,
    keystore_password_file: Annotated[Path | None, typer.Option(help="Its password file.")] = None,
    models: Annotated[str | None, typer.Option(help="Models to serve by comma, each with =price if wished.")] = None,
    price: Annotated[
        int | None, typer.Option(min=0, help="Price of a unit where a model has no own, atomic units.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Execution provider; default auto.")] = None,
    processes: Annotated[int | None, typer.Option(min=0, max=64, help="Worker processes behind the link.")] = None,
    model_dir: Annotated[Path | None, typer.Option(help="Cache of model packages.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where the worker's papers are kept.")] = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port of Prometheus metrics.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="A broker of your own; default an embedded one.")] = None,
    allow_plain_link: Annotated[bool, typer.Option("--allow-plain-link", help="Link by http:// too.")] = False,
    allow_file_uri: Annotated[bool, typer.Option("--allow-file-uri", help="Take packages from file://.")] = False,
    settings_file: Annotated[Path | None, typer.Option("--settings-file", help="File to write.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: options, then defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier settings file.")] = False,
    register: Annotated[bool, typer.Option("--register", help="Stake and register now, as the operator.")] = False,
    operator_keystore: Annotated[
        Path | None, typer.Option(envvar="WORKER_OPERATOR_KEYSTORE", help="The staking account's keystore.")
    ] = None,
    operator_password_file: Annotated[
        Path | None, typer.Option(envvar="WORKER_OPERATOR_PASSWORD_FILE", help="Its password file.")
    ] = None,
    stake_amount: Annotated[str | None, typer.Option("--stake", help="Stake in tokens; default the least.")] = None,
    region: Annotated[str, typer.Option(help="Where the machine stands, for example eu-west.")] = "",
    run: Annotated[bool, typer.Option("--run", help="Serve as soon as everything is in order.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set up a worker on this machine: ask, check, write its settings, say the next step."""
    with messages(as_json=as_json):
        configure_logging("error", "text")
        path = (settings_file or default_env_file()).expanduser()
        if path.exists() and not force:
            raise StartError(f"{path} exists already.", field="settings-file", remedy="Add --force to write over it.")
        ask = Answers(quiet=yes or as_json or not sys.stdin.isatty())
        if not ask.quiet:
            _introduce()
        url, status = ask.checked("gateway", gateway, "Gateway to work for (https://…)", None, _answering)
        node_url = asking.choose_node(ask, rpc_url, int(status["chainId"]))
        chosen = asking.choose_models(ask, url, models, price)
        contracts = _deployment(status, deployment, path)
        key_file = _path(ask.text("keystore", keystore, "Keystore of the worker's key", path.with_name("worker.json")))
        password_file, key = _key(key_file, keystore_password_file)
        values: dict[str, Any] = {
            "RPC_URL": node_url,
            "CHAIN_ID": status["chainId"],
            "DEPLOYMENT": contracts,
            "KEYSTORE": key_file,
            "KEYSTORE_PASSWORD_FILE": password_file,
            "GATEWAY_URL": url,
            "GATEWAYS": checksum(_gateway(status)),
            "MODELS": chosen,
            "UNIT_PRICE": price,
            "PROVIDER": provider,
            "PROCESSES": processes,
            "MODEL_DIR": model_dir,
            "STATE_DIR": state_dir,
            "METRICS_PORT": metrics_port,
            "REDIS_URL": redis_url,
            "ALLOW_PLAIN_LINK": "true" if allow_plain_link else None,
            "ALLOW_FILE_URI": "true" if allow_file_uri else None,
        }
        _write(path, values)
        settings = load_settings(path)
        checks = doctor.examine(settings, path)
        wanted = _least_stake(settings) if stake_amount is None else stake_amount
        registered = next((row.state != "fault" for row in checks.rows if row.check == "registration"), False)
        if register and not registered:
            if operator_keystore is None:
                raise StartError("the staking account is not named.", field="operator-keystore")
            _register(operator_keystore, operator_password_file, wanted, region, path, as_json=as_json)
            checks = doctor.examine(settings, path)
            registered = True
        steps = _steps(path, wanted, registered=registered)
    if as_json:
        print_json(
            {
                "settingsFile": str(path),
                "worker": checksum(key.address),
                "settings": {f"WORKER_{name}": str(value) for name, value in values.items() if value is not None},
                "checks": [row.to_json() for row in checks.rows],
                "faults": checks.faults,
                "stake": wanted,
                "next": steps,
            }
        )
    else:
        for line in checks.lines():
            typer.echo(line)
        typer.echo(f"\nsettings: {path}\nworker:   {checksum(key.address)}\n\nNext:")
        for step in steps:
            typer.echo(f"  {step}")
    if run and checks.faults == 0:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-c", _RUN, "run", "--env-file", str(path)])  # noqa: S606
    raise typer.Exit(1 if run else 0)


_RUN = "from workers.cli import main; main()"


def _introduce() -> None:
    from workers.models.runtime import available_providers, version

    cards = find_gpus()
    named = ", ".join(f"{g.name} ({gibibytes(g.memory_bytes)})" if g.memory_bytes else g.name for g in cards)
    typer.echo(f"cards: {named or 'none found by nvidia-smi'}")
    typer.echo(f"onnxruntime {version()}: {', '.join(available_providers())}\n")


def _answering(url: str) -> tuple[str, dict[str, Any]]:
    return url.rstrip("/"), findings.gateway_answer(url)[0]


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _gateway(status: dict[str, Any]) -> bytes:
    try:
        return address_from_hex(status["gateway"], field="gateway")
    except CodedError as error:
        raise GatewayNotReady("the gateway names no address of its own.", field="gateway") from error


def _deployment(status: dict[str, Any], given: Path | None, settings_file: Path) -> Path | None:
    """Return the file with the contracts' addresses: the one given, none where one is published, else the gateway's."""
    chain_id = int(status["chainId"])
    if given is not None:
        return given.expanduser().absolute()
    try:
        load_deployment(chain_id)
    except NoDeployment:
        pass
    else:
        return None
    path = settings_file.with_name("deployment.json").absolute()
    try:
        said = {name: address_from_hex(text, field=name) for name, text in status["contracts"].items()}
        found = Deployment(
            chain_id=chain_id,
            token=said["token"],
            escrow=said["escrow"],
            worker_registry=said["worker_registry"],
            model_registry=said["model_registry"],
            disputes=said["disputes"],
        )
    except (CodedError, KeyError, AttributeError) as error:
        raise GatewayNotReady("the gateway does not name the contracts.", field="deployment") from error
    found.save(path)
    typer.echo(f"The contracts are those that the gateway names ({path}): compare them with published ones.", err=True)
    return path


def _key(path: Path, password_file: Path | None) -> tuple[Path | None, PrivateKey]:
    """Open the worker's keystore, or draw a key and a password and keep both."""
    place = (password_file or path.with_suffix(".pass")).expanduser().absolute()
    if path.is_file():
        found = place if password_file is not None or place.is_file() else None
        return found, load_keystore(path, found)
    if not place.is_file():
        write_secret(place, secrets.token_urlsafe(32).encode() + b"\n")
    key = PrivateKey.generate()
    save_keystore(path, key, place.read_bytes().split(b"\n", 1)[0])
    return place, key


def _write(path: Path, values: dict[str, Any]) -> None:
    lines = [f"WORKER_{name}={value}" for name, value in values.items() if value is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# Written by `worker init`; every setting is in docs/settings.md.\n" + "\n".join(lines) + "\n")


def _least_stake(settings: WorkerSettings) -> str:
    try:
        return format_amount(nodes.open_chain(settings).contracts.workers.min_stake())
    except CodedError:
        return "AMOUNT"


def _register(
    keystore: Path, password_file: Path | None, amount: str, region: str, path: Path, *, as_json: bool
) -> None:
    gpus = find_gpus()
    hardware = gpus[0].name.lower().replace(" ", "-") if gpus else "cpu"
    mined = stake.register_worker(load_settings(path), keystore, password_file, amount, region, hardware)
    if not as_json:
        typer.echo(f"staked {amount} and registered in {mined}")


def _steps(path: Path, amount: str, *, registered: bool) -> list[str]:
    where = "" if path == default_env_file() else f" --env-file {path}"
    operator = "--operator-keystore operator.json --operator-password-file operator.pass"
    steps = [f"worker doctor{where}", f"worker run{where}"]
    if registered:
        return steps
    return [
        "market wallet new operator.json --password-file operator.pass   # if you have no account; keep it elsewhere",
        f"# send that account {amount} tokens for the stake, and some of the chain's own currency for gas",
        f"worker register{where} {operator} --stake {amount}",
        *steps,
    ]
