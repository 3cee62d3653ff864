"""Joins the background jobs of a gateway: the indexer, the settlement, and what they tell."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from contracts import tracing
from contracts.bindings.errors import ChainError
from contracts.bindings.transactor import Transactor
from market import telemetry
from market.adapters.chain_reader import Web3ChainReader
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.outbox import DatabaseOutbox
from market.adapters.database.proofs import DatabaseProofs
from market.adapters.database.registry_store import DatabaseRegistryStore, DatabaseRegistryView
from market.adapters.database.settlement_book import DatabaseSettlementBook
from market.adapters.database.traces import DatabaseTraces
from market.adapters.settlement_chain import EscrowDisputes, EscrowSettlementChain, RegistryStanding
from market.bootstrap.services import open_services
from market.errors import (
    ChainUnreachable,
)
from market.registry.indexer import Indexer
from market.settings import MarketSettings
from market.settlement.answer import Answerer
from market.settlement.ports import Batch
from market.settlement.settle import Rhythm, Settler


@dataclass(frozen=True)
class Jobs:
    """The gateway's background work, one step a call; see `market.jobs`."""

    indexer: Indexer
    settler: Settler
    answerer: Answerer
    view: DatabaseRegistryView
    ledger: DatabaseLedger
    traces: DatabaseTraces

    def index(self) -> int:
        """Apply what the chain has confirmed; returns how many blocks."""
        return self.indexer.catch_up()

    def settle(self) -> Batch | None:
        """Take one step of settlement; returns a batch when it is confirmed."""
        self.view.refresh()
        began_at = time.time()
        batch = self.settler.step()
        if batch is not None and tracing.is_on():
            self.traces.tell(batch, began_at, time.time())
        return batch

    def answer(self) -> None:
        """Answer challenges of receipts that are settled; settle at once what is challenged and waits."""
        self.view.refresh()
        if self.answerer.step():
            self.settler.step(force=True)

    def measure(self) -> None:
        """Note what waits for settlement, how far the index lies behind and how much stake thaws.

        Raises:
            ChainUnreachable: the node does not answer; what waits was noted.
        """
        now, backlog = time.time(), self.settler.backlog()
        telemetry.UNSETTLED_UNITS.set(backlog.value)
        telemetry.UNSETTLED_RECEIPTS.set(backlog.receipts)
        telemetry.UNSETTLED_AGE.set(self.settler.waited_seconds(backlog))
        telemetry.OPEN_CHALLENGES.set(len(self.view.challenges(self.settler.gateway)))
        telemetry.THAWING.set(sum(found.thawing for found in self.view.workers()))
        behind, newest_at = self.indexer.lag()
        telemetry.BLOCKS_BEHIND.set(behind)
        telemetry.BLOCK_AGE.set(max(0.0, now - newest_at))

    def sweep(self) -> int:
        """Drop stored answers whose time has passed; returns how many."""
        return asyncio.run(self.ledger.sweep(time.time()))


def build_jobs(settings: MarketSettings) -> Jobs:
    """Join the background work of one gateway; what was sent and not confirmed is sent again.

    Raises:
        OperationError: see `open_services`.
    """
    services = open_services(settings)
    gateway = services.key.address
    try:
        min_stake = services.contracts.workers.min_stake()
        transactor = Transactor(
            services.web3,
            services.key,
            outbox=DatabaseOutbox(services.engine),
            confirmations=settings.confirmations,
            chain_id=services.deployment.chain_id,
        )
        transactor.resume()
    except ChainError as error:
        raise ChainUnreachable(error.detail, field="MARKET_RPC_URL", remedy=error.remedy) from error
    view = DatabaseRegistryView(services.engine)
    standing = RegistryStanding(view, gateway)
    return Jobs(
        indexer=Indexer(
            Web3ChainReader(services.web3, services.contracts),
            DatabaseRegistryStore(services.engine, min_stake=min_stake),
            confirmations=settings.confirmations,
            first_block=services.deployment.block,
        ),
        settler=Settler(
            gateway=gateway,
            book=DatabaseSettlementBook(services.engine),
            chain=EscrowSettlementChain(services.contracts.escrow, transactor),
            standing=standing,
            rhythm=Rhythm(settings.settle_interval_seconds, settings.settle_value),
        ),
        answerer=Answerer(
            challenges=standing,
            proofs=DatabaseProofs(services.engine, view),
            chain=EscrowDisputes(services.contracts.disputes, transactor),
        ),
        view=view,
        ledger=DatabaseLedger(services.engine, gateway),
        traces=DatabaseTraces(services.engine),
    )
