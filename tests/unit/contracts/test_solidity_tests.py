"""Every function of a contract that changes anything has its own file of forge tests, and every error is expected whole."""

import re
from pathlib import Path

import pytest

from contracts import artifacts

TESTS = Path(__file__).resolve().parents[2] / "solidity"
CONTRACTS = sorted(path.stem for path in Path(artifacts.__file__).parent.glob("*.json"))
# Written and tested by OpenZeppelin, and taken as they are.
INHERITED = {"TestUSD": {"approve", "transfer", "transferFrom", "permit"}}


def functions(contract: str, *, changing: bool) -> set[str]:
    """Names of a contract's own functions: those that change state, or all."""
    return {
        item["name"]
        for item in artifacts.load(contract).abi
        if item["type"] == "function" and not (changing and item["stateMutability"] in {"view", "pure"})
    } - INHERITED.get(contract, set())


def file_of(contract: str, function: str) -> Path:
    return TESTS / contract / f"{function[0].upper()}{function[1:]}.t.sol"


@pytest.mark.parametrize("contract", CONTRACTS)
def test_each_function_that_changes_anything_has_a_file_that_calls_it(contract):
    for function in sorted(functions(contract, changing=True)):
        path = file_of(contract, function)
        assert path.is_file(), f"{contract}.{function} has no {path.relative_to(TESTS)}"
        assert re.search(rf"\.{function}\(", path.read_text()), f"{path.relative_to(TESTS)} never calls {function}"


@pytest.mark.parametrize("contract", CONTRACTS)
def test_each_file_is_of_one_function(contract):
    of_functions = {file_of(contract, function) for function in functions(contract, changing=False)}
    assert set((TESTS / contract).iterdir()) <= {*of_functions, TESTS / contract / "Constructor.t.sol"}


@pytest.mark.parametrize("contract", CONTRACTS)
def test_each_error_is_expected_by_a_test_of_its_contract(contract):
    # The library's errors begin otherwise.
    own = {item["name"] for item in artifacts.load(contract).abi if item["type"] == "error"}
    source = "".join(path.read_text() for path in (TESTS / contract).iterdir())
    expected = set(re.findall(r"\b\w+\.(\w+)\.selector", source))
    assert {name for name in own if name.startswith(contract)} <= expected


def test_no_error_can_be_expected_by_its_selector_alone():
    cheatcodes = (TESTS / "support" / "Vm.sol").read_text()
    assert re.findall(r"expect\w*Revert\([^)]*\)", cheatcodes) == ["expectRevert(bytes calldata data)"]
