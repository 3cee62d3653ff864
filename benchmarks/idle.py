"""`make bench-idle`: what a running market costs while nobody is served: processor time of each program, by the kernel.

Starts the whole market, pays for one request, so that every part has had something to do, waits, and reads what the
kernel has counted for each program and its children.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks import verdict
from benchmarks.watch import family, processor_seconds
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.devnet.process import Child, terminate_as_interrupt

SETTLE_SECONDS = 15.0
DEPOSIT = 1_000_000


def spent(child: Child) -> float:
    """Return the processor time of a program and its children so far, seconds."""
    return sum(map(processor_seconds, family(child)))


def shares(local: LocalMarket, seconds: float) -> dict[str, float]:
    """Return each program's share of a core over so many seconds."""
    children, began = local.supervisor.children, time.monotonic()
    before = [spent(child) for child in children]
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {child.name: (spent(child) - was) / passed for child, was in zip(children, before, strict=True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--linked", action="store_true", help="the worker is another operator's node")
    options = parser.parse_args()
    with (
        terminate_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="market-idle-") as name,
        LocalMarket(Options(Path(name), keep_state=False, linked=options.linked)) as local,
    ):
        local.start()
        with local.client(DEPOSIT) as market:
            market.infer(minilm.NAME, minilm.tokenize(minilm.load_tokenizer(), ["A man is eating."]))
        time.sleep(SETTLE_SECONDS)
        found = shares(local, options.seconds)
    print(f"{verdict.conditions()}; {options.seconds:g} s")
    for program, share in found.items():
        print(f"{program:8} {100 * share:5.2f} % of a core")
    print(f"{'all':8} {100 * sum(found.values()):5.2f} % of a core")


if __name__ == "__main__":
    main()
