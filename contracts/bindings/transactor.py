"""The one sender of transactions of an account: nonce, gas, fees, replacement, confirmation, restart.

A transaction is named by its purpose. Its signed bytes are in the outbox before the node sees them, so that after a
crash at any line the same bytes go out again and the same purpose never becomes two transactions. Called by settlement
and the command lines; two transactors for one account must share one outbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eth_account import Account
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError

from contracts.bindings.errors import (
    ChainError,
    NodeUnreachable,
    NotEnoughGasMoney,
    TransactionReverted,
    decode_revert,
)
from contracts.bindings.outbox import MemoryOutbox, Outbox, Outgoing
from contracts.bindings.rpc import named
from contracts.protocol.errors import Retry
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.signing import PrivateKey

GAS_MARGIN_PERCENT = 20
LEAST_GAS = 21_000  # of any transaction on any chain
FEE_BUMP_PERCENT = 25  # nodes demand at least 10 % for a replacement
# A replacement offers at most so many times what the node asks for now: beyond that, fees are not why it waits.
FEE_CEILING = 8
# What a block's maker is offered on top at most, eight times as much where it was bid up: it is paid whole, so that a
# node which names any sum would have the account give away all its gas money. Base asks a thousandth of it.
MOST_PRIORITY_FEE = 10 * 10**9
STUCK_SECONDS = 45.0
# So many missing nonces are used at one look.
GAP_AT_ONCE = 16
POLL_SECONDS = 0.2
WAIT_SECONDS = 300.0
_FILLING = "gap:"
_KNOWN = ("already known", "already imported", "known transaction")
_NONCE = ("nonce too low", "nonce is too low", "invalid nonce", "nonce too high")


class NotConfirmed(ChainError):
    """A transaction is not in a block after a long wait; it stays in the outbox and is sent again."""

    code = "not-confirmed"
    retry = Retry.LATER


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction in a block; `contract` is set for a deployment."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    logs: Sequence[Any]
    contract: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A receipt as the node gave it."""

    mined: Mined
    succeeded: bool


def _found(receipt: Any) -> _Found:
    address = receipt.get("contractAddress")
    mined = Mined(
        tx_hash=bytes(receipt["transactionHash"]),
        block_number=int(receipt["blockNumber"]),
        block_hash=bytes(receipt["blockHash"]),
        gas_used=int(receipt["gasUsed"]),
        logs=receipt["logs"],
        contract=bytes.fromhex(address[2:]) if address else None,
    )
    return _Found(mined, succeeded=receipt["status"] == 1)


