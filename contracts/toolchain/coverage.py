"""Measure how much of contracts/src the Solidity tests run, and require 95 % of lines and of branches.

Compiles without the optimiser, so that counters stay where the source has them. Run by hand: `make coverage`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST_PERCENT = 95.0
_ROW = re.compile(r"\|\s*(src/\S+)\s*\|.*?\((\d+)/(\d+)\).*?\|.*?\|.*?\((\d+)/(\d+)\)")


def main() -> int:
    """Print the table of contracts/src and its totals; return the exit status."""
    ran = subprocess.run(
        [ROOT / "toolchain" / "forge", "coverage", "--report", "summary"],
        cwd=ROOT,
        env={**os.environ, "FOUNDRY_PROFILE": "coverage"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    rows = [(match[1], [int(number) for number in match.groups()[1:]]) for match in _ROW.finditer(ran.stdout)]
    if ran.returncode != 0 or not rows:
        print(ran.stdout)
        return ran.returncode or 1
    for name, (lines, of_lines, branches, of_branches) in rows:
        print(f"{name:45s} lines {lines:4d}/{of_lines:<4d} branches {branches:3d}/{of_branches}")
    sums = [sum(counts[place] for _, counts in rows) for place in range(4)]
    line_percent, branch_percent = 100 * sums[0] / sums[1], 100 * sums[2] / sums[3]
    print(
        f"contracts/src: {line_percent:.1f} % of lines, {branch_percent:.1f} % of branches (least {LEAST_PERCENT:.0f})"
    )
    return 0 if min(line_percent, branch_percent) >= LEAST_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
