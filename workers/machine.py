"""What there is to know of the machine that a worker runs on: cards, disk, memory, ports, tools.

Looks and never changes anything; a tool that is missing or fails means "none", not an error. Called by the commands and
by the metrics.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SMI_SECONDS = 10.0
_SMI_QUERY = "name,memory.total,memory.used,utilization.gpu,driver_version"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA card; memory in bytes, `busy` from 0 to 1, None where the driver does not tell."""

    name: str
    memory_bytes: int | None
    used_bytes: int | None
    busy: float | None
    driver: str


def find_gpus() -> list[Gpu]:
    """Return the NVIDIA cards that `nvidia-smi` sees; none where it is not installed or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_SMI_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_SMI_QUERY.split(",")):
        return None
    name, total, used, busy, driver = fields
    total_mib, used_mib, percent = (_number(text) for text in (total, used, busy))
    return Gpu(
        name,
        None if total_mib is None else int(total_mib * _MIB),
        None if used_mib is None else int(used_mib * _MIB),
        None if percent is None else percent / 100,
        driver,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A], as cards with shared memory say
        return None


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or will be."""
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def can_write(folder: Path) -> bool:
    """Tell whether a folder can be made or written in."""
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def memory_bytes() -> int:
    """Return the machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a TCP port can be listened on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def gibibytes(count: int) -> str:
    """Write a number of bytes for people, rounded down to a tenth of a GiB."""
    tenths = count * 10 // (1 << 30)
    return f"{tenths // 10}.{tenths % 10} GiB"
