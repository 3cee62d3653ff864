"""What every binding shares: a contract at an address, read calls with bytes in and out, call data, decoded logs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from web3 import Web3
from web3.contract import Contract

from contracts import artifacts
from contracts.bindings.rpc import ask
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum


class Binding:
    """Base of the contract bindings; `NAME` is the artefact."""

    NAME = ""

    def __init__(self, web3: Web3, address: bytes) -> None:
        self.web3 = web3
        self.address = address
        self.contract: Contract = web3.eth.contract(address=checksum(address), abi=artifacts.load(self.NAME).abi)  # type: ignore[call-overload]
        self._events = _events(self.NAME)

    def read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        """Call a view; addresses go in as bytes and come out as bytes."""
        bound = getattr(self.contract.functions, function)(*map(to_web3, arguments))
        return from_web3(ask(lambda: bound.call(block_identifier="latest" if block is None else block)))

    def encode(self, function: str, *arguments: Any) -> bytes:
        """Return the call data of a function."""
        data = self.contract.encode_abi(function, args=[to_web3(argument) for argument in arguments])
        return bytes.fromhex(data[2:])

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Decode a log of this contract as (event name, arguments by name); None if it is not one of its events."""
        event = self._events.get(topics[0]) if topics else None
        if event is None:
            return None
        name, inputs = event
        indexed = [entry for entry in inputs if entry["indexed"]]
        plain = [entry for entry in inputs if not entry["indexed"]]
        arguments = {
            entry["name"]: from_web3(abi_decode([entry["type"]], topic)[0])
            for entry, topic in zip(indexed, topics[1:], strict=True)
        }
        values = abi_decode([entry["type"] for entry in plain], data)
        arguments.update({entry["name"]: from_web3(value) for entry, value in zip(plain, values, strict=True)})
        return name, arguments


@cache
def _events(contract: str) -> dict[bytes, tuple[str, list[dict[str, Any]]]]:
    table = {}
    for item in artifacts.load(contract).abi:
        if item["type"] == "event":
            kinds = ",".join(entry["type"] for entry in item["inputs"])
            table[keccak256(f"{item['name']}({kinds})".encode())] = (item["name"], item["inputs"])
    return table


def to_web3(value: Any) -> Any:
    """Turn 20-byte addresses into the checksummed text that web3 wants, inside tuples and lists too."""
    if isinstance(value, bytes) and len(value) == 20:
        return checksum(value)
    if isinstance(value, (list, tuple)):
        return type(value)(to_web3(item) for item in value)
    return value


def from_web3(value: Any) -> Any:
    """Turn web3's address texts into 20 bytes and HexBytes into bytes, inside tuples and lists too."""
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, (list, tuple)):
        return tuple(from_web3(item) for item in value)
    return value
