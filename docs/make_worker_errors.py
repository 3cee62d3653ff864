"""Write worker-errors.md from the worker's error classes. Run `make docs` after a change of an error."""

from __future__ import annotations

import importlib
import pathlib
import pkgutil

import workers
from workers.errors import WorkerError

HEAD = """# Error codes of the worker

A worker that cannot start prints one message with its code, the setting and a remedy, and ends with status 2 (1 where the
model is at fault). A job that it refuses or fails goes back to the gateway as data with the same code; `retry` tells whether
the gateway tries the same worker, another one, or none. The gateway's codes are in [errors.md](errors.md).

| code | retry | meaning |
|---|---|---|
"""


def catalogue() -> list[type[WorkerError]]:
    """Import every module of the worker and return its error classes, by code."""
    for module in pkgutil.walk_packages(workers.__path__, "workers."):
        importlib.import_module(module.name)
    found: list[type[WorkerError]] = [WorkerError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return sorted(set(found), key=lambda kind: kind.code)


def build() -> str:
    """Return the whole document."""
    rows = [f"| `{kind.code}` | {kind.retry} | {(kind.__doc__ or '').splitlines()[0]} |" for kind in catalogue()]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("worker-errors.md").write_text(build(), encoding="utf-8")
