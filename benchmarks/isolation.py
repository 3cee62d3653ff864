"""What a process of its own costs a model: one batch in the worker's process, and in the model's, side by side.

    python -m benchmarks.isolation [--runs 2000]

Runs of both kinds alternate, so that whatever else the machine does falls on both. Prints microseconds of a pack: the
quickest (2nd percentile), the median, and processor time of both processes together.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from contracts.protocol.manifest import FILENAME, Manifest
from contracts.protocol.tensors import Tensor
from market.demo import minilm
from workers.models.isolated.model import IsolatedModel
from workers.models.opening import open_model
from workers.models.sandbox import Confinement, find_bubblewrap
from workers.models.serving import Request, serve
from workers.models.store import Package

from .models import build
from .watch import processor_seconds

SENTENCE = "The quick brown fox jumps over the lazy dog while the market settles its receipts on the chain tonight."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        for name, package, tensor in cases(Path(folder)):
            inside = open_model(package, entry=package.manifest.entry, provider="cpu", threads=1)
            places = {"limits": None, "bubblewrap": find_bubblewrap().program}
            outside = {
                place: IsolatedModel(package, confinement=Confinement(program, 4 << 30))
                for place, program in places.items()
                if place == "limits" or program
            }
            for rows in (1, 8):
                inside.batch_cap = rows
                requests = [Request([tensor], {})] * rows
                ways = {"worker": (lambda r=requests, m=inside: list(serve(m, r)), None)}
                for place, model in outside.items():
                    ways[place] = (lambda r=requests, m=model: list(m.serve(r)), model.pid)
                print(f"{name}, {rows} request(s) a pack:", *told(ways, runs if name == "tiny" else runs // 10))
            for model in outside.values():
                model.close()


def told(ways, runs):
    taken = {name: [] for name in ways}
    for _ in range(runs):
        for name, (run, _) in ways.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    for name, seconds in taken.items():
        run, pid = ways[name]
        before = cpu_seconds(pid)
        for _ in range(runs):
            run()
        cpu = (cpu_seconds(pid) - before) / runs
        least, median = np.quantile(seconds, 0.02) * 1e6, np.median(seconds) * 1e6
        yield f"{name} p2 {least:.0f} p50 {median:.0f} cpu {cpu * 1e6:.0f} us;"


def cpu_seconds(pid):
    """Return the processor time of this process and of those under `pid`."""
    total, waiting = time.process_time(), [pid] if pid else []
    while waiting:
        one = waiting.pop()
        total += processor_seconds(one)
        waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total


def cases(folder):
    tiny = build(folder)["tiny"]
    yield "tiny", opened(tiny.package), Tensor.from_numpy("x", np.ones((1, 4), "f4"))
    minilm.build_text_package(folder / "minilm")
    text = Tensor.from_numpy("text", np.array([SENTENCE], dtype=object))
    yield "MiniLM", opened(folder / "minilm"), text


def opened(folder):
    manifest = Manifest.parse((folder / FILENAME).read_bytes())
    return Package(manifest.model_id, manifest, folder)


if __name__ == "__main__":
    main()
