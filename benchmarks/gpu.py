"""`python -m benchmarks.gpu`: a worker's way through a batch beside onnxruntime alone, on a machine with a card.

Alone: inputs and outputs bound to device memory, one run after the other. Served: the worker's executor with everything
it does for money, from packs of single-row jobs (price, voucher and hashes checked) to signed receipts; the model, the
batch and the provider are the same. Interleaved rounds, medians, the ratio to reach is 0.8. Without a card
`--provider cpu` shows that the script runs and says nothing of a GPU. Needs no chain, queue or network.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

from benchmarks.models import build
from contracts.protocol.tensors import Tensor
from tests.support.worker import DOMAIN, GATEWAY, UNIT_PRICE, WORKER, FakeChain, make_job
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models.runtime import open_session
from workers.models.sessions import SessionCache
from workers.models.store import Package, PackageStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="cuda", choices=["cuda", "tensorrt", "cpu"])
    parser.add_argument("--package", type=Path, help="model package of integer token ids; default: MiniLM int8")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="market-gpu-bench-") as folder:
        root = Path(folder)
        source = options.package or build(root / "packages")["embed"].package
        package = _fetched(source, root)
        alone, served = Alone(package, options), Worker(package, options)
        rates: dict[str, list[float]] = {"alone": [], "served": []}
        for number in range(options.rounds):
            for name, run in sorted({"alone": alone.run, "served": served.run}.items(), reverse=number % 2 == 1):
                rates[name].append(_rate(run, options.batch, options.seconds))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    report = {
        "machine": platform.platform(),
        "gpu": _gpu(),
        "onnxruntime": ort.__version__,
        "providers": alone.session.get_providers(),
        "batch": options.batch,
        "tokens": options.tokens,
        "rows a second": {name: round(rate, 1) for name, rate in medians.items()},
        "served / alone": round(medians["served"] / medians["alone"], 3),
        "to reach": 0.8,
    }
    print(json.dumps(report, indent=2))


def _fetched(source: Path, root: Path) -> Package:
    store = PackageStore(root / "cache", allow_file_uri=True, max_package_bytes=1 << 40)
    from contracts.protocol.manifest import FILENAME, Manifest

    manifest = Manifest.parse((source / FILENAME).read_bytes())
    return store.get(manifest.model_id, source.resolve().as_uri())


def _rows(package: Package, count: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dtypes = {"INT64": np.int64, "INT32": np.int32}
    given = {}
    for spec in package.manifest.inputs:
        if spec.datatype not in dtypes:
            raise SystemExit(f"{spec.name} is {spec.datatype}; this script feeds token ids.")
        values = rng.integers(1000, 20_000, (count, tokens)) if "ids" in spec.name else np.ones((count, tokens))
        given[spec.name] = (np.zeros_like(values) if "type" in spec.name else values).astype(dtypes[spec.datatype])
    return given


class Alone:
    """The runtime with bound inputs and outputs."""

    def __init__(self, package: Package, options: argparse.Namespace) -> None:
        data = package.read(package.manifest.entry)
        self.session = open_session(data, provider=options.provider, threads=1)
        device = "cpu" if options.provider == "cpu" else "cuda"
        self._binding = self.session.io_binding()
        for name, values in _rows(package, options.batch, options.tokens).items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, device, 0))
        for spec in package.manifest.outputs:
            self._binding.bind_output(spec.name, device)

    def run(self) -> None:
        self.session.run_with_iobinding(self._binding)
        self._binding.copy_outputs_to_cpu()


class Worker:
    """The worker's executor, fed with packs of one-row jobs."""

    def __init__(self, package: Package, options: argparse.Namespace) -> None:
        served = {package.model_id: Served(package, UNIT_PRICE)}
        chain = FakeChain()
        chain.deposited = 1 << 60
        admission = Admission(
            domain=DOMAIN,
            gateways=frozenset({GATEWAY.address}),
            served=served,
            max_fee_ppm=60_000,
            chain=chain,
        )
        sessions = SessionCache(provider=options.provider, threads=1, memory_budget_bytes=1 << 40)
        self._executor = Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)
        rows = _rows(package, options.batch, options.tokens)
        self._pack = []
        for i in range(options.batch):
            tensors = [Tensor.from_numpy(name, values[i : i + 1]) for name, values in sorted(rows.items())]
            job = make_job(package.manifest, tensors, request_id=i.to_bytes(32, "big"), voucher_amount=1 << 40)
            self._pack.append(job)
        sessions.get(package).batch_cap = options.batch

    def run(self) -> None:
        results, _ = self._executor.run(self._pack)
        if not all(result is not None and result.ok for result in results):
            raise SystemExit(f"a job failed: {results[0]}")


def _rate(run, rows: int, seconds: float) -> float:
    for _ in range(2):
        run()
    runs, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        run()
        runs += 1
    return runs * rows / spent


def _gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"


if __name__ == "__main__":
    main()
