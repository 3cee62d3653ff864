"""What can go wrong with the chain, sorted by who must act.

ChainError
├── NodeUnreachable        the RPC node does not answer: wait, or name another
├── WrongChain             node, contracts and gateway are not of one network
├── DeploymentError        no or wrong contract addresses
├── NotEnoughGasMoney      the sending account cannot pay for gas
└── TransactionReverted    a contract refused; `error` and `args` are its custom error, decoded
"""

from __future__ import annotations

from typing import Any

from eth_abi.abi import decode as abi_decode

from contracts import artifacts
from contracts.bindings.remedies import remedy_of
from contracts.protocol.errors import CodedError, Retry
from contracts.protocol.hashing import keccak256

_PUBLISHED = (
    *("InferenceEscrow", "WorkerRegistry", "ModelRegistry", "DisputeManager", "TestUSD"),
    *("X402Channels", "ERC3009DepositCollector"),
)
# What a call to a function that is not there gives, and nothing of ours does.
NO_REASON = "no reason given"
_PANIC = keccak256(b"Panic(uint256)")[:4]
_STRING = keccak256(b"Error(string)")[:4]


class ChainError(CodedError):
    """Base of the errors of the chain client."""

    code = "chain"


class NodeUnreachable(ChainError):
    """The RPC node does not answer, or answers with an internal error."""

    code = "node-unreachable"
    retry = Retry.LATER


class WrongChain(ChainError):
    """The node serves another chain id, or the gateway works on another chain or with other contracts."""

    code = "wrong-chain"


class DeploymentError(ChainError):
    """A contract is not where it is said to be, or nobody said where."""

    code = "deployment"


class NotEnoughGasMoney(ChainError):
    """The sending account cannot pay for the transaction."""

    code = "not-enough-gas-money"


class TransactionReverted(ChainError):
    """A contract refused; `error` is the custom error's name and `arguments` its values by name."""

    code = "transaction-reverted"

    def __init__(self, error: str, arguments: dict[str, Any], *, field: str | None = None) -> None:
        said = ", ".join(f"{name} {_show(value)}" for name, value in arguments.items())
        super().__init__(f"the contract refused: {error}({said}).", field=field, remedy=remedy_of(error, arguments))
        self.error = error
        self.arguments = arguments


def _show(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _selectors() -> dict[bytes, tuple[str, list[dict[str, Any]]]]:
    table: dict[bytes, tuple[str, list[dict[str, Any]]]] = {}
    for contract in _PUBLISHED:
        for item in artifacts.load(contract).abi:
            if item["type"] == "error":
                kinds = ",".join(entry["type"] for entry in item["inputs"])
                table[keccak256(f"{item['name']}({kinds})".encode())[:4]] = (item["name"], item["inputs"])
    return table


_TABLE: dict[bytes, tuple[str, list[dict[str, Any]]]] = {}


def decode_revert(data: bytes) -> TransactionReverted:
    """Turn revert data into the custom error of one of our contracts, or the best description there is."""
    if not _TABLE:
        _TABLE.update(_selectors())
    selector, body = data[:4], data[4:]
    try:
        if selector == _STRING:
            return TransactionReverted(str(abi_decode(["string"], body)[0]), {})
        if selector == _PANIC:
            return TransactionReverted("Panic", {"code": abi_decode(["uint256"], body)[0]})
        if selector in _TABLE:
            name, inputs = _TABLE[selector]
            values = abi_decode([entry["type"] for entry in inputs], body)
            names = [entry["name"] or f"arg{i}" for i, entry in enumerate(inputs)]
            return TransactionReverted(name, dict(zip(names, values, strict=True)))
    except Exception:
        return TransactionReverted("undecodable revert data", {"data": data})
    return TransactionReverted("an unknown error" if data else NO_REASON, {"data": data} if data else {})
