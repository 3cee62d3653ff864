"""Sends and reads for the x402 SDK's facilitator through the project's own transactor.

Decides what a transaction's purpose is: its call data, so that the same authorization is one transaction however often
it is settled, across restarts too. It notes faults of the node apart from refusals of the chain, since the SDK turns
both into refusals. Called by `market.adapters.x402_facilitator` only, from threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from web3 import Web3
from x402.mechanisms.evm.types import TransactionReceipt, TypedDataField

from contracts.bindings.errors import ChainError, NodeUnreachable, NotEnoughGasMoney, TransactionReverted
from contracts.bindings.rpc import named
from contracts.bindings.transactor import NotConfirmed, Transactor
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, from_hex, hex0x
from contracts.protocol.signing import PrivateKey

CONFIRM_SECONDS = 60.0
_REMEMBERED = 10_000

_T = TypeVar("_T")


class HouseSigner:
    """Implements the SDK's `FacilitatorEvmSigner` and `AuthorizerSigner` for the house account."""

    def __init__(
        self, web3: Web3, key: PrivateKey, transactor: Transactor, *, confirm_seconds: float = CONFIRM_SECONDS
    ) -> None:
        self._web3 = web3
        self._key = key
        self._transactor = transactor
        self._confirm_seconds = confirm_seconds
        self._purposes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._noted = threading.local()

    @property
    def address(self) -> str:
        """The house account."""
        return checksum(self._key.address)

    def take_fault(self) -> ChainError | None:
        """Return and forget what went wrong with the node in this thread since the last call."""
        fault: ChainError | None = getattr(self._noted, "fault", None)
        self._noted.fault = None
        return fault

    # --- what the SDK asks for ----------------------------------------------------------------------------------

    def get_addresses(self) -> list[str]:
        """Name the accounts that send."""
        return [self.address]

    def get_chain_id(self) -> int:
        """Return the chain id of the node."""
        return self._noting(lambda: int(self._web3.eth.chain_id))

    def get_code(self, address: str) -> bytes:
        """Return the code at an address."""
        return self._noting(lambda: bytes(self._web3.eth.get_code(Web3.to_checksum_address(address))))

    def get_balance(self, address: str, token_address: str) -> int:
        """Return an account's tokens."""
        abi = [{"type": "function", "name": "balanceOf", "stateMutability": "view"}]
        abi[0] |= {"inputs": [{"type": "address", "name": ""}], "outputs": [{"type": "uint256", "name": ""}]}  # type: ignore[dict-item]
        return int(self.read_contract(token_address, abi, "balanceOf", Web3.to_checksum_address(address)))

    def read_contract(self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any) -> Any:
        """Call a function without sending it; raises if it reverts."""
        contract = self._web3.eth.contract(address=Web3.to_checksum_address(address), abi=abi)
        function = getattr(contract.functions, function_name)(*args)
        return self._noting(lambda: function.call({"from": self.address}))

    def verify_typed_data(
        self,
        address: str,
        domain: Any,
        types: dict[str, list[TypedDataField]],
        primary_type: str,
        message: dict[str, Any],
        signature: bytes,
    ) -> bool:
        """Tell whether an account signed typed data, as the token's own check on chain would."""
        from x402.mechanisms.evm.verify import verify_typed_data_strict

        return verify_typed_data_strict(self, address, domain, types, primary_type, message, signature)  # type: ignore[arg-type]

    def write_contract(
        self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any, data_suffix: str | None = None
    ) -> str:
        """Send a call once for its purpose; returns the transaction hash."""
        contract = self._web3.eth.contract(address=Web3.to_checksum_address(address), abi=abi)
        data = bytes.fromhex(contract.encode_abi(function_name, args=list(args))[2:])
        if data_suffix:
            data += bytes.fromhex(data_suffix.removeprefix("0x"))
        return self.send_transaction(address, data, salt=self._salt(contract, function_name, args))

    def send_transaction(self, to: str, data: bytes, *, salt: bytes = b"") -> str:
        """Send call data once; returns the transaction hash."""
        target = from_hex(to, 20, field="to")
        purpose = f"x402:{keccak256(target + data + salt).hex()}"
        outgoing = self._noting(lambda: self._transactor.submit(purpose, target, data))
        tx_hash = hex0x(outgoing.tx_hashes[-1])
        with self._lock:
            self._purposes[tx_hash] = purpose
            if len(self._purposes) > _REMEMBERED:
                del self._purposes[next(iter(self._purposes))]
        return tx_hash

    def wait_for_transaction_receipt(self, tx_hash: str) -> TransactionReceipt:
        """Wait until a transaction has its confirmations; it is sent again and replaced as needed.

        Raises:
            NotConfirmed: not in time; it stays out.
        """
        purpose = self._purposes[tx_hash]
        try:
            mined = self._noting(lambda: self._transactor.wait(purpose, wait_seconds=self._confirm_seconds))
        except TransactionReverted:
            # Not for ever: what the chain refused today it may take tomorrow, after a fresh estimate.
            self._transactor.forget(purpose)
            return TransactionReceipt(status=0, block_number=0, tx_hash=tx_hash)
        found = hex0x(mined.tx_hash)
        return TransactionReceipt(status=1, block_number=mined.block_number, tx_hash=found, logs=list(mined.logs))

    def sign_typed_data(
        self,
        domain: dict[str, Any],
        types: dict[str, list[dict[str, str]]],
        primary_type: str,
        message: dict[str, Any],
    ) -> str:
        """Sign as the receiver's authorizer."""
        from eth_account.messages import encode_typed_data

        del primary_type  # the only type that no other refers to
        found = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
        digest = keccak256(b"\x19" + found.version + found.header + found.body)
        return hex0x(self._key.sign_digest(digest))

    # --- parts --------------------------------------------------------------------------------------------------

    def _salt(self, contract: Any, function_name: str, args: Sequence[Any]) -> bytes:
        """Tell apart effects whose call data is the same: sweeping claimed money is a new effect after every claim."""
        if function_name != "settle":
            return b""
        claimed, _ = self._noting(lambda: contract.functions.receivers(*args).call())
        return int(claimed).to_bytes(32, "big")

    def _noting(self, work: Callable[[], _T]) -> _T:
        try:
            with named():
                return work()
        except (NodeUnreachable, NotEnoughGasMoney, NotConfirmed) as fault:
            self._noted.fault = fault
            raise
