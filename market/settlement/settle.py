"""Settles: decide a batch durably, send it once, confirm it. Safe to stop at any line and to run twice.

At most one batch of a gateway is under way; the next one is decided when it is confirmed. Called by `market.jobs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from market.errors import OperationError
from market.settlement.plan import MAX_RECEIPTS, plan
from market.settlement.ports import Batch, SettlementBook, SettlementChain

log = structlog.get_logger(__name__)


class SettlementRefused(OperationError):
    """The escrow refuses a settlement that this gateway decided."""

    code = "settlement-refused"
    default_remedy = "Compare the database with the chain: another program may settle with this gateway's key."


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to settle: after `interval_seconds`, or once `value` atomic units wait, or as soon as a payer exits."""

    interval_seconds: float
    value: int


class Settler:
    """One gateway's settlements."""

    def __init__(
        self,
        *,
        gateway: bytes,
        book: SettlementBook,
        chain: SettlementChain,
        rhythm: Rhythm,
        exiting: Callable[[], frozenset[bytes]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._book = book
        self._chain = chain
        self._rhythm = rhythm
        self._exiting = exiting
        self._clock = clock

    def step(self, *, force: bool = False) -> Batch | None:
        """Carry the open batch on, or decide and send a new one if it is time; returns what was confirmed.

        Raises:
            ChainUnreachable: try again later; nothing is lost.
            SettlementRefused: the contract refuses; a person must look.
        """
        batch = self._book.open_batch(self._gateway)
        if batch is None:
            if not (force or self.is_due()):
                return None
            batch = self._decide()
            if batch is None:
                return None
        return self._carry_on(batch)

    def is_due(self) -> bool:
        """Tell whether enough waits, or has waited long enough, or must be settled before a payer leaves."""
        backlog = self._book.backlog(self._gateway)
        if backlog.receipts == 0:
            return False
        if backlog.value >= self._rhythm.value or backlog.receipts >= MAX_RECEIPTS:
            return True
        if self._clock() - backlog.oldest_at >= self._rhythm.interval_seconds:
            return True
        leaving = self._exiting()
        return bool(leaving) and not leaving.isdisjoint(self._book.unsettled_channels(self._gateway))

    def _decide(self) -> Batch | None:
        due = self._book.due(self._gateway, MAX_RECEIPTS)
        if not due.receipts:
            return None
        planned = plan(due)
        epoch = self._chain.last_epoch() + 1
        batch = Batch(
            gateway=self._gateway,
            epoch=epoch,
            root=planned.root,
            receipt_count=planned.count,
            debited=planned.debited,
            credited=planned.credited,
            call_data=self._chain.encode(epoch, planned.root, planned.count, planned.debits, planned.credits),
        )
        if not self._book.decide(batch, due.receipts, planned.totals):
            return None  # another process was first
        log.info("settlement-decided", epoch=epoch, receipts=batch.receipt_count, value=batch.debited)
        return batch

    def _carry_on(self, batch: Batch) -> Batch | None:
        sent = self._chain.send(batch.epoch, batch.call_data)
        if sent is None:
            return None
        self._book.confirm(
            self._gateway,
            batch.epoch,
            tx_hash=sent.tx_hash,
            gas_used=sent.gas_used,
            block_number=sent.block_number,
        )
        log.info(
            "settlement-confirmed",
            epoch=batch.epoch,
            receipts=batch.receipt_count,
            gas=sent.gas_used,
            gas_per_receipt=sent.gas_used // max(1, batch.receipt_count),
        )
        return self._book.batch(self._gateway, batch.epoch)
