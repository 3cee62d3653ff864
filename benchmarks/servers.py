"""What is measured: this market and its peers, each started once and stopped by SIGSTOP while others are measured."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import Workload
from contracts.protocol.hexes import hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.request_ids import new_request_id
from market.demo.network import MIN_PRICE, LocalMarket, Options
from market.devnet.process import free_port
from market.registry.offers import REFRESH_SECONDS
from market.sdk.client import Market
from market.sdk.papers import PaperStore

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("BENCH_CACHE", "~/.cache/inference-market-bench")).expanduser()
START_SECONDS = 90


@dataclass(frozen=True)
class Peer:
    """How a peer is installed and started; `body` names the form of its request."""

    name: str
    requirements: tuple[str, ...]
    path: str
    body: str
    python: str = sys.executable
    modes: str = ""


# Triton's Python backend is linked against Debian 12's interpreter, so it runs there only.
PEERS = (
    Peer("triton", ("nvidia-pytriton",), "/v2/models/m/infer", "oip", python="/usr/bin/python3"),
    Peer("mosec", ("mosec",), "/inference", "row"),
    Peer("kserve", ("kserve",), "/v2/models/m/infer", "oip"),
    Peer("mlserver", ("mlserver",), "/v2/models/m/infer", "oip"),
    Peer("litserve", ("litserve",), "/predict", "row"),
    Peer("bentoml", ("bentoml",), "/predict", "rows"),
    Peer("ray", ("ray[serve]",), "/", "row"),
)


def install(peer: Peer) -> Path | None:
    """Return the peer's environment in the cache, made if it is not there; None where it cannot be installed."""
    folder = CACHE / peer.name
    python = folder / "bin" / "python"
    if not python.exists():
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([uv or "uv", "venv", "-q", "--python", peer.python, folder], check=True)
            packages = [*peer.requirements, "onnxruntime", "numpy", "orjson"]
            subprocess.run([uv or "uv", "pip", "install", "-q", "--python", python, *packages], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{peer.name}: not installed here ({error})", flush=True)
            return None
    return folder


def body_of(form: str, workload: Workload) -> bytes:
    """Return the request body in the form a server takes."""
    data = workload.request
    if form == "oip":
        row = {"name": workload.input, "datatype": workload.datatype, "shape": list(data.shape)}
        return json.dumps({"inputs": [{**row, "data": data.ravel().tolist()}]}).encode()
    return json.dumps({"data": data.tolist() if form == "rows" else data[0].tolist()}).encode()


def request_bytes(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a whole HTTP request as the load generator sends it."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def pack_request(request: bytes, kind: int = 0) -> bytes:
    """Return a request as it stands in the load generator's file; `kind` 0 to 3 is counted apart."""
    return struct.pack("<I", len(request) | kind << 24) + request


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """Write the load generator's file."""
    path.write_bytes(b"".join(map(pack_request, requests)))
    return path


@dataclass
class Running:
    """A server that can be measured: where it listens, what to send, which processes to stop and wake, whose it is."""

    name: str
    port: int
    requests: Path
    groups: list[int] = field(default_factory=list)
    sent: int = 0
    market: OwnMarket | None = None

    def pause(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGSTOP)

    def wake(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)


@contextlib.contextmanager
def peer_server(peer: Peer, workload: Workload, scratch: Path):
    """Start a peer; yields None where it does not come up."""
    folder = install(peer)
    if folder is None:
        yield None
        return
    port = free_port()
    environment = {
        **os.environ,
        "BENCH_MODEL": str(workload.file),
        "BENCH_INPUT": workload.input,
        "BENCH_DATATYPE": workload.datatype,
        "BENCH_PORT": str(port),
        "BENCH_PEERS": str(HERE / "peers"),
        "PYTHONPATH": str(HERE / "peers"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command, environment = _command(peer, workload, folder, port, environment, scratch)
    with (scratch / f"{peer.name}-{workload.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=HERE / "peers", start_new_session=True
        )
    try:
        body = body_of(peer.body, workload)
        if _answers(f"http://127.0.0.1:{port}{peer.path}", body, process):
            requests = write_requests(scratch / f"{peer.name}-{workload.name}.bin", [request_bytes(peer.path, body)])
            yield Running(peer.name, port, requests, [process.pid])
        else:
            print(f"{peer.name}: did not come up; see {scratch}", flush=True)
            yield None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(8)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(peer, workload, folder, port, environment, scratch):
    python = str(folder / "bin" / "python")
    if peer.name == "triton":
        return _triton(workload, folder, port, environment, scratch)
    if peer.name == "mosec":
        return [python, "mosec_app.py", "--address", "127.0.0.1", "--port", str(port)], environment
    if peer.name == "bentoml":
        program = str(folder / "bin" / "bentoml")
        return [program, "serve", "bentoml_app:OnnxModel", "--host", "127.0.0.1", "--port", str(port)], environment
    if peer.name == "mlserver":
        settings = scratch / "mlserver"
        settings.mkdir(exist_ok=True)
        ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        general = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False, "metrics_endpoint": None}
        (settings / "settings.json").write_text(json.dumps(general))
        model = {
            "name": "m",
            "implementation": "mlserver_model.OnnxModel",
            "max_batch_size": 32,
            "max_batch_time": 0.001,
        }
        (settings / "model-settings.json").write_text(json.dumps(model))
        return [str(folder / "bin" / "mlserver"), "start", str(settings)], environment
    return [python, f"{peer.name}_app.py"], environment


def _triton(workload, folder, port, environment, scratch):
    """The server binary itself, with its Python backend: no proxy in front, the strongest form."""
    site = next(folder.glob("lib/python*/site-packages"))
    server = site / "pytriton" / "tritonserver"
    home = scratch / f"triton-{workload.name}"
    (home / "models" / "m" / "1").mkdir(parents=True, exist_ok=True)
    shutil.copytree(server / "backends", home / "backends", dirs_exist_ok=True)
    stub = server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
    shutil.copy(stub, home / "backends" / "python")
    shutil.copy(HERE / "peers" / "triton_model.py", home / "models" / "m" / "1" / "model.py")
    kinds = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
    width = {"tiny": 3, "embed": 384}[workload.name]
    (home / "models" / "m" / "config.pbtxt").write_text(
        f'name: "m"\nbackend: "python"\nmax_batch_size: 32\n'
        f'input [ {{ name: "{workload.input}" data_type: {kinds[workload.datatype]} '
        f"dims: [{workload.request.shape[1]}] }} ]\n"
        f'output [ {{ name: "y" data_type: TYPE_FP32 dims: [{width}] }} ]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\ndynamic_batching { }\n"
    )
    environment = {
        **environment,
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], str(site)]),
    }
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={home / 'models'}",
        f"--backend-directory={home / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--http-thread-count=4",
    ], environment


