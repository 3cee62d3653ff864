"""`make soak`: half an hour of paid requests at 70 % of what this machine can do; nothing may grow, and p99 must stay.

Measures the capacity first (closed loop, 64 connections), then sends the mixture of `benchmarks.mixture` in an open
loop at a share of it, in windows, with settlement going on. After a warm-up the straight line through what every
program takes must not rise by more than a stated tolerance. Prints a table, writes it with all windows to `--out`, and
with `--record` into a document between its marks. Exit status 1 if the verdict is bad.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import verdict
from benchmarks.mixture import CLASSES, SESSION, Driver, Mixture
from benchmarks.models import build
from benchmarks.servers import OwnMarket
from benchmarks.watch import Watch, database_bytes
from market.devnet.process import terminate_as_interrupt

CONNECTIONS = 64
CAPACITY_SECONDS = 8.0
CAPACITY_RUNS = 3
# Enough for what may be sent in a closed loop; never sent ones are only wasted.
MOST_A_SECOND = 12_000
SETTLE_SECONDS = 20.0
WARM_UP = 0.2


def capacity(driver: Driver, mixture: Mixture, *, only: int | None = None) -> float:
    """Return answers per second in a closed loop, the best of some runs after one to warm up."""
    rates = []
    for seconds in (3.0, *[CAPACITY_SECONDS] * CAPACITY_RUNS):
        most = max(rates, default=MOST_A_SECOND / 3) * 1.5
        requests = mixture.write(int(most * seconds) + 100, only=only)
        found = driver.run(requests, connections=CONNECTIONS, seconds=seconds)
        rates.append(found["rps"])
        print(f"capacity: {found['rps']:.0f}/s, p50 {found['p50']:.1f}, p99 {found['p99']:.1f} ms", file=sys.stderr)
    return max(rates[1:])


def soak(own: OwnMarket, driver: Driver, mixture: Mixture, *, rate: float, minutes: float, window: float) -> dict:
    """Send for so long; returns the windows and what was sampled."""
    watch, windows, began = Watch(own.local), [], time.monotonic()
    size = database_bytes(own.local)
    before = driver.answered
    watch.start()
    requests = mixture.write(int(rate * window) + 1)
    while time.monotonic() - began < 60 * minutes:
        running = driver.start(requests, connections=CONNECTIONS, seconds=window, rate=rate)
        requests = mixture.write(int(rate * window) + 1)
        found = driver.finish(running)
        at = time.monotonic() - began
        windows.append({"minute": round(at / 60, 2), **found})
        tiny = found["classes"][SESSION]
        print(
            f"{at / 60:5.1f} min  {found['rps']:6.0f}/s  tiny p50 {tiny['p50']:6.2f}  p99 {tiny['p99']:7.2f} ms  "
            f"refused {found['refused']} broken {found['broken']} unsent {found['unsent']}",
            file=sys.stderr,
            flush=True,
        )
    watch.stop()
    served = driver.answered - before
    samples = [{**vars(sample), "at": round(sample.at - began, 1)} for sample in watch.samples]
    return {
        "windows": windows,
        "samples": samples,
        "requests": served,
        "database bytes a request": round((database_bytes(own.local) - size) / max(1, served)),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity that is measured first")
    parser.add_argument("--window", type=float, default=15.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, instead of a share of the capacity")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--record", type=Path, help="a document with the marks <!-- soak --> and <!-- end of soak -->")
    options = parser.parse_args()
    with terminate_as_interrupt(), tempfile.TemporaryDirectory(prefix="market-soak-") as name:
        scratch = Path(name)
        workloads = build(scratch / "packages")
        with OwnMarket(list(workloads.values()), scratch, settle_seconds=SETTLE_SECONDS) as own:
            driver, mixture = Driver(own, scratch), Mixture(own, workloads, scratch)
            most = capacity(driver, mixture) if not options.rate else options.rate / options.share
            found = soak(
                own, driver, mixture, rate=most * options.share, minutes=options.minutes, window=options.window
            )
            found |= {"capacity": most, "share": options.share, "charges": driver.charges_agree(mixture)}
    rows = verdict.of_soak(found, warm_up=WARM_UP)
    p99 = {CLASSES[kind]: _middle(found, kind, "p99") for kind in CLASSES}
    p50 = {CLASSES[kind]: _middle(found, kind, "p50") for kind in CLASSES}
    facts = [
        f"{verdict.conditions()}. Capacity {most:.0f} requests a second at {CONNECTIONS} connections; "
        f"{options.minutes:g} minutes at {100 * options.share:g} % of it, {found['requests']} answers. "
        + "; ".join(f"{kind}: p50 {p50[kind]:.1f} ms, p99 {p99[kind]:.1f} ms" for kind in p50)
        + f". The database grew by {found['database bytes a request']} bytes a request."
    ]
    sys.exit(verdict.report("soak", facts, rows, found, out=options.out, record=options.record))


def _middle(found: dict, kind: int, what: str) -> float:
    return statistics.median(window["classes"][kind][what] for window in found["windows"])


if __name__ == "__main__":
    main()
