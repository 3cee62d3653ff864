"""Whose models run in the worker's own process, and how everybody else's are confined. Called by `workers.node`."""

from __future__ import annotations

from contracts.protocol.hexes import checksum
from workers.errors import SandboxMissing
from workers.models.sandbox import Confinement, find_bubblewrap
from workers.settings import WorkerSettings

REMEDY = (
    "Install bubblewrap (apt install bubblewrap) on a machine that allows user namespaces; or name the owner in "
    "WORKER_TRUSTED_OWNERS; or, where a fault may cost you this machine's user, set WORKER_ISOLATION=limits."
)


def confinement_for(owner: bytes, *, ours: frozenset[bytes], settings: WorkerSettings) -> Confinement | None:
    """Return how a model of this owner is confined, None if it may run in the worker's own process.

    `ours` are the worker's and its operator's addresses.

    Raises:
        SandboxMissing: the owner is a stranger, and there is no sandbox here.
    """
    if settings.isolation == "off":
        return None
    trusted = owner in ours or owner in settings.trusted_owner_addresses
    if trusted and settings.isolation != "always":
        return None
    found = find_bubblewrap()
    if found.program is None and not trusted and settings.isolation != "limits":
        raise SandboxMissing(
            f"its owner {checksum(owner)} is not trusted here and {found.fault}.",
            field="WORKER_ISOLATION",
            remedy=REMEDY,
        )
    return confined(settings, bubblewrap=found.program)


def confinement_of_folder(settings: WorkerSettings) -> Confinement | None:
    """Return how a package in a folder is confined, whose owner nobody names: as well as can be here."""
    return None if settings.isolation == "off" else confined(settings, bubblewrap=find_bubblewrap().program)


def confined(settings: WorkerSettings, *, bubblewrap: str | None) -> Confinement:
    """Return the limits of a model's process."""
    return Confinement(
        bubblewrap=bubblewrap,
        memory_bytes=settings.memory_budget_bytes,
        load_seconds=settings.trial_seconds or 600.0,
        run_seconds=settings.run_seconds,
    )