def _answers(url: str, body: bytes, process: subprocess.Popen) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}), timeout=10
            ) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


class _Cheap(LocalMarket):
    """Asks the least that the listing allows, so that a deposit lasts."""

    def worker_environment(self) -> dict[str, str]:
        return {**super().worker_environment(), "WORKER_UNIT_PRICE": str(MIN_PRICE)}


class _Unpaid(_Cheap):
    """Runs gateway and worker without all that makes a request paid."""

    def program(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-P", str(HERE / "unpaid.py"), name, *arguments]


class OwnMarket:
    """The whole market on this machine: gateway, one worker, Valkey, SQLite, an EVM node; one funded channel a run."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        scratch: Path,
        *,
        linked: bool = False,
        unpaid: bool = False,
        settle_seconds: float = 3_600.0,
    ) -> None:
        self._scratch = scratch
        self._workloads = workloads
        self.local = (_Unpaid if unpaid else _Cheap)(
            Options(
                data_dir=scratch / ("linked" if linked else "unpaid" if unpaid else "market"),
                keep_state=False,
                settle_interval_seconds=settle_seconds,
                packages=tuple(workload.package for workload in workloads),
                linked=linked,
            )
        )

    def __enter__(self):
        # One thread of one worker like the peers; no settlement in the middle of a measurement.
        os.environ.update(
            WORKER_THREADS="1",
            MARKET_EXPOSURE_CAP=str(10**14),
            MARKET_SETTLE_VALUE=str(10**14),
            MARKET_LOG_LEVEL="warning",
        )
        local = self.local
        local.start()
        self.wallet = local.wallet("client")
        local.chain.mint(local.wallet("deployer"), self.wallet.address, 1_000_000 * ATOMIC_PER_TOKEN)
        self.market = Market(local.gateway_url, self.wallet, papers=PaperStore(None))
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.local.supervisor.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
        self.market.close()
        self.local.stop()

    def paid(
        self,
        name: str,
        workload: Workload,
        *,
        vouchers: int,
        deposit: int = 20_000,
        headers: Mapping[str, str] | None = None,
    ) -> Running:
        """Open a channel and write paid requests: one session voucher, or so many vouchers, one a named request."""
        local, domain = self.local, self.local.chain.domain
        amount = deposit * ATOMIC_PER_TOKEN
        channel = local.chain.open_channel(self.wallet, local.accounts["gateway"].address, amount)
        channel_id = channel.digest(domain)
        self.market.use_channel(channel, domain)
        self.market.wait_for_channel(channel_id, deposited=amount)
        path, body = f"/v2/models/{workload.name}/infer", body_of("oip", workload)
        requests = []
        for number in range(1, vouchers + 1):
            # with one voucher it covers everything; else each covers its request and those sent beside it
            ceiling = amount if vouchers == 1 else min(amount, (number + 128) * MIN_PRICE)
            voucher = self.wallet.voucher_header(channel, ceiling, domain)
            named = {} if vouchers == 1 else {"Market-Request-Id": hex0x(new_request_id())}
            requests.append(request_bytes(path, body, {"Market-Voucher": voucher, **named, **(headers or {})}))
        file = write_requests(self._scratch / f"{name}.bin", requests)
        port = int(local.gateway_url.rpartition(":")[2])
        return Running(name, port, file, [child.pid for child in local.supervisor.children], market=self)

    def wait_awake(self, workload: Workload) -> None:
        """Return once the gateway sees the worker's offer again."""
        # What it saw before it slept is still there, until it looks.
        time.sleep(2 * REFRESH_SECONDS)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                self.market.get(f"/v2/models/{workload.name}/ready")
                return
            time.sleep(0.1)
        raise RuntimeError("the market did not wake up")


def build_load_generator(folder: Path) -> Path:
    """Compile the load generator with the system's C compiler."""
    program = folder / "loadgen"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("the load generator needs a C compiler (cc)")
    subprocess.run([compiler, "-O2", "-o", program, HERE / "loadgen.c"], check=True)
    return program


def load(program: Path, server: Running, connections: int, seconds: float) -> dict[str, float]:
    """Measure one cell; requests go on where the last cell ended, since a voucher is good once."""
    command = [program, "127.0.0.1", server.port, connections, seconds, server.requests, server.sent]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    server.sent = found.pop("next")
    return found


def raw_loop(workload: Workload, seconds: float) -> dict[str, float]:
    """Return rows per second of the runtime alone, by batch size."""
    environment = {
        **os.environ,
        "BENCH_MODEL": str(workload.file),
        "BENCH_INPUT": workload.input,
        "BENCH_DATATYPE": workload.datatype,
        "BENCH_PORT": "0",
        "PYTHONPATH": str(HERE / "peers"),
    }
    program, request = HERE / "peers" / "raw_loop.py", json.dumps(workload.request.tolist())
    ran = subprocess.run(
        [sys.executable, program, str(seconds), request], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout)


def scratch_folder() -> Path:
    """Return a new folder for one run's files."""
    return Path(tempfile.mkdtemp(prefix="market-bench-"))
