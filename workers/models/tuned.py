"""What was measured to be best for a model on this machine, kept in the worker's state folder.

A measurement counts on the machine it was made on, with the runtime it was made with; elsewhere it is as if not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from workers.models.runtime import available_providers, version

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best of what was measured; `rate` is rows, or tokens of a generation, a second. `entry` is an ONNX file."""

    entry: str
    provider: str
    threads: int
    batch: int
    rate: float
    measured_at: int


class TunedStore:
    """One file a model and machine."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir.expanduser() / "tuned"

    def get(self, model_id: bytes) -> Tuned | None:
        """Return the measurement of a model on this machine, None if there is none that can be read."""
        try:
            return Tuned(**json.loads(self._path(model_id).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("tuning-not-read", model=model_id.hex(), error=str(error)[:200])
            return None

    def put(self, model_id: bytes, tuned: Tuned) -> Path:
        """Keep a measurement; returns its file."""
        path = self._path(model_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(tuned), indent=2))
        partial.replace(path)
        return path

    def _path(self, model_id: bytes) -> Path:
        return self._folder / f"{model_id.hex()}-{fingerprint()}.json"


def fingerprint() -> str:
    """Return a name for this machine and runtime: processor, usable cores, providers, version."""
    said = [_processor(), usable_cores(), available_providers(), version()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
