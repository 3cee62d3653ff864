"""The escrow and the disputes for settlement: one transaction an epoch or answer, and what is confirmed of them.

Implements `market.settlement.ports.SettlementChain` and `Standing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts.bindings.dispute_manager import DisputeManager
from contracts.bindings.errors import ChainError, TransactionReverted
from contracts.bindings.escrow import Credit, Debit, Escrow
from contracts.bindings.rpc import named
from contracts.bindings.transactor import Transactor
from market.errors import ChainUnreachable
from market.registry.ports import RegistryView
from market.settlement.answer import AnswerRefused
from market.settlement.ports import Batch, DueChannel, Inclusion, OnChain, OpenChallenge, Sent
from market.settlement.settle import SettlementRefused


class EscrowSettlementChain:
    """Settles with the gateway's own key."""

    def __init__(self, escrow: Escrow, transactor: Transactor) -> None:
        self._escrow = escrow
        self._transactor = transactor

    def last_epoch(self) -> int:
        """See `SettlementChain.last_epoch`."""
        try:
            return self._escrow.last_epoch(self._transactor.address)
        except ChainError as error:
            raise ChainUnreachable(error.detail) from error

    def encode(
        self,
        epoch: int,
        root: bytes,
        count: int,
        debits: Sequence[tuple[DueChannel, int]],
        credit_rows: Sequence[tuple[bytes, int]],
    ) -> bytes:
        """See `SettlementChain.encode`."""
        rows = [
            Debit(
                payer=channel.payer,
                signer=channel.signer,
                salt=channel.salt,
                claim_total=claim,
                voucher_amount=channel.voucher_amount,
                voucher_signature=channel.voucher_signature,
            )
            for channel, claim in debits
        ]
        return self._escrow.settle_batch(epoch, root, count, rows, [Credit(*row) for row in credit_rows])

    def send(self, epoch: int, call_data: bytes) -> Sent | None:
        """See `SettlementChain.send`."""
        purpose = self._purpose(epoch)
        try:
            self._transactor.submit(purpose, self._escrow.address, call_data)
            mined = self._transactor.poll(purpose)
        except TransactionReverted as error:
            # Two transactions of one epoch cannot both succeed, so a reverted one may be followed by another.
            self._transactor.forget(purpose)
            raise SettlementRefused(error.detail, field="epoch") from error
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error
        return None if mined is None else Sent(mined.tx_hash, mined.gas_used, mined.block_number)

    def is_lost(self, batch: Batch) -> bool:
        """See `SettlementChain.is_lost`."""
        try:
            with named():
                head = int(self._transactor.web3.eth.block_number)
            return head >= (batch.block_number or 0) and self.last_epoch() < batch.epoch
        except ChainError as error:
            raise ChainUnreachable(error.detail) from error

    def is_ahead(self, epoch: int) -> bool:
        """See `SettlementChain.is_ahead`."""
        try:
            return not self._transactor.holds(self._purpose(epoch)) and self.last_epoch() + 1 < epoch
        except ChainError as error:
            raise ChainUnreachable(error.detail) from error

    def recall(self, epoch: int) -> None:
        """See `SettlementChain.recall`."""
        self._transactor.recall(self._purpose(epoch))

    def _purpose(self, epoch: int) -> str:
        return f"settle:{self._escrow.address.hex()}:{epoch}"


class EscrowDisputes:
    """Answers with the gateway's own key. Implements `market.settlement.ports.DisputeChain`."""

    def __init__(self, disputes: DisputeManager, transactor: Transactor) -> None:
        self._disputes = disputes
        self._transactor = transactor

    def answer(self, digest: bytes, proof: Inclusion) -> bool:
        """See `DisputeChain.answer`."""
        purpose = f"answer:{digest.hex()}"
        try:
            data = self._disputes.answer_inclusion(digest, proof.epoch, proof.path)
            self._transactor.submit(purpose, self._disputes.address, data)
            return self._transactor.poll(purpose) is not None
        except TransactionReverted as error:
            self._transactor.forget(purpose)
            raise AnswerRefused(error.detail, field="receipt") from error
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error


class RegistryStanding:
    """Implements `market.settlement.ports.Standing` and `Challenges` from the confirmed view."""

    def __init__(self, view: RegistryView, gateway: bytes) -> None:
        self._view = view
        self._gateway = gateway

    def channel(self, channel_id: bytes) -> tuple[int, int]:
        """See `Standing.channel`."""
        found = self._view.channel(channel_id)
        return (0, 0) if found is None else (found.deposited, found.settled)

    def credited(self, payee: bytes) -> int:
        """See `Standing.credited`."""
        return self._view.credits(self._gateway, payee).credited

    def free_reserve(self) -> int:
        """See `Standing.free_reserve`."""
        reserve = self._view.reserve(self._gateway)
        return max(0, reserve.amount - reserve.arrears)

    def batch(self, epoch: int) -> OnChain | None:
        """See `Standing.batch`."""
        for record in reversed(self._view.settlements(self._gateway)):
            if record.epoch == epoch:
                return OnChain(record.root, record.tx_hash, record.block)
        return None

    def challenges(self) -> Sequence[OpenChallenge]:
        """See `market.settlement.ports.Challenges`."""
        return [OpenChallenge(one.digest, one.answer_by) for one in self._view.challenges(self._gateway)]

    def exiting(self) -> Iterable[bytes]:
        """See `Standing.exiting`."""
        return [
            channel.channel_id
            for channel in self._view.channels()
            if channel.exit_at != 0 and channel.gateway == self._gateway
        ]
