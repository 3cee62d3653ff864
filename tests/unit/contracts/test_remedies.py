"""Remedies name errors that the contracts have, and of each only arguments that it carries."""

import string

import pytest

from contracts import artifacts
from contracts.bindings.errors import _PUBLISHED, TransactionReverted
from contracts.bindings.remedies import REMEDIES

ERRORS = {
    item["name"]: [entry["name"] for entry in item["inputs"]]
    for contract in _PUBLISHED
    for item in artifacts.load(contract).abi
    if item["type"] == "error"
}


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_each_is_of_an_error_and_its_arguments(name):
    wanted = {field for _, field, _, _ in string.Formatter().parse(REMEDIES[name]) if field}
    assert wanted <= set(ERRORS[name])


def test_a_refusal_says_what_to_do():
    early = TransactionReverted("InferenceEscrowExitNotReady", {"exitAt": 1_795_898_035, "timestamp": 1})
    assert early.remedy == "Try again at 2026-11-28 20:33:55 UTC."
    payer = TransactionReverted("InferenceEscrowNotPayer", {"payer": b"\x11" * 20, "caller": b"\x12" * 20})
    assert payer.remedy == "Act with the key of the payer 0x1111111111111111111111111111111111111111."
    assert TransactionReverted("InferenceEscrowEpoch", {"epoch": 1, "expected": 2}).remedy is None
