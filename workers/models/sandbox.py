"""Starts the program that runs a stranger's model: in a sandbox, with limits, without the worker's environment.

Under bubblewrap the program has no network, sees its package and the programs read-only and nothing else, and no other
process. Without it only the limits hold: faults stay inside, but it could read what the worker's user can read.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# Address space of the libraries and of the thread that watches the time, beside what the model may take.
EXTRA_MEMORY_BYTES = (2 << 30) + (128 << 20)
MOST_FILES = 256
PROBE_SECONDS = 10
ROOT = Path(__file__).parents[2]
_CUT_OFF = ("--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session")
# Of /sys the processors' layout only: runtimes choose threads by it.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/sys/devices/system/cpu")
_ROOM = ("--proc", "/proc", "--dev", "/dev")
_CARDS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_CARD_VARIABLES = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
_PR_SET_PDEATHSIG = 1
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Confinement:
    """How a model that is not trusted runs; `bubblewrap` is the program, None for limits only.

    `load_seconds` is the time to open it, `run_seconds` the most that a batch may take.
    """

    bubblewrap: str | None
    memory_bytes: int
    load_seconds: float = 120.0
    run_seconds: float = 10.0


class Bubblewrap(NamedTuple):
    """The sandbox's program if it works here, else what is the matter."""

    program: str | None
    fault: str = ""


@functools.cache
def find_bubblewrap() -> Bubblewrap:
    """Look for bubblewrap and whether this machine lets it make namespaces, as many a container does not."""
    program = shutil.which("bwrap")
    if program is None:
        return Bubblewrap(None, "bubblewrap is not installed")
    probe = [program, *_CUT_OFF, "--ro-bind", "/", "/", *_ROOM, "true"]
    try:
        done = subprocess.run(
            probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Bubblewrap(None, f"bubblewrap does not run here ({type(error).__name__})")
    if done.returncode:
        return Bubblewrap(None, f"bubblewrap does not work here ({done.stderr.strip()[:200]})")
    return Bubblewrap(program)


def start(
    module: str,
    said: Mapping[str, Any],
    *,
    folder: Path,
    provider: str,
    confinement: Confinement,
    also: Sequence[Path] = (),
    writable: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start one of our programs with its orders and a socket; returns the process and the socket's other end.

    It sees `folder`, `also` and, to write to, `writable`; to its `environment` come a few words for Python.

    The program calls `limit_here` before it opens anything. Bubblewrap ends it when the calling thread ends.
    """
    cards = provider != "cpu"
    environment = {
        **(environment or {}),
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "LANG": "C.UTF-8",
        **({name: os.environ[name] for name in _CARD_VARIABLES if name in os.environ} if cards else {}),
    }
    orders = {**said, "memory_bytes": confinement.memory_bytes, "cards": cards}
    ours, theirs = socket.socketpair()
    with theirs:
        program = [sys.executable, "-P", "-m", module, json.dumps(orders), str(theirs.fileno())]
        process = subprocess.Popen(
            [*box(folder, confinement, cards=cards, also=also, writable=writable), *program],
            env=environment,
            cwd="/",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return process, ours


def box(
    folder: Path,
    confinement: Confinement,
    *,
    cards: bool = False,
    also: Sequence[Path] = (),
    writable: Path | None = None,
) -> list[str]:
    """Return the words before a program that confine it; none without bubblewrap.

    It may read `folder`, `also` and the programs, and write to `writable`.
    """
    if confinement.bubblewrap is None:
        return []
    shown = {*_SYSTEM, sys.prefix, sys.base_prefix, *(str(ROOT / name) for name in ("contracts", "workers"))}
    shown.update(str(path.resolve()) for path in (folder, *also))
    binds = [word for path in sorted(shown) if Path(path).exists() for word in ("--ro-bind", path, path)]
    devices = [word for path in _CARDS if cards and Path(path).exists() for word in ("--dev-bind", path, path)]
    written = [] if writable is None else ["--bind", str(writable.resolve()), str(writable.resolve())]
    return [confinement.bubblewrap, *_CUT_OFF, *binds, *written, *_ROOM, *devices, "--remount-ro", "/", "--chdir", "/"]


def limit_here(memory_bytes: int, *, cards: bool, writes: int = 0) -> None:
    """Limit this process for good; called by the program before it reads anything of the model.

    CUDA reserves address space by the terabyte, and what converts models by many gigabytes, so that with cards, and
    where `writes` is the most bytes of a file that it makes, its size says nothing: who started this process watches
    its resident memory then.
    """
    with suppress(OSError):  # if memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: writes, resource.RLIMIT_NOFILE: MOST_FILES}
    if not cards and not writes:
        limits[resource.RLIMIT_AS] = memory_bytes + EXTRA_MEMORY_BYTES
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


def resident_bytes(pid: int) -> int:
    """Return the memory that a process and what it started hold, 0 if it is gone."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        with suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_BYTES
            waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total
