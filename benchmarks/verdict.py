"""What soak and overload must show, as rows of a table: what was measured, its tolerance, whether it holds."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mixture import SESSION
from benchmarks.watch import MIB, growth

# How much a line may rise over the measured time: a share of its mean, or this much if that is more.
MEMORY_SHARE, MEMORY_LEAST = 0.05, 8 * MIB
REDIS_LEAST = 4 * MIB
FILES_LEAST = 4
WAITING_LEAST = 64
P99_RATIO = 1.5
P99_LEAST_MS = 5.0
# The development chain keeps every block in memory, as no node of a real network does for it.
NOT_JUDGED = {"chain"}
GOODPUT = 0.9
REFUSAL_MS = 250.0


@dataclass(frozen=True)
class Row:
    """One line: `holds` is None where nothing is demanded."""

    what: str
    measured: str
    tolerance: str
    holds: bool | None

    def __str__(self) -> str:
        mark = {True: "holds", False: "**does not hold**", None: "not judged"}[self.holds]
        return f"| {self.what} | {self.measured} | {self.tolerance} | {mark} |"


def of_soak(found: dict[str, Any], *, warm_up: float) -> list[Row]:
    """Judge a soak after a share of its time."""
    samples, windows = found["samples"], found["windows"]
    samples = samples[int(warm_up * len(samples)) :]
    rows = [_memory(name, samples) for name in samples[0]["memory"]]
    rows += [
        _rise("Valkey's memory", samples, lambda s: s["redis_bytes"], least=REDIS_LEAST, unit=MIB, name="MiB"),
        *(
            _rise(f"open files, {name}", samples, lambda s, n=name: s["files"][n], least=FILES_LEAST)
            for name in samples[0]["files"]
            if name not in NOT_JUDGED
        ),
        _rise("keys in Valkey", samples, lambda s: s["keys"], least=WAITING_LEAST),
        _rise("requests that wait in Valkey", samples, lambda s: s["waiting"], least=WAITING_LEAST),
        _p99(windows[int(warm_up * len(windows)) :]),
    ]
    bad = sum(w["refused"] + w["broken"] + w["unsent"] + w["hanging"] for w in windows)
    rows.append(Row("refused, broken or not sent", str(bad), "0.1 %", bad <= 0.001 * found["requests"]))
    rows.append(Row("charges", found["charges"][1], "exact", found["charges"][0]))
    return rows


def _memory(name: str, samples: Sequence[dict[str, Any]]) -> Row:
    row = _rise(
        f"memory, {name}",
        samples,
        lambda s: s["memory"][name],
        least=MEMORY_LEAST,
        share=MEMORY_SHARE,
        unit=MIB,
        name="MiB",
    )
    return Row(row.what, row.measured, "", None) if name in NOT_JUDGED else row


def _rise(
    what: str,
    samples: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float],
    *,
    least: float,
    share: float = 0.0,
    unit: int = 1,
    name: str = "",
) -> Row:
    points = [(sample["at"], float(value(sample))) for sample in samples]
    mean, rise = statistics.fmean(y for _, y in points), growth(points)
    allowed = max(least, share * mean)
    measured = f"{mean / unit:.1f} {name} in the mean, {rise / unit:+.1f} over the time".replace("  ", " ")
    return Row(what, measured, f"{allowed / unit:+.1f}", rise <= allowed)


def _p99(windows: Sequence[dict[str, Any]]) -> Row:
    third = max(1, len(windows) // 3)
    first, last = (
        statistics.median(window["classes"][SESSION]["p99"] for window in part)
        for part in (windows[:third], windows[-third:])
    )
    holds = last <= max(P99_RATIO * first, first + P99_LEAST_MS)
    return Row("p99 of tiny requests, first and last third", f"{first:.1f} and {last:.1f} ms", f"× {P99_RATIO}", holds)


def of_overload(name: str, peak: float, found: dict[str, Any]) -> list[Row]:
    """Judge an overload."""
    through = (found["requests"] + found["refused"] + found["broken"]) / found["seconds"]
    lost, p99 = found["broken"] + found["hanging"], found["refused_p99"]
    goodput = f"{found['rps']:.0f} of {peak:.0f} a second; {found['offered']:.0f} were due, {through:.0f} were sent"
    refused = f"{found['refused']} {found['statuses']}, p50 {found['refused_p50']:.1f}, p99 {p99:.1f} ms"
    answers = f"p50 {found['p50']:.0f}, p99 {found['p99']:.0f} ms from when they were due"
    return [
        Row(f"{name}: goodput", goodput, f"{100 * GOODPUT:.0f} % of the peak", found["rps"] >= GOODPUT * peak),
        Row(f"{name}: refusals", refused, f"p99 ≤ {REFUSAL_MS:.0f} ms", p99 <= REFUSAL_MS),
        Row(f"{name}: answers", answers, "", None),
        Row(f"{name}: broken or hanging", str(lost), "0", lost == 0),
        Row(f"{name}: charges", found["charges"][1], "exact", found["charges"][0]),
    ]


def conditions() -> str:
    """Say when and where."""
    cores, load = os.cpu_count(), os.getloadavg()[1]
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return f"{when}, {cores} cores ({platform.machine()}), load of the machine at the end {load:.1f}"


def report(
    name: str, facts: Sequence[str], rows: Sequence[Row], found: dict[str, Any], *, out: Path, record: Path | None
) -> int:
    """Print and write the table; returns the exit status."""
    lines = [*facts, "", "| what | measured | tolerance | |", "|---|---|---|---|", *map(str, rows)]
    text = "\n".join(lines)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text + "\n")
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, default=str))
    if record is not None:
        before, mark, rest = record.read_text().partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (mark and end):
            raise SystemExit(f"{record} has no marks <!-- {name} --> and <!-- end of {name} -->")
        record.write_text(f"{before}{mark}{text}\n{end}{after}")
    return 0 if all(row.holds is not False for row in rows) else 1
