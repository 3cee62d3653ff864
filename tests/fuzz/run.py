"""Fuzzes the targets for a while: by atheris, guided by what each input reaches, where it is installed; else blindly.

    make fuzz ARGS="--seconds 60 tensors screening"

Each target runs in a process of its own, so that a crash of native code is a finding too. Findings are written to
`build/fuzz/`. Atheris is no dependency of this project: `uv pip install atheris` adds it to `.venv`.
"""

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

NAMES = (
    "tensors", "body", "grpc", "queue", "link", "screening", "loading", "manifest", "configuration", "outcomes",
)  # fmt: skip
FOUND = Path("build/fuzz")
INSTRUMENTED = ["contracts.protocol", "market.gateway", "workers.models"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(NAMES)}; default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _fuzz(options.targets[0], options.seconds)
        return
    FOUND.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.targets or NAMES:
        words = [sys.executable, "-m", "tests.fuzz.run", "--one", "--seconds", str(options.seconds), name]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        (FOUND / f"{name}.log").write_text(done.stdout + done.stderr)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("#", "Done", "blind"))]
        print(f"{name.ljust(14)} {'ok' if done.returncode == 0 else 'FOUND'}  {said[-1][:100] if said else ''}")
        if done.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"{', '.join(failed)}: see {FOUND}/")


def _fuzz(name: str, seconds: int) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if importlib.util.find_spec("atheris") is None:
        _blindly(name, seconds)
        return
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz import targets
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.SEEDS[name]):
        (corpus / f"seed{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=20"]
    atheris.Setup(
        [name, *limits, f"-artifact_prefix={FOUND}/{name}-", str(corpus)],
        targets.TARGETS[name],
        enable_python_coverage=True,
    )
    atheris.Fuzz()


def _blindly(name: str, seconds: int) -> None:
    from tests.fuzz import targets

    chance = random.Random(time.time_ns())
    until, runs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = mutated(chance, targets.SEEDS[name])
        (FOUND / f"{name}-last").write_bytes(data)
        targets.TARGETS[name](data)
        runs += 1
    print(f"blind: {runs} runs, no atheris")


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one of the seeds, changed here and there."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 5):
            case 0:
                data[at:at] = chance.randbytes(chance.randint(1, 9))
            case 1:
                del data[at : at + chance.randint(1, 9)]
            case 2 if at < len(data):
                data[at] ^= 1 << chance.randint(0, 7)
            case 3:
                data[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
            case 4:
                other = chance.choice(seeds)
                start = chance.randint(0, len(other))
                data[at : at + chance.randint(0, 16)] = other[start : start + chance.randint(0, 64)]
            case _:
                data[at:] = b""
    return bytes(data)


if __name__ == "__main__":
    main()
