"""What every command of `worker` shares: its options, how it prints, and how it ends where something is wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts import local_files
from contracts.protocol.errors import CodedError
from workers.errors import StartError

if TYPE_CHECKING:
    from contracts.bindings.transactor import Transactor
    from workers.node import ChainSide

EXIT_REFUSED = 1
EXIT_UNUSABLE = 2


def default_env_file() -> Path:
    """Return where `worker init` writes the settings and every other command looks for them."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "inference-market" / "worker.env"


def _found(given: Path | None) -> Path | None:
    """Return the settings file: the one given, else the one that `worker init` wrote, if it did."""
    usual = default_env_file()
    return usual if given is None and usual.is_file() else given


EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        envvar="WORKER_ENV_FILE",
        callback=_found,
        help="File with WORKER_… settings; default ~/.config/inference-market/worker.env, if it is there.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
OperatorKeystore = Annotated[
    Path, typer.Option("--operator-keystore", envvar="WORKER_OPERATOR_KEYSTORE", help="The staking account's keystore.")
]
OperatorPassword = Annotated[
    Path | None,
    typer.Option("--operator-password-file", envvar="WORKER_OPERATOR_PASSWORD_FILE", help="Its password file."),
]


@contextmanager
def messages(*, as_json: bool = False) -> Iterator[None]:
    """Print an error of ours with its code and remedy, and end with its status."""
    try:
        with local_files.named():
            yield
    except CodedError as error:
        if as_json:
            said = {"code": error.code, "detail": error.detail, "field": error.field, "remedy": error.remedy}
            print_json({"error": said})
        else:
            where = f"{error.field}: " if error.field else ""
            typer.echo(f"error ({error.code}) {where}{error.detail}", err=True)
            if error.remedy:
                typer.echo(f"  {error.remedy}", err=True)
        raise typer.Exit(EXIT_UNUSABLE if isinstance(error, StartError) else EXIT_REFUSED) from None


def say(data: dict[str, Any], *, as_json: bool) -> None:
    """Print named values."""
    if as_json:
        print_json(data)
    else:
        width = max(len(name) for name in data)
        for name, value in data.items():
            typer.echo(f"{name.ljust(width)}  {value}")


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def open_operator(side: ChainSide, keystore: Path, password_file: Path | None) -> Transactor:
    """Open the staking account.

    Raises:
        KeystoreError: its file does not open.
    """
    from contracts.bindings.keystore import load_keystore
    from contracts.bindings.transactor import Transactor

    key = load_keystore(keystore, password_file)
    return Transactor(side.contracts.escrow.web3, key, chain_id=side.domain.chain_id)
