"""Break the escrow on purpose, one rule at a time, and require that its tests notice.

Works in a temporary copy; must never touch the tree it is run from. Run by hand and by CI (`make mutants`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT.parent / "tests"
SETTLEMENT = "escrow/EscrowSettlement.sol"
ESCROW = "InferenceEscrow.sol"


@dataclass(frozen=True)
class Mutant:
    """One broken rule.

    Attributes:
        edits: text that occurs exactly once in `file`, and what replaces it.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]


MUTANTS = (
    Mutant(
        "no conservation check",
        SETTLEMENT,
        (
            ("uint256 available = debited;", "uint256 available = type(uint128).max;"),
            (
                "uint128 reserve = (state.reserve() + debited - credited).toUint128();",
                "uint128 reserve; unchecked { reserve = uint128(state.reserve() + debited - credited); }",
            ),
        ),
    ),
    Mutant(
        "no epoch check",
        SETTLEMENT,
        (("require(epoch == state.lastEpoch() + 1, InferenceEscrowEpoch(epoch, state.lastEpoch() + 1));", ""),),
    ),
    Mutant("no signature check", SETTLEMENT, (("if (recovered != signer) {", "if (recovered == address(1)) {"),)),
    Mutant(
        "uncapped exit",
        ESCROW,
        (("uint128 amount = exit.amount < unclaimed ? exit.amount : unclaimed;", "uint128 amount = exit.amount;"),),
    ),
    Mutant(
        "delta credits",
        SETTLEMENT,
        (
            (
                "uint256 cumulative = row.cumulative;",
                "uint256 cumulative = uint256(payees[payee].first()) + row.cumulative;",
            ),
        ),
    ),
    Mutant("debit above the deposit", SETTLEMENT, (("if (target > balance.first()) target = balance.first();", ""),)),
    Mutant("claim above the voucher", SETTLEMENT, (("if (target > voucherAmount) {", "if (target == 0) {"),)),
    Mutant(
        "receipt not countersigned",
        SETTLEMENT,
        (("_checkReceiptSigner(digest, gatewaySignature, receipt.gateway);", "gatewaySignature;"),),
    ),
    Mutant(
        "a batch's proof not followed",
        "libraries/TypedData.sol",
        (
            (
                "for (uint256 at = _SIGNATURE_BYTES; at < signature.length; at += 32) {",
                "for (uint256 at = 0; at < 0; ++at) {",
            ),
        ),
    ),
    Mutant(
        "new deposits join a pending exit",
        ESCROW,
        (("if (exit.amount > unclaimed) exit.amount = unclaimed;", "exit.amount += amount + unclaimed * 0;"),),
    ),
    Mutant("refund replayed", ESCROW, (("exit.refundNonce = nonce + 1;", ""),)),
)


def copy_project(where: Path) -> None:
    """Copy sources and tests, with links to what was installed."""
    contracts = where / "contracts"
    contracts.mkdir()
    for folder in ("src", "toolchain"):
        shutil.copytree(ROOT / folder, contracts / folder)
    shutil.copy(ROOT / "foundry.toml", contracts)
    shutil.copy(ROOT / "package.json", contracts)
    (contracts / "node_modules").symlink_to(ROOT / "node_modules")
    shutil.copytree(TESTS / "solidity", where / "tests" / "solidity")
    (where / "tests" / "parity").mkdir()
    shutil.copy(TESTS / "parity" / "vectors.json", where / "tests" / "parity")


def run_tests(contracts: Path) -> tuple[bool, list[str]]:
    """Run the escrow's tests and invariants; returns success and the names of the tests that failed.

    Raises:
        RuntimeError: the source does not compile, which says nothing about the tests.
    """
    command = ["toolchain/forge", "test", "--color", "never", "--no-match-contract", "Gas"]
    done = subprocess.run(command, cwd=contracts, capture_output=True, text=True, check=False)
    if "Compiler run failed" in done.stdout + done.stderr:
        raise RuntimeError(done.stdout + done.stderr)
    failed = re.findall(r"^\[FAIL.*\] (\w+)\(", done.stdout, re.MULTILINE)
    return done.returncode == 0, sorted(set(failed))


def main() -> int:
    """Run all mutants; returns 1 if one survives or the unbroken source fails."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder).resolve()
        copy_project(where)
        contracts = where / "contracts"
        passed, failed = run_tests(contracts)
        if not passed:
            print(f"The unbroken source fails: {', '.join(failed)}", file=sys.stderr)
            return 1
        for mutant in MUTANTS:
            path = contracts / "src" / mutant.file
            original = source = path.read_text()
            for old, new in mutant.edits:
                if source.count(old) != 1:
                    print(f"{mutant.name}: expected one `{old}` in {mutant.file}", file=sys.stderr)
                    return 1
                source = source.replace(old, new)
            path.write_text(source)
            passed, failed = run_tests(contracts)
            path.write_text(original)
            survivors += passed
            verdict = "SURVIVED" if passed else f"killed by {len(failed)}, first {failed[0] if failed else '?'}"
            print(f"{mutant.name}: {verdict}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
