"""`market broker-acl`: the line of the broker's ACL file that gives a worker of the own lane a user of its own."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from contracts.bindings.keystore import KeystoreError, write_secret
from contracts.protocol.hexes import address_from_hex, checksum
from market.commands.output import errors_as_messages


def broker_acl(
    worker: Annotated[str, typer.Argument(help="Address of the worker's key, 0x….")],
    password_file: Annotated[
        Path | None, typer.Option(help="File whose first line is its password; made, with a new one, where it is not.")
    ] = None,
) -> None:
    """Print a worker's line for the ACL file of Redis or Valkey; the password itself is not printed."""
    with errors_as_messages():
        from market.adapters.redis_acl import acl_line, worker_user

        address = address_from_hex(worker, field="worker")
        path = password_file or Path(f"{worker_user(address)}.pass")
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32).encode() + b"\n", field="password-file")
        typer.echo(acl_line(address, _first_line(path)))
        user = f"{worker_user(address)}:<first line of {path}>"
        typer.echo(f"# worker {checksum(address)}: WORKER_REDIS_URL=rediss://{user}@host:port/0", err=True)


def _first_line(path: Path) -> str:
    remedy = "Name a file whose first line is the password, or one that is not there, to be made."
    try:
        line = path.read_text().partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise KeystoreError(f"cannot read {path}: {error}.", field="password-file", remedy=remedy) from error
    if not line:
        raise KeystoreError(f"{path} is empty.", field="password-file", remedy=remedy)
    return line