class Transactor:
    """Sends for one account; safe to use from several threads."""

    def __init__(
        self,
        web3: Web3,
        key: PrivateKey,
        *,
        outbox: Outbox | None = None,
        confirmations: int = 0,
        chain_id: int | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self.web3 = web3
        self.address = key.address
        self._key = key
        self._outbox: Outbox = outbox if outbox is not None else MemoryOutbox()
        self.confirmations = confirmations
        self._clock = clock
        self._sleep = sleep
        self._stuck_seconds = stuck_seconds
        self._chain_id = chain_id
        self._lock = threading.Lock()

    def run(self, purpose: str, to: bytes | None, data: bytes, *, wait_seconds: float = WAIT_SECONDS) -> Mined:
        """Send once for this purpose, ever, and wait until it is confirmed; `to` None deploys.

        Raises:
            TransactionReverted: the contract refuses; nothing stays in the outbox, so the purpose may be tried again.
            NotEnoughGasMoney: the account cannot pay.
            NodeUnreachable: the node is away; what was signed stays in the outbox.
            NotConfirmed: no block took it in time; it stays in the outbox.
        """
        try:
            self.submit(purpose, to, data)
            return self.wait(purpose, wait_seconds=wait_seconds)
        except TransactionReverted:
            # Mined, and without effect: what the chain refused now it may take later.
            self.forget(purpose)
            raise
        except NodeUnreachable as error:
            signed = self._outbox.get(self.address, purpose)
            remedy = error.remedy if signed is None else _look_first(signed)
            raise NodeUnreachable(error.detail, field=error.field, remedy=remedy) from error

    def submit(self, purpose: str, to: bytes | None, data: bytes) -> Outgoing:
        """Sign, store and broadcast, unless this purpose has been sent before; raises as `run` does."""
        try:
            return self._submit(purpose, to, data)
        except NotEnoughGasMoney as error:
            raise self._too_poor() from error

    def _submit(self, purpose: str, to: bytes | None, data: bytes) -> Outgoing:
        with self._lock:
            known = self._outbox.get(self.address, purpose)
            if known is not None:
                return known
            gas = self.estimate(to, data)
            max_fee, priority = self._fees()
            while known is None:
                nonce = self._next_nonce()
                outgoing = self._signed(
                    Outgoing(self.address, purpose, to, data, gas, nonce, max_fee, priority, b"", (), self._clock())
                )
                if self._outbox.add(outgoing):
                    self._broadcast(outgoing, fresh=True)
                    return outgoing
                # Another process was first by a moment: with this purpose, or with this nonce.
                known = self._outbox.get(self.address, purpose)
            return known

    def estimate(self, to: bytes | None, data: bytes) -> int:
        """Return the gas limit to use: the node's estimate and a margin.

        Raises:
            TransactionReverted: it would revert.
        """
        call: dict[str, Any] = {"from": checksum(self.address), "data": hex0x(data)}
        if to is not None:
            call["to"] = checksum(to)
        with named():
            gas = int(self.web3.eth.estimate_gas(call))  # type: ignore[arg-type]
        if gas < LEAST_GAS:
            raise NodeUnreachable(f"the node's answer makes no sense: {gas} gas for a transaction.", field="rpc_url")
        return gas * (100 + GAS_MARGIN_PERCENT) // 100

    def wait(self, purpose: str, *, wait_seconds: float = WAIT_SECONDS) -> Mined:
        """Wait until a submitted transaction is confirmed; resend and replace it as needed."""
        deadline_at = self._clock() + wait_seconds
        while True:
            mined = self.poll(purpose)
            if mined is not None:
                return mined
            if self._clock() > deadline_at:
                waiting = self._outbox.get(self.address, purpose)
                raise NotConfirmed(
                    f"{purpose} is in no confirmed block after {wait_seconds:.0f} s.",
                    field="purpose",
                    remedy=None if waiting is None else _look_first(waiting),
                )
            self._sleep(POLL_SECONDS)

    def poll(self, purpose: str) -> Mined | None:
        """Look once at a submitted transaction; None while it is not confirmed.

        Raises:
            TransactionReverted: it was mined and reverted.
            NotEnoughGasMoney: the account can no longer pay for it; it stays in the outbox.
        """
        try:
            return self._poll(purpose)
        except NotEnoughGasMoney as error:
            raise self._too_poor() from error

    def _poll(self, purpose: str) -> Mined | None:
        with self._lock:
            outgoing = self._outbox.get(self.address, purpose)
            if outgoing is None:
                raise NotConfirmed(f"{purpose} was never submitted.", field="purpose")
            for tx_hash in reversed(outgoing.tx_hashes):
                found = self._receipt(tx_hash)
                if found is not None:
                    return self._mined(outgoing, found)
            if self._clock() - outgoing.sent_at > self._stuck_seconds:
                if not self._closed_gap(outgoing):
                    self._replace(outgoing)
            elif self._lost(outgoing):
                self._broadcast(outgoing)
            return None

    def holds(self, purpose: str) -> bool:
        """Tell whether this purpose was signed and not forgotten since."""
        return self._outbox.get(self.address, purpose) is not None

    def recall(self, purpose: str) -> None:
        """Take up a confirmed transaction that a reorganisation took off the chain: the same bytes go out again."""
        with self._lock:
            outgoing = self._outbox.get(self.address, purpose)
            if outgoing is not None:
                self._outbox.put(replace(outgoing, done=False))

    def forget(self, purpose: str) -> None:
        """Drop a transaction that was mined and reverted, so that its purpose may be tried again."""
        with self._lock:
            outgoing = self._outbox.get(self.address, purpose)
            if outgoing is not None and outgoing.done:
                self._outbox.drop(self.address, purpose)

    def resume(self) -> list[str]:
        """Broadcast again what the outbox holds unconfirmed; returns its purposes. Call it once at start."""
        with self._lock:
            waiting = self._outbox.pending(self.address)
            for outgoing in waiting:
                if all(self._receipt(tx_hash) is None for tx_hash in outgoing.tx_hashes):
                    self._broadcast(outgoing)
            return [outgoing.purpose for outgoing in waiting]

    # --- parts ------------------------------------------------------------------------------------------------

    def _next_nonce(self) -> int:
        mined = self._used_nonces()
        ours = self._outbox.pending(self.address)
        for row in ours:
            if row.purpose.startswith(_FILLING) and row.nonce < mined:
                self._outbox.drop(self.address, row.purpose)
        return max([mined, *(row.nonce + 1 for row in ours)])

    def _used_nonces(self) -> int:
        """Return how many transactions of the account are in blocks, by the node's word."""
        with named():
            return int(self.web3.eth.get_transaction_count(checksum(self.address), "latest"))  # type: ignore[arg-type]

    def _fees(self) -> tuple[int, int]:
        with named():
            base = int(self.web3.eth.get_block("latest").get("baseFeePerGas", 0))
            priority = min(int(self.web3.eth.max_priority_fee), MOST_PRIORITY_FEE)
        return 2 * base + priority, priority

    def _signed(self, outgoing: Outgoing) -> Outgoing:
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self._served_chain(),
            "nonce": outgoing.nonce,
            "gas": outgoing.gas,
            "maxFeePerGas": outgoing.max_fee_per_gas,
            "maxPriorityFeePerGas": outgoing.priority_fee_per_gas,
            "value": 0,
            "data": outgoing.data,
        }
        if outgoing.to is not None:
            transaction["to"] = checksum(outgoing.to)
        signed = Account.sign_transaction(transaction, self._key.secret_bytes())
        return replace(
            outgoing,
            raw=bytes(signed.raw_transaction),
            tx_hashes=(*outgoing.tx_hashes, bytes(signed.hash)),
            sent_at=self._clock(),
        )

    def _served_chain(self) -> int:
        """Return the id of the chain to sign for, by the node only if nobody said it.

        The first answer counts: a node that changes its chain must not get signatures for it.
        """
        if self._chain_id is None:
            with named():
                self._chain_id = int(self.web3.eth.chain_id)
        return self._chain_id

    def _broadcast(self, outgoing: Outgoing, *, fresh: bool = False) -> None:
        """Give the signed bytes to the node; `fresh` ones were never given to any."""
        try:
            with named():
                try:
                    self.web3.eth.send_raw_transaction(outgoing.raw)
                except Web3RPCError as error:
                    text = str(error).lower()
                    if any(words in text for words in _KNOWN):
                        return
                    if any(words in text for words in _NONCE):
                        self._resync(outgoing, fresh=fresh)
                        return
                    raise
        except NodeUnreachable:
            # The bytes are in the outbox: a node that comes back gets them again.
            raise
        except ChainError:
            # Refused for good. What some node took before, a block may still take: that is never forgotten.
            if fresh:
                self._outbox.drop(self.address, outgoing.purpose)
            raise

    def _resync(self, outgoing: Outgoing, *, fresh: bool) -> None:
        """Sign the same purpose with another nonce, but only where none of our versions can be what used this one."""
        account: Any = checksum(self.address)
        with named():
            head = int(self.web3.eth.block_number)
            # A node may count a transaction before it shows its receipt: trust the count of an older block only.
            settled = int(self.web3.eth.get_transaction_count(account, max(0, head - max(1, self.confirmations))))
        if not fresh and settled <= outgoing.nonce:
            return
        if any(self._receipt(tx_hash) is not None for tx_hash in outgoing.tx_hashes):
            return
        with named():
            nonce = int(self.web3.eth.get_transaction_count(account, "latest"))
        others = {row.nonce for row in self._outbox.pending(self.address) if row.purpose != outgoing.purpose}
        while nonce in others:
            nonce += 1
        again = self._signed(replace(outgoing, nonce=nonce))
        self._outbox.put(again)
        with named():
            self.web3.eth.send_raw_transaction(again.raw)

    def _closed_gap(self, outgoing: Outgoing) -> bool:
        """Use the nonces below one that waits, as far as nothing of ours waits with them; False if there is no gap.

        A node that said too much left them, or a reorganisation deeper than we wait. What had such a nonce goes out
        again; where nothing had, a transaction to ourselves that moves nothing uses it. Signing the waiting one anew
        with a lower nonce instead could have its effect twice.
        """
        mined = self._used_nonces()
        held = {row.nonce for row in self._outbox.pending(self.address) if not row.purpose.startswith(_FILLING)}
        missing = [nonce for nonce in range(mined, min(outgoing.nonce, mined + GAP_AT_ONCE)) if nonce not in held]
        for nonce in missing:
            using = self._outbox.at(self.address, nonce) or self._filling(nonce)
            if using is not None:
                self._offer(using)
        if missing:
            self._outbox.put(replace(outgoing, sent_at=self._clock()))
        return bool(missing)

    def _filling(self, nonce: int) -> Outgoing | None:
        max_fee, priority = self._fees()
        gas = self.estimate(self.address, b"")
        filling = self._signed(
            Outgoing(
                *(self.address, f"{_FILLING}{nonce}", self.address, b"", gas, nonce, max_fee, priority, b"", ()),
                self._clock(),
            )
        )
        return filling if self._outbox.add(filling) else None

    def _offer(self, outgoing: Outgoing) -> None:
        """Give signed bytes to the node; if it has them or another with their nonce, all the better."""
        with named():
            try:
                self.web3.eth.send_raw_transaction(outgoing.raw)
            except Web3RPCError as error:
                if not any(words in str(error).lower() for words in (*_KNOWN, *_NONCE)):
                    raise

    def _replace(self, outgoing: Outgoing) -> None:
        """Offer more, up to a ceiling; from there on send the same again."""
        max_fee, priority = self._fees()
        dearest = _bumped(outgoing.priority_fee_per_gas) > FEE_CEILING * MOST_PRIORITY_FEE
        if dearest or _bumped(outgoing.max_fee_per_gas) > FEE_CEILING * max_fee:
            self._outbox.put(replace(outgoing, sent_at=self._clock()))
            self._broadcast(outgoing)
            return
        dearer = self._signed(
            replace(
                outgoing,
                max_fee_per_gas=max(max_fee, _bumped(outgoing.max_fee_per_gas)),
                priority_fee_per_gas=max(priority, _bumped(outgoing.priority_fee_per_gas)),
            )
        )
        self._outbox.put(dearer)
        try:
            self._broadcast(dearer)
        except NotEnoughGasMoney:
            # No node took it: the cheaper version is the one that a block may take.
            self._outbox.put(replace(outgoing, sent_at=self._clock()))
            raise

    def _lost(self, outgoing: Outgoing) -> bool:
        """Tell whether the node has forgotten the transaction (restart, reorganisation)."""
        try:
            with named():
                self.web3.eth.get_transaction(hex0x(outgoing.tx_hashes[-1]))  # type: ignore[arg-type]
        except NodeUnreachable as error:
            if isinstance(error.__cause__, TransactionNotFound):
                return True
            raise
        return False

    def _receipt(self, tx_hash: bytes) -> _Found | None:
        try:
            with named():
                return _found(self.web3.eth.get_transaction_receipt(hex0x(tx_hash)))  # type: ignore[arg-type]
        except NodeUnreachable as error:
            if isinstance(error.__cause__, TransactionNotFound):
                return None
            raise

    def _mined(self, outgoing: Outgoing, found: _Found) -> Mined | None:
        with named():
            head = int(self.web3.eth.block_number)
        if head - found.mined.block_number < self.confirmations:
            return None
        self._outbox.put(replace(outgoing, done=True))
        if not found.succeeded:
            raise self._why(outgoing, found.mined.block_number)
        return found.mined

    def _too_poor(self) -> NotEnoughGasMoney:
        account = checksum(self.address)
        with named():
            balance = int(self.web3.eth.get_balance(account))  # type: ignore[arg-type]
        return NotEnoughGasMoney(
            f"{account} holds {balance} wei of the chain's own currency, too little for gas.",
            field="account",
            remedy=f"Send {account} some of the chain's own currency and try again.",
        )

    def _why(self, outgoing: Outgoing, block: int) -> TransactionReverted:
        call: dict[str, Any] = {"from": checksum(self.address), "data": hex0x(outgoing.data), "gas": outgoing.gas}
        if outgoing.to is not None:
            call["to"] = checksum(outgoing.to)
        try:
            with named():
                self.web3.eth.call(call, block)  # type: ignore[arg-type]
        except TransactionReverted as reason:
            return reason
        except ChainError:
            pass
        return decode_revert(b"")


def _look_first(outgoing: Outgoing) -> str:
    sent = ", ".join(hex0x(tx_hash) for tx_hash in outgoing.tx_hashes)
    return f"It may have been sent: look for transaction {sent} before you try again."


def _bumped(fee: int) -> int:
    return fee * (100 + FEE_BUMP_PERCENT) // 100 + 1
