"""The escrow for settlement: one transaction per epoch through the account's transactor.

Implements `market.settlement.ports.SettlementChain`.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.bindings.errors import ChainError, TransactionReverted
from contracts.bindings.escrow import Credit, Debit, Escrow
from contracts.bindings.transactor import Transactor
from market.errors import ChainUnreachable
from market.settlement.ports import DueChannel, Sent
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
        purpose = f"settle:{self._escrow.address.hex()}:{epoch}"
        try:
            self._transactor.submit(purpose, self._escrow.address, call_data)
            mined = self._transactor.poll(purpose)
        except TransactionReverted as error:
            raise SettlementRefused(error.detail, field="epoch") from error
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error
        return None if mined is None else Sent(mined.tx_hash, mined.gas_used, mined.block_number)
