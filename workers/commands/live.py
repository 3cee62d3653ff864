"""The live view of `worker run`: the worker is a child that writes logs and metrics to files, this process shows them.

So nothing that is drawn stands in the way of a job, and the view's end is the worker's orderly end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from contracts.protocol.money import format_amount
from workers.link.programs import die_with_parent
from workers.machine import gibibytes
from workers.metrics import read_families
from workers.settings import WorkerSettings

LOOK_SECONDS = 1.0
WINDOW_SECONDS = 10.0
LOG_LINES = 8
Key = tuple[str, tuple[tuple[str, str], ...]]
Values = Mapping[Key, float]


def watch(settings: WorkerSettings, gateway: str | None, *, workers: int | None, env_file: Path | None) -> int:
    """Run the worker as a child and show it until it ends; returns its status."""
    state = settings.state_dir.expanduser()
    state.mkdir(parents=True, exist_ok=True)
    log_file = state / "worker.log"
    with tempfile.TemporaryDirectory(prefix="worker-live-") as folder, log_file.open("ab") as sink:
        beginning = sink.tell()
        metrics_file = Path(folder) / "live.prom"
        command = [sys.executable, "-c", "from workers.cli import main; main()", "run", "--plain"]
        command += ["--metrics-file", str(metrics_file)]
        command += [] if env_file is None else ["--env-file", str(env_file)]
        command += [] if gateway is None else ["--gateway", gateway]
        command += [] if workers is None else ["--workers", str(workers)]
        # A session of its own: Ctrl-C in the terminal is for the view, which then asks the worker to end in order.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        stopping = threading.Event()

        def stop(_number: int, _frame: FrameType | None) -> None:
            if not stopping.is_set():
                stopping.set()
                child.terminate()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        where = gateway or settings.gateway_url or "own lane"
        history: deque[tuple[float, Values]] = deque()
        console = Console()
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as screen:
            while child.poll() is None:
                look(history, metrics_file)
                said = tail(log_file, beginning)
                screen.update(draw(history, said, where=where, stopping=stopping.is_set()), refresh=True)
                _wait(child, LOOK_SECONDS)
        for line in tail(log_file, beginning):
            console.print(line, markup=False, highlight=False)
        console.print(f"ended with status {child.returncode}; the whole log: {log_file}", markup=False, highlight=False)
        return child.returncode


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def look(history: deque[tuple[float, Values]], metrics_file: Path) -> None:
    """Add the newest values, and forget those that are older than the window."""
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read_families(metrics_file)
        for sample in family.samples
    }
    if values:
        history.append((time.monotonic(), values))
    while len(history) > 1 and history[-1][0] - history[0][0] > WINDOW_SECONDS:
        history.popleft()


def tail(log_file: Path, beginning: int) -> list[str]:
    """Return the newest lines of the log of this run."""
    with log_file.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        source.seek(max(beginning, size - 16_384))
        return source.read().decode(errors="replace").splitlines()[-LOG_LINES:]


def total(values: Values, name: str, **labels: str) -> float:
    """Add up a metric over all processes and the labels that are not named."""
    return sum(value for (one, given), value in values.items() if one == name and labels.items() <= dict(given).items())


def rate(history: Sequence[tuple[float, Values]], name: str, **labels: str) -> float:
    """Return a counter's increase a second over the window; 0 where it fell, as after a process died."""
    if len(history) < 2:
        return 0.0
    (before, first), (now, last) = history[0], history[-1]
    return max(0.0, total(last, name, **labels) - total(first, name, **labels)) / max(now - before, 1e-9)


def quantile_ms(history: Sequence[tuple[float, Values]], name: str, share: float) -> float | None:
    """Return the upper bound of the bucket in which that share of the window's observations lies, milliseconds."""
    if len(history) < 2:
        return None
    counts: dict[float, float] = {}
    for values, sign in ((history[-1][1], 1), (history[0][1], -1)):
        for (one, given), value in values.items():
            if one == f"{name}_bucket":
                bound = float(dict(given)["le"])
                counts[bound] = counts.get(bound, 0.0) + sign * value
    most = max(counts.values(), default=0.0)
    if most <= 0:
        return None
    return min(bound for bound, count in counts.items() if count >= share * most) * 1_000


def draw(history: Sequence[tuple[float, Values]], said: Sequence[str], *, where: str, stopping: bool) -> RenderableType:
    """Draw the newest values and the newest lines of the log."""
    values = history[-1][1] if history else {}
    table = Table.grid(padding=(0, 2))
    for name, value in rows(history, values):
        table.add_row(Text(name, style="bold"), Text(value))
    state = "stopping; jobs in hand are finished" if stopping else _state(values, where)
    return Group(
        Panel(table, title=f"worker · {where} · {state}", title_align="left"),
        Panel(Text("\n".join(said) or "…", overflow="ellipsis", no_wrap=True), title="log", title_align="left"),
        Text("Ctrl-C stops in order", style="dim"),
    )


def _state(values: Values, where: str) -> str:
    if not total(values, "worker_served_models"):
        return "starting"
    if where != "own lane" and not total(values, "worker_linked"):
        return "not linked"
    return "serving"


def rows(history: Sequence[tuple[float, Values]], values: Values) -> list[tuple[str, str]]:
    """Say each number for people."""
    done, ok = total(values, "worker_jobs_total"), total(values, "worker_jobs_total", code="ok")
    middle, slow = (quantile_ms(history, "worker_pack_seconds", share) for share in (0.5, 0.95))
    providers = sorted({dict(given)["provider"] for name, given in values if name == "worker_served_models"})
    made, read = (rate(history, "worker_tokens_total", kind=kind) for kind in ("generated", "read"))
    waiting, flying = total(values, "worker_queue_packs"), total(values, "worker_jobs_in_flight")
    found = [
        ("models", f"{total(values, 'worker_served_models'):.0f} on {', '.join(providers) or '…'}"),
        (
            "requests",
            f"{rate(history, 'worker_jobs_total'):.1f}/s   {done:.0f} in all, {done - ok:.0f} refused or failed",
        ),
        ("tokens", f"{made:.1f}/s generated   {read:.1f}/s read"),
        ("earned", f"{format_amount(int(total(values, 'worker_earned_units_total')))} since the start"),
        ("latency", f"half within {_ms(middle)}, 95 % within {_ms(slow)}, a pack of jobs"),
        ("queue", f"{waiting:.0f} packs wait   {flying:.0f} jobs in flight"),
        ("stake", _stake(values)),
    ]
    for name, given in sorted(values):
        if name == "worker_gpu_memory_used_bytes":
            card = dict(given)["gpu"]
            used, size = values[name, given], total(values, "worker_gpu_memory_bytes", gpu=card)
            busy = total(values, "worker_gpu_busy_ratio", gpu=card)
            found.append((f"GPU {card}", f"{gibibytes(int(used))} of {gibibytes(int(size))}   {busy:.0%} busy"))
    return found


def _stake(values: Values) -> str:
    if not total(values, "worker_chain_reached"):
        return "the chain's node does not answer" if values else "…"
    text = format_amount(int(total(values, "worker_stake_units")))
    thawing = int(total(values, "worker_stake_thawing_units"))
    return f"{text}, of which {format_amount(thawing)} thaws" if thawing else text


def _ms(value: float | None) -> str:
    if value is None:
        return "…"
    return "more than any bucket" if value == float("inf") else f"{value:g} ms"
