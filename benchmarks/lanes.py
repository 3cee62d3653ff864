"""Own lane and link lane side by side: the same market twice, measured in turns; what counts are the ratios.

Run as `python -m benchmarks.lanes`. Targets: throughput through the link at 64 clients at least 0.8 of the own lane's,
added median latency at one client at most 1 ms.
"""

import argparse
import json
import os
import statistics

from benchmarks.models import build
from benchmarks.servers import OwnMarket, build_load_generator, load, scratch_folder

CONNECTIONS = (1, 64)
WARM_SECONDS = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--workloads", default="tiny,embed")
    options = parser.parse_args()
    scratch = scratch_folder()
    print(f"logs and files: {scratch}", flush=True)
    program = build_load_generator(scratch)
    workloads = build(scratch / "packages")
    summary = {}
    with (
        OwnMarket(list(workloads.values()), scratch) as own,
        OwnMarket(list(workloads.values()), scratch, linked=True) as link,
    ):
        for name in options.workloads.split(","):
            workload = workloads[name]
            lanes = [
                (lane, market.paid(f"{lane} {name}", workload, vouchers=1))
                for lane, market in (("own", own), ("link", link))
            ]
            cells: dict[tuple[str, int], list[dict[str, float]]] = {}
            for number in range(options.rounds):
                for lane, server in lanes if number % 2 else reversed(lanes):
                    load(program, server, 16, WARM_SECONDS)
                    for connections in CONNECTIONS:
                        cell = load(program, server, connections, options.seconds)
                        cells.setdefault((lane, connections), []).append(cell)
                        print(
                            f"{name} round {number + 1} {lane:4s} c={connections:2d} {cell['rps']:8.1f}/s"
                            f"  p50 {cell['p50']:.2f} ms  p99 {cell['p99']:.2f} ms"
                            f"  refused {cell['refused']} broken {cell['broken']}  load {os.getloadavg()[0]:.1f}",
                            flush=True,
                        )
            summary[name] = _summary(cells)
    print(json.dumps(summary, indent=1))


def _summary(cells: dict[tuple[str, int], list[dict[str, float]]]) -> dict[str, float]:
    def median(lane: str, connections: int, what: str) -> float:
        return statistics.median(cell[what] for cell in cells[lane, connections])

    return {
        "throughput at 64, link / own": round(median("link", 64, "rps") / median("own", 64, "rps"), 3),
        "p99 at 64, link / own": round(median("link", 64, "p99") / median("own", 64, "p99"), 3),
        "p50 at 1, link - own, ms": round(median("link", 1, "p50") - median("own", 1, "p50"), 3),
        "p50 at 1, link / own": round(median("link", 1, "p50") / median("own", 1, "p50"), 3),
    }


if __name__ == "__main__":
    main()
