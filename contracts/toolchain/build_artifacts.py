"""Build the contracts and write what Python needs of them to `contracts/artifacts`.

Decides which contracts are published and in what form; must never change what the compiler said. Run by hand after a
change of Solidity and by CI, which fails when the committed files differ (`--check`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "artifacts"
CONTRACTS = (
    *("InferenceEscrow", "WorkerRegistry", "ModelRegistry", "DisputeManager", "TestUSD"),
    *("X402Channels", "ERC3009DepositCollector", "Multicall3"),
)


def build() -> None:
    """Compile with forge from the pinned npm packages.

    Raises:
        subprocess.CalledProcessError: the compiler refused, or `npm ci` was not run in `contracts/`.
    """
    environment = {key: value for key, value in os.environ.items() if key != "FOUNDRY_PROFILE"}
    command = [str(ROOT / "toolchain" / "forge"), "build", "src", "--quiet"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def artifact(name: str) -> dict[str, Any]:
    """Reduce forge's output for one contract to ABI, creation code and the hash of the runtime code.

    Immutables are zeros in the hashed runtime code.
    """
    output = json.loads((ROOT / "out" / f"{name}.sol" / f"{name}.json").read_text())
    runtime = bytes.fromhex(output["deployedBytecode"]["object"].removeprefix("0x"))
    return {
        "contractName": name,
        "abi": output["abi"],
        "bytecode": output["bytecode"]["object"],
        "runtimeBytes": len(runtime),
        "runtimeSha256": hashlib.sha256(runtime).hexdigest(),
    }


def main() -> int:
    """Write the artifacts, or with `--check` only compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing")
    arguments = parser.parse_args()
    build()
    stale = []
    for name in CONTRACTS:
        path = ARTIFACTS / f"{name}.json"
        text = json.dumps(artifact(name), separators=(",", ":"), sort_keys=True) + "\n"
        if arguments.check:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        print(f"Artifacts differ from the source: {', '.join(stale)}. Run {Path(__file__).name}.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
