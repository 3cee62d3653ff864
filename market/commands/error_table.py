"""Writes docs/errors.md: every error code of `contracts` and `market` with status, retry, meaning and remedy.

Run as `python -m market.commands.error_table > docs/errors.md`; a test holds the file against the classes.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import contracts
import market
from contracts.protocol.errors import CodedError
from market.gateway.problems import all_errors, status_of, title_of

_SKIPPED = ("node_modules", "migrations", "__main__", "toolchain", "error_table")
_HEAD = """# Error codes

Every refusal carries a stable `code`, also at `GET /errors/{code}`. Over HTTP it is an RFC 9457 problem document
(`application/problem+json`) with `type`, `title`, `status`, `detail`, `code`, `retry`, and where they are known `field`
and `remedy`; `error` repeats the detail for Open Inference Protocol clients. On the command line it is one message.

`retry` tells who may usefully try again: `never` (the same request fails again), `same` (at once, nothing was charged),
`other_worker` (the gateway tries another worker by itself), `later`. A code whose status is below 500 and not 429 is
for the caller to mend. **No failed request is ever charged.**

This table is written by `python -m market.commands.error_table`.

| code | status | retry | meaning | what to do |
|---|---|---|---|---|
"""


def catalogue() -> list[type[CodedError]]:
    """Import every module and return all error classes, by code."""
    for package in (contracts, market):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in _SKIPPED):
                importlib.import_module(module.name)
    ours = (error for error in all_errors() if error.__module__.split(".")[0] in ("contracts", "market"))
    return sorted(ours, key=lambda error: error.code)


def table() -> str:
    """Return the document."""
    rows = [
        f"| `{error.code}` | {status_of(error)} | {error.retry} | {title_of(error)} | "
        f"{getattr(error, 'default_remedy', None) or ''} |\n"
        for error in catalogue()
    ]
    return _HEAD + "".join(row.replace(" |  |", " | |") for row in rows)


if __name__ == "__main__":
    sys.stdout.write(table())
