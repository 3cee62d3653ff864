"""Encodes calls and decodes answers, calls and logs by a contract's ABI; addresses are bytes on our side.

Texts on chain are anybody's: they are decoded leniently, so that no listing or worker can stop a reader. Straight on
eth_abi, since web3's own path costs ten times as much for a large batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError

from contracts import artifacts
from contracts.protocol.hashing import keccak256

_Entry = dict[str, Any]


class Abi:
    """The functions and events of one published contract; of an overloaded function the last one listed."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._functions: dict[str, tuple[bytes, _Entry]] = {}
        self._by_selector: dict[bytes, _Entry] = {}
        self._events: dict[bytes, _Entry] = {}
        for entry in entries:
            if entry["type"] not in ("function", "event"):
                continue
            digest = keccak256(f"{entry['name']}{_kinds(entry['inputs'])}".encode())
            if entry["type"] == "event":
                self._events[digest] = entry
            else:
                self._functions[entry["name"]] = digest[:4], entry
                self._by_selector[digest[:4]] = entry

    def encode_call(self, function: str, arguments: Sequence[Any]) -> bytes:
        """Return the call data of a function."""
        selector, entry = self._functions[function]
        return selector + abi_encode([_kind(given) for given in entry["inputs"]], arguments)

    def decode_answer(self, function: str, data: bytes) -> Any:
        """Decode what a function returned: the value, or a tuple where there are several.

        Raises:
            DecodingError: these are not the function's types.
        """
        values = _decode(self._functions[function][1]["outputs"], data)
        return values[0] if len(values) == 1 else values

    def decode_call(self, data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Decode call data as (function name, arguments by name); None if it is no function of the contract.

        Raises:
            DecodingError: the arguments are malformed.
        """
        entry = self._by_selector.get(data[:4])
        if entry is None:
            return None
        names = [given["name"] for given in entry["inputs"]]
        return entry["name"], dict(zip(names, _decode(entry["inputs"], data[4:]), strict=True))

    def topic(self, event: str) -> bytes:
        """Return the first topic of an event's logs."""
        return next(digest for digest, entry in self._events.items() if entry["name"] == event)

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Decode a log as (event name, arguments by name); None if it is no event of the contract."""
        event = self._events.get(topics[0]) if topics else None
        if event is None:
            return None
        indexed = [entry for entry in event["inputs"] if entry["indexed"]]
        plain = [entry for entry in event["inputs"] if not entry["indexed"]]
        arguments = {
            entry["name"]: _decode([entry], topic)[0] for entry, topic in zip(indexed, topics[1:], strict=True)
        }
        arguments.update(zip((entry["name"] for entry in plain), _decode(plain, data), strict=True))
        return event["name"], arguments


@cache
def load_abi(contract: str) -> Abi:
    """Return the ABI of a published contract."""
    return Abi(artifacts.load(contract).abi)


def _kinds(entries: Sequence[_Entry]) -> str:
    return f"({','.join(_kind(entry) for entry in entries)})"


def _kind(entry: _Entry) -> str:
    kind: str = entry["type"]
    return f"{_kinds(entry['components'])}{kind[len('tuple') :]}" if kind.startswith("tuple") else kind


def _decode(entries: Sequence[_Entry], data: bytes) -> tuple[Any, ...]:
    # A text is read as bytes: the strict decoder would refuse one that is not UTF-8.
    try:
        values = abi_decode([_kind(entry).replace("string", "bytes") for entry in entries], data)
    except OverflowError as error:  # an offset beyond what Python can seek to
        raise DecodingError(str(error)) from error
    return tuple(_plain(entry, value) for entry, value in zip(entries, values, strict=True))


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
