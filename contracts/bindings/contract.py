"""What every binding shares: a contract at an address, read calls with bytes in and out, call data, decoded logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi.exceptions import DecodingError
from web3 import Web3

from contracts.bindings.abi import load_abi
from contracts.bindings.errors import NO_REASON, DeploymentError, TransactionReverted
from contracts.bindings.rpc import ask
from contracts.protocol.hexes import checksum, hex0x


class Binding:
    """Base of the contract bindings; `NAME` is the artefact."""

    NAME = ""

    def __init__(self, web3: Web3, address: bytes) -> None:
        self.web3 = web3
        self.address = address
        self.abi = load_abi(self.NAME)

    def read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        """Call a view; addresses go in as bytes and come out as bytes.

        Raises:
            DeploymentError: what stands at the address is not this contract.
        """
        call: Any = {"to": checksum(self.address), "data": hex0x(self.encode(function, *arguments))}
        at: Any = "latest" if block is None else block
        try:
            return self.abi.decode_answer(function, bytes(ask(lambda: self.web3.eth.call(call, at))))
        except (DecodingError, TransactionReverted) as error:
            if isinstance(error, TransactionReverted) and error.error != NO_REASON:
                raise
            raise DeploymentError(
                f"{checksum(self.address)} does not answer {function} as {self.NAME} does.",
                field="deployment",
                remedy="Make deployment file and chain the same network.",
            ) from error

    def encode(self, function: str, *arguments: Any) -> bytes:
        """Return the call data of a function."""
        return self.abi.encode_call(function, arguments)

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Decode a log of this contract as (event name, arguments by name); None if it is not one of its events."""
        return self.abi.decode_log(topics, data)
