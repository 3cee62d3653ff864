"""`market broker-acl`: the line of the broker's ACL file that gives a worker of the own lane a user of its own."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

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
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n")
        typer.echo(acl_line(address, path.read_text().splitlines()[0]))
        user = f"{worker_user(address)}:<first line of {path}>"
        typer.echo(f"# worker {checksum(address)}: WORKER_REDIS_URL=rediss://{user}@host:port/0", err=True)
