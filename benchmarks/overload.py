"""`make overload`: three times what this machine can answer; it must go on answering and refuse the rest quickly.

For each of two workloads, tiny tensors (the gateway is the bottleneck) and embeddings (the worker is): measures the
capacity in a closed loop, then sends three times that in an open loop, to which it is all the same what becomes of a
request. Requests that find no free connection within a second are not sent, as of clients that give up. Afterwards
exactly what was answered must be charged. Prints a table and writes it like `benchmarks.soak`. Exit status 1 if the
verdict is bad.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import verdict
from benchmarks.mixture import CLASSES, EMBED, SESSION, Driver, Mixture
from benchmarks.models import build
from benchmarks.servers import OwnMarket
from benchmarks.soak import SETTLE_SECONDS, capacity
from market.devnet.process import terminate_as_interrupt

CONNECTIONS = 512


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each overload")
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument(
        "--queue", type=float, default=0.1, help="MARKET_MAX_QUEUE_SECONDS: low enough that the connections can fill it"
    )
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--record", type=Path, help="a document with the marks <!-- overload --> and its end")
    options = parser.parse_args()
    os.environ["MARKET_MAX_QUEUE_SECONDS"] = str(options.queue)
    rows, results = [], {}
    with terminate_as_interrupt(), tempfile.TemporaryDirectory(prefix="market-overload-") as name:
        scratch = Path(name)
        workloads = build(scratch / "packages")
        with OwnMarket(list(workloads.values()), scratch, settle_seconds=SETTLE_SECONDS) as own:
            driver, mixture = Driver(own, scratch), Mixture(own, workloads, scratch)
            for kind in (EMBED, SESSION):
                peak = capacity(driver, mixture, only=kind)
                rate = options.factor * peak
                requests = mixture.write(1_000, only=kind)
                found = driver.run(requests, connections=CONNECTIONS, seconds=options.seconds, rate=rate)
                time.sleep(1.0)
                found |= {"peak": peak, "offered": rate, "seconds": options.seconds}
                found["charges"] = driver.charges_agree(mixture)
                after = driver.run(requests, connections=16, seconds=5.0)
                found["afterwards"] = after["rps"]
                results[CLASSES[kind]] = found
                rows += verdict.of_overload(CLASSES[kind], peak, found)
    load = f"{options.factor:g} × the capacity for {options.seconds:g} s, {CONNECTIONS} connections"
    load += f", refused where more waits than {options.queue:g} s of work"
    facts = [f"{verdict.conditions()}. {load}."]
    sys.exit(verdict.report("overload", facts, rows, results, out=options.out, record=options.record))


if __name__ == "__main__":
    main()
