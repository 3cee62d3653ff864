"""Medians, ratios, the page and its plot."""

import datetime as dt
import os
import platform
import re
import statistics
from pathlib import Path

Cells = dict[str, dict[str, list[dict[str, float]]]]
SESSION, EACH = "market, session voucher", "market, voucher and id each"
UNPAID = "market, all payment taken out"
OURS = (SESSION, EACH, UNPAID)
BEGIN, END = "<!-- measured by `make bench`: begin -->", "<!-- end -->"


def memory_of(pids: dict[str, int]) -> dict[str, float]:
    """Return the resident memory of processes at rest, MB."""
    found = {}
    for name, pid in pids.items():
        status = Path(f"/proc/{pid}/status")
        if status.exists():
            match = re.search(r"VmRSS:\s+(\d+)", status.read_text())
            found[name] = int(match[1]) / 1024 if match else 0.0
    return found


def machine() -> str:
    """Name the processor, its cores, the system and the runtime."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s+: (.+)", cpuinfo.read_text())
        model = match[1] if match else model
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{model}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def middle(cells: Cells, server: str, connections: str, what: str) -> float:
    return statistics.median(cell[what] for cell in cells[server][connections])


def write(out: Path, results: dict[str, Cells], raw, facts, *, rounds: int, seconds: float) -> None:
    """Write the measured part of the page, keeping what stands around it, and the plot."""
    when = f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d %H:%M} UTC"
    said = (
        f"Measured {when} on {machine()}; {rounds} interleaved rounds of {seconds:g} s a cell, medians. Load "
        "generator, gateway, Valkey, database, EVM node and worker share the machine. Peers are unpaid; the market's "
        "figures are paid, receipted and durable."
    )
    lines = [said, ""]
    for name, cells in results.items():
        lines += _table(name, cells)
    lines += _ratios(results, raw)
    if facts.get("memory"):
        lines += [
            "Resident memory at rest, MB: " + ", ".join(f"{k} {v:.0f}" for k, v in facts["memory"].items()) + ".",
            "",
        ]
    page = out / "performance.md"
    text = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"{END}{tail}")
    (out / "performance.svg").write_text(_plot(results))


def _table(name: str, cells: Cells) -> list[str]:
    title = {
        "tiny": "`tiny`: a 4-16-16-3 perceptron, all overhead",
        "embed": "`embed`: MiniLM int8, 32 tokens, all compute",
    }
    columns = sorted({c for row in cells.values() for c in row}, key=int)
    lines = [f"### {title[name]}", "", "Requests a second (p50 / p99 ms) by number of connections.", ""]
    lines.append("| server | " + " | ".join(f"c={c}" for c in columns) + " | refused |")
    lines.append("|---|" + "---|" * (len(columns) + 1))
    order = sorted(cells, key=lambda server: (server not in OURS, -middle(cells, server, columns[-1], "rps")))
    for server in order:
        row = [
            f"{middle(cells, server, c, 'rps'):.0f} ({middle(cells, server, c, 'p50'):.2f} / "
            f"{middle(cells, server, c, 'p99'):.2f})"
            for c in columns
        ]
        bad = sum(int(cell["refused"] + cell["broken"]) for c in columns for cell in cells[server][c])
        mark = "**" if server in OURS else ""
        lines.append(f"| {mark}{server}{mark} | " + " | ".join(row) + f" | {bad} |")
    return [*lines, ""]


def _ratios(results: dict[str, Cells], raw) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    tiny = results.get("tiny", {})
    if SESSION in tiny:
        for c, reach in (("64", "≥ 0.6, then 1.0"), ("16", "≥ 0.5, then 0.8")):
            if "triton" in tiny:
                ratio = middle(tiny, SESSION, c, "rps") / middle(tiny, "triton", c, "rps")
                rows.append((f"tiny c={c}, paid / triton unpaid, throughput", reach, f"{ratio:.2f}"))
        if "triton" in tiny:
            ratio = middle(tiny, SESSION, "1", "p50") / middle(tiny, "triton", "1", "p50")
            rows.append(("tiny c=1 p50, paid / triton unpaid", "≤ 3, then 2", f"{ratio:.1f}"))
        for peer in ("kserve", "mlserver", "litserve", "bentoml", "ray"):
            if peer in tiny:
                ratio = middle(tiny, SESSION, "64", "rps") / middle(tiny, peer, "64", "rps")
                rows.append((f"tiny c=64, paid / {peer} unpaid", "≥ 3, then 8", f"{ratio:.1f}"))
        for above, below, what, reach in (
            (SESSION, UNPAID, "session voucher / all payment taken out", "≥ 0.85"),
            (EACH, UNPAID, "voucher and id each / all payment taken out", "≥ 0.6"),
            (EACH, SESSION, "voucher and id each / session voucher", ""),
        ):
            if above in tiny and below in tiny:
                ratio = middle(tiny, above, "64", "rps") / middle(tiny, below, "64", "rps")
                rows.append((f"tiny c=64, {what}", reach, f"{ratio:.2f}"))
    embed = results.get("embed", {})
    if SESSION in embed and raw.get("embed"):
        best = max(statistics.median(one[size] for one in raw["embed"]) for size in raw["embed"][0])
        for c in ("16", "64"):
            ratio = middle(embed, SESSION, c, "rps") / best
            rows.append(
                (
                    f"embed c={c}, paid / onnxruntime alone at its best batch ({best:.0f} rows/s)",
                    "≥ 0.9, then 0.95",
                    f"{ratio:.2f}",
                )
            )
            if "triton" in embed:
                ratio = middle(embed, SESSION, c, "rps") / middle(embed, "triton", c, "rps")
                rows.append((f"embed c={c}, paid / triton unpaid", "", f"{ratio:.2f}"))
    if not rows:
        return []
    return [
        "### Ratios",
        "",
        "| ratio | reach | measured |",
        "|---|---|---|",
        *(f"| {a} | {b} | {c} |" for a, b, c in rows),
        "",
    ]


def _plot(results: dict[str, Cells]) -> str:
    """Draw throughput at the most connections as bars, one panel a workload."""
    bar, gap, left, width = 22, 8, 210, 760
    parts, y = [], 20
    for name, cells in results.items():
        last = max((c for row in cells.values() for c in row), key=int)
        rates = {server: middle(cells, server, last, "rps") for server in cells}
        top = max(rates.values())
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{name}, {last} connections, requests/s</text>')
        y += 14
        for server, rate in sorted(rates.items(), key=lambda item: -item[1]):
            color = "#c2410c" if server in OURS else "#64748b"
            length = max(1, (width - left - 70) * rate / top)
            parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{server}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{bar}" fill="{color}"/>')
            parts.append(f'<text x="{left + length + 6:.0f}" y="{y + 15}">{rate:.0f}</text>')
            y += bar + gap
        y += 26
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="13">\n'
        f'<rect width="{width}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )
