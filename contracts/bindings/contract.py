"""What every binding shares: a contract at an address, read calls with bytes in and out, call data, decoded logs.

Texts on chain are anybody's: they are decoded leniently here, so that no listing or worker can stop a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from web3 import Web3
from web3.contract import Contract

from contracts import artifacts
from contracts.bindings.errors import DeploymentError
from contracts.bindings.rpc import ask
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, hex0x

_Entry = dict[str, Any]


class Binding:
    """Base of the contract bindings; `NAME` is the artefact."""

    NAME = ""

    def __init__(self, web3: Web3, address: bytes) -> None:
        self.web3 = web3
        self.address = address
        self.contract: Contract = web3.eth.contract(address=checksum(address), abi=artifacts.load(self.NAME).abi)  # type: ignore[call-overload]
        self._events = _events(self.NAME)
        self._outputs = _outputs(self.NAME)

    def read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        """Call a view; addresses go in as bytes and come out as bytes.

        Raises:
            DeploymentError: what stands at the address is not this contract.
        """
        call: Any = {"to": checksum(self.address), "data": hex0x(self.encode(function, *arguments))}
        at: Any = "latest" if block is None else block
        answer = ask(lambda: self.web3.eth.call(call, at))
        outputs = self._outputs[function]
        try:
            values = _decode(outputs, bytes(answer))
        except DecodingError as error:
            raise DeploymentError(
                f"{checksum(self.address)} does not answer {function} as {self.NAME} does.",
                field="deployment",
                remedy="Make deployment file and chain the same network.",
            ) from error
        return values[0] if len(values) == 1 else values

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
            entry["name"]: _decode([entry], topic)[0] for entry, topic in zip(indexed, topics[1:], strict=True)
        }
        arguments.update(zip((entry["name"] for entry in plain), _decode(plain, data), strict=True))
        return name, arguments


@cache
def _events(contract: str) -> dict[bytes, tuple[str, list[_Entry]]]:
    table = {}
    for item in artifacts.load(contract).abi:
        if item["type"] == "event":
            kinds = ",".join(entry["type"] for entry in item["inputs"])
            table[keccak256(f"{item['name']}({kinds})".encode())] = (item["name"], item["inputs"])
    return table


@cache
def _outputs(contract: str) -> dict[str, list[_Entry]]:
    return {item["name"]: item["outputs"] for item in artifacts.load(contract).abi if item["type"] == "function"}


def _decode(entries: Sequence[_Entry], data: bytes) -> tuple[Any, ...]:
    values = abi_decode([_kind(entry) for entry in entries], data)
    return tuple(_plain(entry, value) for entry, value in zip(entries, values, strict=True))


def _kind(entry: _Entry) -> str:
    kind: str = entry["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_kind(part) for part in entry['components'])}){kind[len('tuple') :]}"
    # A text is read as bytes: the strict decoder would refuse one that is not UTF-8.
    return kind.replace("string", "bytes")


def _plain(entry: _Entry, value: Any) -> Any:
    kind: str = entry["type"]
    if kind.endswith("]"):
        inner = {**entry, "type": kind[: kind.rindex("[")]}
        return tuple(_plain(inner, item) for item in value)
    if kind == "tuple":
        return tuple(_plain(part, item) for part, item in zip(entry["components"], value, strict=True))
    if kind == "address":
        return bytes.fromhex(value[2:])
    if kind == "string":
        # PostgreSQL's TEXT and C programs cannot hold NUL.
        return value.decode("utf-8", "replace").replace("\0", "")
    return value


def to_web3(value: Any) -> Any:
    """Turn 20-byte addresses into the checksummed text that web3 wants, inside tuples and lists too."""
    if isinstance(value, bytes) and len(value) == 20:
        return checksum(value)
    if isinstance(value, (list, tuple)):
        return type(value)(to_web3(item) for item in value)
    return value
