"""Opens a stranger's model for the first time in a process that may die: a crash, a hang, hunger for memory end there.

The child screens the ONNX file, loads it and runs it once on made-up inputs, with limits on memory and time, without
the worker's environment, and under bubblewrap (no network, nothing to read but the package and the programs) where the
machine has it. A model that fails is not opened by the worker itself. Called by `workers.node`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import structlog

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import FILENAME, Manifest
from workers.errors import ExecutionFailed, ModelUnusable, UnsafePackage
from workers.models.screening import screen
from workers.models.store import Package

EXTRA_MEMORY_BYTES = 2 << 30
MAX_SAID_BYTES = 4_096
_ERRORS = {cls.code: cls for cls in (UnsafePackage, ModelUnusable)}
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")

log = structlog.get_logger(__name__)


def try_package(package: Package, *, seconds: float, memory_bytes: int, threads: int = 1) -> None:
    """Try a package's entry in a child; returns if it may be opened here.

    Raises:
        UnsafePackage: something in the file is not taken from strangers.
        ModelUnusable: it crashed, took too long or too much memory, or the runtime refuses it.
    """
    boxed = _box(package.folder)
    environment = {"PATH": os.defpath, "PYTHONPATH": _root(), "ORT_DISABLE_TELEMETRY": "1"}
    program = [sys.executable, "-m", "workers.models.trial", str(package.folder), str(threads)]
    limit = memory_bytes + EXTRA_MEMORY_BYTES
    entry = package.manifest.entry
    try:
        done = subprocess.run(
            [*boxed, *program],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            start_new_session=True,
            preexec_fn=lambda: _limit(limit, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelUnusable(f"{entry}: not open after {seconds:.0f} s.", field=entry) from None
    log.info("model-tried", model=package.model_id.hex(), sandbox=bool(boxed), status=done.returncode)
    if done.returncode == 0:
        return
    try:
        said = json.loads(done.stdout[-MAX_SAID_BYTES:].splitlines()[-1])
        kind, detail, field = _ERRORS[said["code"]], str(said["detail"])[:300], str(said["field"])[:100]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ModelUnusable(f"{entry}: the process that opened it died ({done.returncode}).", field=entry) from None
    raise kind(detail, field=field)


def _limit(memory_bytes: int, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu = int(seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))


def _root() -> str:
    return str(Path(__file__).parents[2])


def find_sandbox() -> str | None:
    """Return bubblewrap's program, if this machine has it."""
    return shutil.which("bwrap")


def _box(folder: Path) -> list[str]:
    program = find_sandbox()
    if program is None:
        return []
    shown = {*_SYSTEM, sys.prefix, sys.base_prefix, _root(), str(folder.resolve())}
    binds = [word for path in sorted(shown) if Path(path).exists() for word in ("--ro-bind", path, path)]
    return [program, "--unshare-all", "--die-with-parent", *binds, "--proc", "/proc", "--dev", "/dev", "--chdir", "/"]


def main(folder: Path, threads: int) -> None:
    """Screen, open and run one package; the child's side.

    Raises:
        CodedError: what is wrong with it.
    """
    # Its memory is limited already: what is imported late counts too.
    from workers.models.sessions import open_model

    manifest = Manifest.parse((folder / FILENAME).read_bytes())
    package = Package(manifest.model_id, manifest, folder)
    entry = manifest.entry
    beside = entry.rpartition("/")[0]
    start = f"{beside}/" if beside else ""
    files = frozenset(name.removeprefix(start) for name in manifest.files if name.startswith(start))
    screen(package.read(entry), entry, files)
    model = open_model(package, entry=entry, provider="cpu", threads=threads)
    try:
        model.graph.run(model.sample(1), model.graph_outputs)
    except ExecutionFailed as error:
        if "alloc" in error.detail:
            raise ModelUnusable(f"one row takes more memory than allowed: {error.detail}", field=entry) from error
        # Made-up values may be nonsense to a model that real ones suit.
        log.info("trial-run-refused", reason=error.detail)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except MemoryError:
        sys.stdout.write(json.dumps({"code": ModelUnusable.code, "detail": "out of memory.", "field": "entry"}) + "\n")
        sys.exit(1)
    except CodedError as refused:
        said = {"code": refused.code, "detail": refused.detail, "field": refused.field or "entry"}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.exit(1)
