"""What to do about a contract's refusal, for those that people meet.

Each text may name the error's own arguments; times are unix seconds on chain and written as dates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from contracts.protocol.hexes import checksum

_TIMES = frozenset({"exitAt", "thawedAt"})
_AMOUNT = "Name an amount above 0."
_LATER = "Try again at {}."
REMEDIES: Mapping[str, str] = {
    "InferenceEscrowZeroAmount": _AMOUNT,
    "InferenceEscrowNotPayer": "Act with the key of the payer {payer}.",
    "InferenceEscrowExitPending": (
        "Take it back with `market channel cancel-exit`, or draw it from {exitAt} on with `market channel withdraw`."
    ),
    "InferenceEscrowNoExit": "Begin one with `market channel exit`.",
    "InferenceEscrowExitNotReady": _LATER.format("{exitAt}"),
    "InferenceEscrowInsufficientUnclaimed": "Ask for at most {unclaimed}u.",
    "InferenceEscrowInsufficientCredit": "Ask for at most {available}u.",
    "InferenceEscrowInsufficientReserve": "Ask for at most {available}u.",
    "InferenceEscrowReserveNotThawed": _LATER.format("{thawedAt}"),
    "ModelRegistryListed": "Only its owner {owner} can change the listing.",
    "ModelRegistryNotListed": "List it with `market model publish`.",
    "ModelRegistryNameTaken": "Choose another name; if it is yours, `market model update` changes its terms.",
    "ModelRegistryInvalidName": "Use 1 to 63 of a-z, 0-9, and inside also `.`, `_` and `-`.",
    "ModelRegistryNotOwner": "Act with the key of the owner {owner}.",
    "ModelRegistryPriceBounds": "Give a lowest price that is not above the highest.",
    "ModelRegistryRoyalty": "Ask for a royalty of at most {maxRoyaltyPpm} millionths.",
    "WorkerRegistryZeroAmount": _AMOUNT,
    "WorkerRegistryNotOperator": "Act with the key of the operator {operator}.",
    "WorkerRegistryRegistered": "It belongs to the operator {operator}; a worker registers once.",
    "WorkerRegistryNotRegistered": "Register it with `worker register`.",
    "WorkerRegistryInsufficientStake": "It is {stake}u where {required}u are needed: stake more, or take out less.",
    "WorkerRegistryConsentExpired": "Have the worker's key consent again.",
    "WorkerRegistryNothingThawing": "Begin with `worker unstake`.",
    "WorkerRegistryNotThawed": _LATER.format("{thawedAt}"),
}


def remedy_of(error: str, arguments: Mapping[str, Any]) -> str | None:
    """Return what to do about a custom error with these arguments; None for those that no user can help."""
    text = REMEDIES.get(error)
    return None if text is None else text.format(**{name: _written(name, value) for name, value in arguments.items()})


def date_of(seconds: int) -> str:
    """Write unix seconds as a date, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _written(name: str, value: Any) -> str:
    if name in _TIMES:
        return date_of(int(value))
    if isinstance(value, bytes):
        return checksum(value) if len(value) == 20 else "0x" + value.hex()
    return str(value)
