"""Finds out what became of an EIP-3009 authorization that the token no longer takes: did its money reach us?

Decides whether a refused authorization was in truth paid: by our own transaction before a crash, or by somebody who
sent the payer's authorization first. Without this the payer would have paid for nothing. It sends nothing. Called by
`market.adapters.x402_facilitator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.mechanisms.evm.exact.eip3009_utils import verify_eip3009_transfer_event

from contracts.bindings.rpc import named
from contracts.bindings.transactor import Transactor
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import address_from_hex, checksum, from_hex, hex0x
from market.payments.x402_ports import SettlementPending

# An authorization is good for minutes; this is hours on every chain, and within what public nodes search at once.
LOOK_BACK_BLOCKS = 5_000
_USED = keccak256(b"AuthorizationUsed(address,bytes32)")
_CANCELED = keccak256(b"AuthorizationCanceled(address,bytes32)")
_STATE = keccak256(b"authorizationState(address,bytes32)")[:4]


class UsedAuthorizations:
    """Reads one token's record of authorizations to one receiver."""

    def __init__(self, transactor: Transactor, token: bytes, receiver: bytes) -> None:
        self._web3 = transactor.web3
        self._confirmations = transactor.confirmations
        self._token = token
        self._receiver = receiver

    def paid_in(self, authorization: Mapping[str, Any], *, expired: bool) -> str | None:
        """Return the confirmed transaction that brought its money to the receiver, None if none has.

        `authorization` is the SDKs' wire form, its signature checked already; `expired` by our clock, which is not the
        chain's.

        Raises:
            SettlementPending: a transaction may still bring it, or has and is not confirmed.
            ChainError: the node is away.
        """
        payer = address_from_hex(authorization["from"], field="from").rjust(32, b"\0")
        nonce = from_hex(authorization["nonce"], 32, field="nonce")
        with named():
            head = self._web3.eth.get_block("latest")
            used = any(self._web3.eth.call({"to": _address(self._token), "data": _STATE + payer + nonce}))
        if not used:
            if expired and head["timestamp"] < int(authorization["validBefore"]):
                raise SettlementPending("")
            return None
        with named():
            logs = self._web3.eth.get_logs(
                {
                    "fromBlock": max(0, head["number"] - LOOK_BACK_BLOCKS),
                    "address": _address(self._token),
                    "topics": [[hex0x(_USED), hex0x(_CANCELED)], hex0x(payer), hex0x(nonce)],
                }
            )
        if not logs:
            # Used, and we cannot see by what: that is never a reason to say that nothing was paid.
            raise SettlementPending("")
        found = logs[-1]
        transaction = hex0x(bytes(found["transactionHash"]))
        cancelled = bytes(found["topics"][0]) == _CANCELED
        if cancelled or not self._arrived(transaction, found["logIndex"] + 1, authorization):
            return None
        if head["number"] - found["blockNumber"] < self._confirmations:
            raise SettlementPending(transaction)
        return transaction

    def _arrived(self, transaction: str, log_index: int, authorization: Mapping[str, Any]) -> bool:
        """Tell whether the log at this place is the transfer to us.

        The token writes it right after the authorization's own (EIP-3009's reference, USDC). Any other log of the
        transaction may be another payment's: one payment must not pay for two authorizations.
        """
        with named():
            receipt = self._web3.eth.get_transaction_receipt(transaction)  # type: ignore[arg-type]
        return verify_eip3009_transfer_event(
            [log for log in receipt["logs"] if log["logIndex"] == log_index],
            checksum(self._token),
            from_address=authorization["from"],
            to=checksum(self._receiver),
            value=int(authorization["value"]),
        )


def _address(raw: bytes) -> Any:
    return checksum(raw)
