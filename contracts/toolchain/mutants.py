"""Break the contracts on purpose, one rule at a time, and require that their tests notice.

Each rule names the test files that should notice; only for one that they miss is the whole suite run.
Works in a temporary copy; must never touch the tree it is run from. Run by hand and by CI (`make mutants`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT.parent / "tests"
SETTLEMENT = "escrow/EscrowSettlement.sol"
STATE = "escrow/EscrowState.sol"
ESCROW = "InferenceEscrow.sol"
REGISTRY = "WorkerRegistry.sol"


@dataclass(frozen=True)
class Mutant:
    """One broken rule.

    Attributes:
        edits: text that occurs exactly once in `file`, and what replaces it.
        tests: the test file that must notice, under tests/solidity and without its suffix.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: str


MUTANTS = (
    Mutant(
        "no conservation check",
        SETTLEMENT,
        (
            ("uint256 available = debited;", "uint256 available = type(uint128).max;"),
            (
                "uint128 reserve = SafeCast.toUint128(state.reserve() + debited - credited);",
                "uint128 reserve; unchecked { reserve = uint128(state.reserve() + debited - credited); }",
            ),
        ),
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "no epoch check",
        SETTLEMENT,
        (("require(epoch == state.lastEpoch() + 1, InferenceEscrowEpoch(epoch, state.lastEpoch() + 1));", ""),),
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "no signature check",
        SETTLEMENT,
        (("if (recovered != signer) {", "if (recovered == address(1)) {"),),
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "uncapped exit",
        ESCROW,
        (("uint128 amount = exit.amount < unclaimed ? exit.amount : unclaimed;", "uint128 amount = exit.amount;"),),
        "InferenceEscrow/FinalizeExit",
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
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "debit above the deposit",
        SETTLEMENT,
        (("if (target > balance.first()) target = balance.first();", ""),),
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "claim above the voucher",
        SETTLEMENT,
        (("if (target > voucherAmount) {", "if (target == 0) {"),),
        "InferenceEscrow/SettleBatch",
    ),
    Mutant(
        "receipt not countersigned",
        SETTLEMENT,
        (("_checkReceiptSigner(digest, gatewaySignature, receipt.gateway);", "gatewaySignature;"),),
        "InferenceEscrow/ClaimWithReceipt",
    ),
    Mutant(
        "an unused ceiling claimed",
        SETTLEMENT,
        (("uint256 ceiling = Math.min(receipt.cumulative, voucherAmount);", "uint256 ceiling = voucherAmount;"),),
        "InferenceEscrow/ClaimWithReceipt",
    ),
    Mutant(
        "a note redeemed again",
        SETTLEMENT,
        (("_payees[gateway][payee] = total.withFirst(total.first() + paid);", "total;"),),
        "InferenceEscrow/RedeemCreditNote",
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
        "InferenceEscrow/ClaimWithReceipt",
    ),
    Mutant(
        "an inner node taken for a receipt",
        STATE,
        (("keccak256(abi.encode(keccak256(abi.encode(digest))))", "digest"),),
        "InferenceEscrow/VerifyReceipt",
    ),
    Mutant(
        "new deposits join a pending exit",
        ESCROW,
        (("if (exit.amount > unclaimed) exit.amount = unclaimed;", "exit.amount += amount + unclaimed * 0;"),),
        "InferenceEscrow/Deposit",
    ),
    Mutant(
        "an exit without its delay",
        ESCROW,
        (("require(block.timestamp >= exit.exitAt, InferenceEscrowExitNotReady(exit.exitAt, block.timestamp));", ""),),
        "InferenceEscrow/FinalizeExit",
    ),
    Mutant("refund replayed", ESCROW, (("exit.refundNonce = nonce + 1;", ""),), "InferenceEscrow/Refund"),
    Mutant(
        "an authorization for another channel",
        ESCROW,
        (("bytes32 nonce = keccak256(abi.encode(id, nonceSalt));", "bytes32 nonce = nonceSalt; id;"),),
        "InferenceEscrow/DepositWithAuthorization",
    ),
    Mutant(
        "a reserve without its thaw",
        ESCROW,
        (
            (
                "require(block.timestamp >= thaw.thawedAt,",
                "require(thaw.thawedAt > 0,",
            ),
        ),
        "InferenceEscrow/WithdrawReserve",
    ),
    Mutant(
        "stake that thaws out of a slash's reach",
        REGISTRY,
        (
            (
                "slashed = uint128(Math.min(amount, entry.amount));",
                "slashed = uint128(Math.min(amount, entry.amount - entry.thawing));",
            ),
        ),
        "WorkerRegistry/Slash",
    ),
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


def run_tests(contracts: Path, files: str = "*") -> list[str]:
    """Run the tests of these files (a glob) up to the first that fails; returns the names of those that failed.

    Raises:
        RuntimeError: the source does not compile, or no such test exists, which says nothing about the source.
    """
    chosen = ["--match-path", f"*/solidity/{files}.t.sol", "--no-match-contract", "Gas"]
    command = ["toolchain/forge", "test", "--color", "never", "--fail-fast", *chosen]
    done = subprocess.run(command, cwd=contracts, capture_output=True, text=True, check=False)
    failed = sorted(set(re.findall(r"^\[FAIL.*\] (\w+)\(", done.stdout, re.MULTILINE)))
    if not failed and (done.returncode or "passed" not in done.stdout):
        raise RuntimeError(done.stdout + done.stderr)
    return failed


def broken(source: str, mutant: Mutant) -> str:
    """The source with the rule broken.

    Raises:
        ValueError: a text to be replaced does not occur exactly once.
    """
    for old, new in mutant.edits:
        if source.count(old) != 1:
            raise ValueError(f"{mutant.name}: expected one `{old}` in {mutant.file}")
        source = source.replace(old, new)
    return source


def try_mutant(contracts: Path, mutant: Mutant, files: str) -> list[str]:
    """The tests of `files` that fail while the rule is broken; the source is whole again afterwards."""
    path = contracts / "src" / mutant.file
    original = path.read_text()
    path.write_text(broken(original, mutant))
    try:
        return run_tests(contracts, files)
    finally:
        path.write_text(original)


def main() -> int:
    """Run all mutants; returns 1 if one survives or the unbroken source fails."""
    missed: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder).resolve()
        copy_project(where)
        contracts = where / "contracts"
        started_at = time.monotonic()
        files = sorted({mutant.tests for mutant in MUTANTS})
        if failed := run_tests(contracts, f"{{{','.join(files)}}}"):
            print(f"The unbroken source fails: {', '.join(failed)}", file=sys.stderr)
            return 1
        print(f"unbroken: passes ({time.monotonic() - started_at:.0f} s)", flush=True)
        for mutant in MUTANTS:
            started_at = time.monotonic()
            failed = try_mutant(contracts, mutant, mutant.tests)
            if not failed:
                missed.append(mutant)
            verdict = f"killed by {mutant.tests}, {failed[0]}" if failed else f"missed by {mutant.tests}"
            print(f"{mutant.name}: {verdict} ({time.monotonic() - started_at:.0f} s)", flush=True)
        survivors = 0
        if missed and (failed := run_tests(contracts)):
            print(f"The unbroken source fails: {', '.join(failed)}", file=sys.stderr)
            return 1
        for mutant in missed:
            failed = try_mutant(contracts, mutant, "*")
            survivors += not failed
            print(f"{mutant.name}: {f'killed by {failed[0]}' if failed else 'SURVIVED'}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
