"""One gateway's chain side over a real node: ledger, indexer, settler; and a count of all the money."""

import asyncio
import time

from contracts.bindings.transactor import Transactor
from market.adapters.chain_reader import Web3ChainReader
from market.adapters.database.engine import open_engine
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.migrate import upgrade
from market.adapters.database.outbox import DatabaseOutbox
from market.adapters.database.proofs import DatabaseProofs
from market.adapters.database.registry_store import DatabaseRegistryStore, DatabaseRegistryView
from market.adapters.database.settlement_book import DatabaseSettlementBook
from market.adapters.settlement_chain import EscrowDisputes, EscrowSettlementChain, RegistryStanding
from market.registry.indexer import Indexer
from market.settlement.answer import Answerer
from market.settlement.settle import Rhythm, Settler
from tests.support.chain import Chain, key

GATEWAY = key("gateway").address
OPERATOR, OWNER = key("operator").address, key("owner").address


class Gateway:
    """Ledger, indexer and settler of one gateway over one database; `restart` forgets all that is in memory."""

    def __init__(self, chain: Chain, folder, *, confirmations: int = 0, name: str = "gateway") -> None:
        self.chain = chain
        self.name = name
        self.address = key(name).address
        self.confirmations = confirmations
        self.engine = open_engine(f"sqlite:///{folder}/{name}.db")
        upgrade(self.engine)
        chain.give_gas(self.address)
        self.restart()

    def restart(self) -> None:
        chain = self.chain
        self.ledger = DatabaseLedger(self.engine, self.address)
        self.view = DatabaseRegistryView(self.engine)
        self.store = DatabaseRegistryStore(self.engine, min_stake=chain.contracts.workers.min_stake())
        self.indexer = Indexer(
            Web3ChainReader(chain.web3, chain.contracts),
            self.store,
            confirmations=self.confirmations,
            first_block=chain.deployment.block,
        )
        self.transactor = Transactor(
            chain.web3,
            key(self.name),
            outbox=DatabaseOutbox(self.engine),
            confirmations=self.confirmations,
            chain_id=chain.deployment.chain_id,
        )
        self.book = DatabaseSettlementBook(self.engine)
        self.settler = Settler(
            gateway=self.address,
            book=self.book,
            chain=EscrowSettlementChain(chain.escrow, self.transactor),
            standing=RegistryStanding(self.view, self.address),
            rhythm=Rhythm(3_600, 10**12),
        )
        self.answerer = Answerer(
            challenges=RegistryStanding(self.view, self.address),
            proofs=DatabaseProofs(self.engine, self.view),
            chain=EscrowDisputes(chain.contracts.disputes, self.transactor),
            clock=lambda: int(chain.web3.eth.get_block("latest")["timestamp"]),
        )

    def index(self) -> None:
        self.indexer.catch_up()
        self.view.refresh()

    def close(self) -> None:
        self.ledger.close()
        self.engine.dispose()

    def record(self, *charges) -> None:
        async def go():
            await asyncio.gather(*(self.ledger.record(charge) for charge in charges))

        asyncio.run(go())

    def settle(self, *, force: bool = True):
        """One look as the jobs take it, repeated while the node has not mined what was just sent."""
        self.index()
        done = self.settler.step(force=force)
        deadline_at = time.monotonic() + 5
        while done is None and self.book.open_batch(self.address) is not None and time.monotonic() < deadline_at:
            time.sleep(0.05)
            self.index()
            done = self.settler.step(force=force)
        self.index()
        return done


def assert_money_adds_up(chain: Chain, view: DatabaseRegistryView) -> None:
    """I1 of the escrow, counted from the folded records, and each record against the chain."""
    escrow = chain.escrow
    held = 0
    for channel in view.channels():
        deposited, settled, exit_amount, exit_at = escrow.channel(channel.channel_id)
        assert (channel.deposited, channel.settled) == (deposited, settled)
        assert (channel.exit_amount, channel.exit_at) == (exit_amount, exit_at)
        held += deposited - settled
    for payee in (OPERATOR, OWNER, GATEWAY):
        found = view.credits(GATEWAY, payee)
        assert (found.credited, found.withdrawn) == escrow.credits(GATEWAY, payee)
        held += found.credited - found.withdrawn
    reserve = view.reserve(GATEWAY)
    assert (reserve.amount, reserve.thawing, reserve.thawed_at) == escrow.reserve(GATEWAY)
    assert reserve.arrears == escrow.arrears(GATEWAY)
    held += reserve.amount
    assert chain.contracts.token.balance_of(escrow.address) == held


def undo_and_send_again(chain: Chain, gateway: Gateway, depth: int) -> None:
    """Settle, take the settlement off the chain by a reorganisation `depth` blocks deep, and see it come back."""
    channel = chain.deposit(1_000)
    chain.mine(depth)
    gateway.record(chain.charge(channel, 500, 500))
    assert gateway.settle().epoch == 1
    chain.mine(depth - 1)
    gateway.index()
    chain.reorg(depth)
    gateway.index()
    assert gateway.view.settlements(GATEWAY) == []
    assert chain.escrow.last_epoch(GATEWAY) == 0
    gateway.restart()
    gateway.settle()
    gateway.settle()
    assert [s.epoch for s in gateway.view.settlements(GATEWAY)] == [1]
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert_money_adds_up(chain, gateway.view)
    gateway.record(chain.charge(channel, 100, 600))
    assert gateway.settle().epoch == 2
    assert_money_adds_up(chain, gateway.view)
