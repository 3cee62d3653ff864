"""`python -m benchmarks.generations`: texts made at once by one worker's generating process, together and in turns.

The same model twice, each in its own process, measured in turns of the two: 1, 4 and 8 texts side by side, greedy, with
and without a seed. Prints tokens a second and the ratio, by the wall clock and by the processes' time. Needs a model
folder in genai's layout: MARKET_TEST_LLM or ../shared/models (see tests/support/llm.py).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.llm import MESSAGES, package
from benchmarks.watch import processor_seconds
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from tests.support import llm, models
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import read_request
from workers.models.generation.trial import run_trials

STREAMS = (1, 4, 8)


def used(model: GenerationModel) -> float:
    """Return the seconds of processor time that a model's process has had."""
    process: subprocess.Popen[bytes] = vars(model)["_process"]
    return processor_seconds(process.pid)


def run(model: GenerationModel, streams: int, tokens: int, seed: int | None) -> tuple[float, float]:
    """Return tokens a second by the wall clock and by processor time, prompts included."""
    prompt = [Tensor.from_numpy("prompt", np.array([json.dumps(MESSAGES)], dtype=object))]
    parameters = {"format": "chat", "max_tokens": tokens, "temperature": 0} | ({} if seed is None else {"seed": seed})
    request = read_request(model.manifest, prompt, parameters)
    before, started = used(model), time.perf_counter()
    trials = run_trials(model, request, count=streams, seconds=600)
    made = sum(one.end.completion_tokens for one in trials if one.end is not None)
    return made / (time.perf_counter() - started), made / max(used(model) - before, 0.01)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    source = llm.find()
    if source is None:
        sys.exit("no model: set MARKET_TEST_LLM to a folder in onnxruntime-genai's layout")
    with tempfile.TemporaryDirectory(prefix="bench-generations-") as scratch:
        folder = package(source, Path(scratch) / "chat")
        fetched = models.fetched(folder, Manifest.parse((folder / "manifest.json").read_bytes()))
        given = {"provider": "cpu", "threads": options.threads, "most_active": max(STREAMS), "cache_bytes": 2 << 30}
        ways = {
            "in turns": (GenerationModel(fetched, together=False, **given), None),
            "together": (GenerationModel(fetched, **given), None),
        }
        ways["together, seed"] = (ways["together"][0], 1)
        seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
        try:
            for number in range(options.rounds + 1):  # the first warms up
                for name in list(ways) if number % 2 else list(ways)[::-1]:
                    for streams in STREAMS:
                        found = run(ways[name][0], streams, options.tokens if number else 8, ways[name][1])
                        if number:
                            seen.setdefault((name, streams), []).append(found)
        finally:
            for model, _ in ways.values():
                model.close()
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.0f}, {options.rounds} rounds of {options.tokens} tokens, medians"
    )
    print(f"{'':16}" + "".join(f"{streams:>6} streams: tokens/s, a CPU second" for streams in STREAMS))
    for name in ways:
        cells = [[statistics.median(column) for column in zip(*seen[name, n], strict=True)] for n in STREAMS]
        print(f"{name:16}" + "".join(f"{wall:22.1f} {spent:10.1f}    " for wall, spent in cells))


if __name__ == "__main__":
    main()
