"""Settles: decide a batch durably, send it once, confirm it. Safe to stop at any line and to run twice.

At most one batch of a gateway is under way; the next one is decided when it is confirmed and read back from the chain.
A batch that a reorganisation took off the chain is sent again as it was. Called by `market.jobs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from market.errors import OperationError
from market.settlement.plan import MAX_RECEIPTS, makes_good, paid_totals, plan
from market.settlement.ports import Backlog, Batch, Sent, SettlementBook, SettlementChain, Standing

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
        standing: Standing,
        rhythm: Rhythm,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateway = gateway
        self._book = book
        self._chain = chain
        self._standing = standing
        self._rhythm = rhythm
        self._clock = clock
        # The oldest waiting receipt and when this process first saw it: receipts carry their worker's clock, not ours.
        self._waiting = (0, 0.0)
        self._looked_at = float("-inf")

    def step(self, *, force: bool = False) -> Batch | None:
        """Carry the open batch on, or decide and send a new one if it is time; returns what was confirmed.

        Raises:
            ChainUnreachable: try again later; nothing is lost.
            SettlementRefused: the contract refuses; it is tried again, but a person must look.
        """
        # A lost batch first: none that follows it can be settled before it is there again.
        newest = self._newest_confirmed()
        batch = self._book.open_batch(self.gateway)
        if batch is None:
            if newest is not None and self._standing.batch(newest.epoch) is None:
                return None  # planned on what was true before the last batch, the next one would claim twice
            if not (force or self.is_due()):
                return None
            batch = self._decide()
            if batch is None:
                return None
        return self._carry_on(batch)

    def backlog(self) -> Backlog:
        """Return what waits to be settled."""
        return self._book.backlog(self.gateway)

    def waited_seconds(self, backlog: Backlog) -> float:
        """Return how long this process has seen the oldest receipt of a backlog wait."""
        return self._clock() - self._waiting[1] if backlog.receipts and backlog.oldest == self._waiting[0] else 0.0

    def is_due(self) -> bool:
        """Tell whether enough waits, or has waited long enough, or must be settled before a payer leaves."""
        backlog = self._book.backlog(self.gateway)
        if self._waits_long(backlog) or backlog.value >= self._rhythm.value or backlog.receipts >= MAX_RECEIPTS:
            return True
        if backlog.receipts:
            leaving = set(self._standing.exiting())
            if leaving and not leaving.isdisjoint(self._book.unsettled_channels(self.gateway)):
                return True
        return self._can_make_good()

    def _can_make_good(self) -> bool:
        if self._clock() - self._looked_at < self._rhythm.interval_seconds:
            return False
        self._looked_at = self._clock()
        due = self._book.due(self.gateway, 0)
        self._book.mark_paid(self.gateway, paid_totals(due, self._standing))
        return makes_good(due, self._standing)

    def _waits_long(self, backlog: Backlog) -> bool:
        if backlog.oldest != self._waiting[0]:
            self._waiting = (backlog.oldest, self._clock())
        return backlog.receipts > 0 and self._clock() - self._waiting[1] >= self._rhythm.interval_seconds

    def _newest_confirmed(self) -> Batch | None:
        """Return the newest confirmed batch, once those that a reorganisation took off the chain are open again."""
        while (newest := self._book.newest_confirmed(self.gateway)) is not None:
            if self._standing.batch(newest.epoch) is not None or not self._chain.is_lost(newest):
                break
            log.warning("settlement-lost", epoch=newest.epoch)
            self._chain.recall(newest.epoch)
            self._book.reopen(self.gateway, newest.epoch)
        return newest

    def _decide(self) -> Batch | None:
        due = self._book.due(self.gateway, MAX_RECEIPTS)
        planned = plan(due, self._standing)
        if planned is None:
            return None
        epoch = self._chain.last_epoch() + 1
        count = len(planned.receipts)
        batch = Batch(
            gateway=self.gateway,
            epoch=epoch,
            root=planned.root,
            receipt_count=count,
            debited=planned.debited,
            credited=planned.credited,
            call_data=self._chain.encode(epoch, planned.root, count, planned.debits, planned.credits),
        )
        self._book.mark_paid(self.gateway, paid_totals(due, self._standing))
        if not self._book.decide(batch, planned.receipts, planned.totals):
            return None  # another process was first
        log.info("settlement-decided", epoch=epoch, receipts=count, value=batch.debited)
        return batch

    def _carry_on(self, batch: Batch) -> Batch | None:
        known = self._standing.batch(batch.epoch)
        if known is not None and known.root != batch.root:
            # Somebody with this key settled something else under the number: ours must be planned anew.
            log.error("settlement-epoch-taken", epoch=batch.epoch)
            self._book.withdraw(self.gateway, batch.epoch)
            return None
        try:
            sent = self._chain.send(batch.epoch, batch.call_data)
        except SettlementRefused:
            if known is None:
                if not self._chain.is_ahead(batch.epoch):
                    raise
                # Planned on the word of a node that said too much: it could never be settled, nor any after it.
                log.warning("settlement-epoch-ahead", epoch=batch.epoch)
                self._book.withdraw(self.gateway, batch.epoch)
                return None
            sent = Sent(known.tx_hash, None, known.block_number)
        if sent is None:
            return None
        self._book.confirm(self.gateway, batch.epoch, sent)
        log.info(
            "settlement-confirmed",
            epoch=batch.epoch,
            receipts=batch.receipt_count,
            gas=sent.gas_used,
            gas_per_receipt=None if sent.gas_used is None else sent.gas_used // max(1, batch.receipt_count),
        )
        return self._book.batch(self.gateway, batch.epoch)
