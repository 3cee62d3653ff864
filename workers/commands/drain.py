"""`worker drain`: let the worker of this machine finish what it has, take nothing more, and end."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from contracts.bindings.keystore import KeystoreError, load_keystore
from contracts.protocol.hexes import checksum
from workers import running
from workers.commands.output import EXIT_REFUSED, EnvFile, messages
from workers.errors import StartError
from workers.settings import WorkerSettings, load_settings

MARGIN_SECONDS = 60.0


def drain(
    env_file: EnvFile = None,
    wait: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds to wait for its end; 0: only tell it. Default: all that it may take."),
    ] = None,
) -> None:
    """Let the running worker finish what it was sent, take nothing more, and end; nothing is lost or paid twice."""
    with messages():
        settings = load_settings(env_file)
        address = _address(settings)
        found = running.find(settings.state_dir, address)
        if not found:
            raise StartError(
                f"no worker of {checksum(address)} runs on this machine.",
                field="WORKER_STATE_DIR",
                remedy="Run this where `worker run` does, as the same user, with the same settings.",
            )
        processes = _told_to_end(found)
        names = ", ".join(str(number) for number in found)
        typer.echo(f"worker {checksum(address)} drains: process {names}", err=True)
        seconds = settings.drain_seconds + MARGIN_SECONDS if wait is None else wait
        if not seconds:
            return
        if not _ended(processes, seconds):
            typer.echo(f"it still has work after {seconds:g} s", err=True)
            raise typer.Exit(EXIT_REFUSED)
        typer.echo("it has ended", err=True)


def _told_to_end(numbers: Sequence[int]) -> list[int]:
    """Send SIGTERM; returns a descriptor for each process, which names that very process and no later one."""
    processes = []
    for number in numbers:
        with suppress(ProcessLookupError):
            process = os.pidfd_open(number)
            signal.pidfd_send_signal(process, signal.SIGTERM)
            processes.append(process)
    return processes


def _ended(processes: Sequence[int], seconds: float) -> bool:
    """Wait until all processes have ended, at most `seconds`; a descriptor is readable from then on."""
    until = time.monotonic() + seconds
    for process in processes:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1_000):
            return False
    return True


def _address(settings: WorkerSettings) -> bytes:
    if settings.keystore is None:
        raise StartError(
            "the worker's key is not named.",
            field="WORKER_KEYSTORE",
            remedy="Name the settings that `worker run` was given, by --env-file or WORKER_… variables.",
        )
    try:
        return load_keystore(settings.keystore, settings.keystore_password_file).address
    except KeystoreError as error:
        raise StartError(error.detail, field="WORKER_KEYSTORE", remedy=error.remedy) from error
