"""Reads blocks and decoded events from an EVM node. Implements `market.registry.ports.ChainReader`.

Adds to each settlement what its payees stand at afterwards: the contract emits no event per credit, since the rows are
in the call data. They count only in a call that went straight to the escrow: the call data of a contract in between are
whatever a gateway likes, and it must not make a worker believe that it was paid. Never writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from web3 import Web3
from web3.exceptions import BlockNotFound

from contracts.bindings.contract import Binding
from contracts.bindings.deploy import Contracts
from contracts.bindings.errors import ChainError, NodeUnreachable
from contracts.bindings.rpc import named
from contracts.protocol.hexes import checksum, hex0x
from market.errors import ChainUnreachable
from market.registry.ports import Block, ChainEvent

# The root of an empty trie.
_NO_TRANSACTIONS = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")


class Web3ChainReader:
    """One node seen through its contracts' events."""

    def __init__(self, web3: Web3, contracts: Contracts) -> None:
        self._web3 = web3
        self._escrow = contracts.escrow
        bindings: tuple[Binding, ...] = (contracts.escrow, contracts.workers, contracts.models, contracts.disputes)
        self._bindings = {binding.address: binding for binding in bindings}

    def newest(self) -> Block:
        """See `ChainReader.newest`."""
        with _reachable():
            return _block(self._web3.eth.get_block("latest"))

    def block(self, number: int) -> Block | None:
        """See `ChainReader.block`."""
        try:
            with _reachable():
                return _block(self._web3.eth.get_block(number))
        except ChainUnreachable as error:
            if isinstance(error.__cause__, NodeUnreachable) and isinstance(error.__cause__.__cause__, BlockNotFound):
                return None
            raise

    def events_in(self, block: Block) -> Sequence[ChainEvent]:
        """See `ChainReader.events_in`."""
        if block.is_empty:
            return []
        return self._events({"blockHash": hex0x(block.hash)})

    def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """See `ChainReader.events`."""
        return self._events({"fromBlock": first, "toBlock": last})

    def _events(self, where: dict[str, Any]) -> list[ChainEvent]:
        query: Any = {**where, "address": [checksum(address) for address in self._bindings]}
        with _reachable():
            found = self._decoded(self._web3.eth.get_logs(query))
        return [self._with_credits(event, found) for event in found]

    def _decoded(self, logs: Sequence[Any]) -> list[ChainEvent]:
        found = []
        for log in sorted(logs, key=lambda log: (log["blockNumber"], log["logIndex"])):
            if log.get("removed"):
                continue
            binding = self._bindings[bytes.fromhex(log["address"][2:])]
            decoded = binding.decode_log([bytes(topic) for topic in log["topics"]], bytes(log["data"]))
            if decoded is None:
                continue
            name, args = decoded
            found.append(
                ChainEvent(
                    contract=binding.NAME,
                    name=name,
                    args=args,
                    block_number=int(log["blockNumber"]),
                    block_hash=bytes(log["blockHash"]),
                    tx_hash=bytes(log["transactionHash"]),
                    log_index=int(log["logIndex"]),
                )
            )
        return found

    def _with_credits(self, event: ChainEvent, events: Sequence[ChainEvent]) -> ChainEvent:
        if event.name != "BatchSettled":
            return event
        short = {
            other.args["payee"]: other.args["credited"]
            for other in events
            if other.name == "CreditShort" and other.tx_hash == event.tx_hash
        }
        with _reachable():
            transaction = self._web3.eth.get_transaction(hex0x(event.tx_hash))  # type: ignore[arg-type]
            block_hash, call_data = bytes(transaction.get("blockHash") or b""), bytes(transaction["input"])
        if block_hash != event.block_hash:
            raise ChainUnreachable("the node moved a settlement to another block while it was read.")
        direct = transaction.get("to") == checksum(self._escrow.address)
        rows = (self._escrow.decode_credits(call_data) or []) if direct else []
        totals = tuple((row.payee, min(row.cumulative, short.get(row.payee, row.cumulative))) for row in rows)
        return ChainEvent(
            contract=event.contract,
            name=event.name,
            args={**event.args, "creditedTotals": totals},
            block_number=event.block_number,
            block_hash=event.block_hash,
            tx_hash=event.tx_hash,
            log_index=event.log_index,
        )


def _block(found: Any) -> Block:
    # Told by the root, which is part of what the hash is of; a list alone could be a node's that keeps no transactions.
    is_empty = bytes(found.get("transactionsRoot") or b"") == _NO_TRANSACTIONS
    return Block(
        int(found["number"]), bytes(found["hash"]), int(found["timestamp"]), bytes(found["parentHash"]), is_empty
    )


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        with named():
            yield
    except ChainError as error:
        raise ChainUnreachable(error.detail) from error
