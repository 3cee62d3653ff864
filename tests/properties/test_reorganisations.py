"""I14: whatever branch, lag and failure a node shows, and whenever the indexer dies, the state is the chain's as it is."""

import contextlib
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from market.adapters.database.engine import open_engine
from market.adapters.database.registry_store import DatabaseRegistryStore, DatabaseRegistryView
from market.adapters.memory_chain import MemoryChain, MemoryRegistryStore
from market.errors import ChainUnreachable
from market.registry.indexer import Indexer
from tests.support.chain_events import MIN_STAKE, batch, everything, funded, registered, settled, thawing
from tests.support.databases import empty_database

DEEPEST = 10
KINDS = ("funded", "settled", "batch", "registered", "thawing")


class Reorganisations(RuleBasedStateMachine):
    """One chain, its node's moods, and an indexer that may die between any two steps."""

    def __init__(self):
        super().__init__()
        self.chain = MemoryChain()
        self.total = 0

    def open_store(self):
        """Return a store, and a function that reads what it holds."""
        store = MemoryRegistryStore(min_stake=MIN_STAKE)
        return store, lambda: everything(store.view)

    @initialize(confirmations=st.integers(0, 3))
    def begin(self, confirmations):
        self.confirmations = confirmations
        self.store, self.read = self.open_store()
        self.restart()

    @rule()
    def restart(self):
        self.indexer = Indexer(self.chain, self.store, confirmations=self.confirmations)

    @rule(kinds=st.lists(st.sampled_from(KINDS), max_size=3))
    def mine(self, kinds):
        made = []
        for kind in kinds:
            # Totals only grow within a branch, as the contracts' own do.
            self.total += 1
            makes = {
                "funded": lambda: funded(self.total),
                "settled": lambda: settled(self.total),
                "batch": lambda: batch(self.total % 250, self.total),
                "registered": lambda: registered(self.total),
                "thawing": lambda: thawing(1, self.total),
            }
            made.append(makes[kind]())
        self.chain.mine(*made)

    @rule(blocks=st.integers(1, 40))
    def time_passes(self, blocks):
        for _ in range(blocks):
            self.chain.mine()

    @precondition(lambda self: self.chain.newest().number > DEEPEST)
    @rule(depth=st.integers(1, DEEPEST))
    def reorganise(self, depth):
        self.chain.drop(depth)
        for _ in range(depth):
            self.chain.mine()

    @rule(
        lag=st.sampled_from((0, 0, 1, 3)),
        blind=st.sampled_from((0, 0, 5)),
        repeats=st.booleans(),
        fails=st.sampled_from((0, 0, 1, 2)),
        steps=st.integers(1, 3),
    )
    def follow(self, lag, blind, repeats, fails, steps):
        chain = self.chain
        chain.lag, chain.blind, chain.repeats, chain.fails = min(lag, chain.newest().number), blind, repeats, fails
        for _ in range(steps):
            with contextlib.suppress(ChainUnreachable):
                self.indexer.step()
        chain.lag, chain.blind, chain.repeats, chain.fails = 0, 0, False, 0

    @rule()
    def catch_up(self):
        self.indexer.catch_up()
        straight = MemoryRegistryStore(min_stake=MIN_STAKE)
        Indexer(self.chain, straight, confirmations=self.confirmations).catch_up()
        assert self.read() == everything(straight.view)

    def teardown(self):
        if hasattr(self, "indexer"):
            self.catch_up()


class ReorganisationsOnDisk(Reorganisations):
    """The same over SQLite."""

    def open_store(self):
        self.folder = tempfile.mkdtemp(prefix="reorganisations-")
        path = shutil.copy(empty_database(), self.folder)
        self.engine = open_engine(f"sqlite:///{path}")
        view = DatabaseRegistryView(self.engine)

        def read():
            view.refresh()
            return everything(view)

        return DatabaseRegistryStore(self.engine, min_stake=MIN_STAKE), read

    def teardown(self):
        super().teardown()
        if hasattr(self, "engine"):
            self.engine.dispose()
            shutil.rmtree(self.folder)


Reorganisations.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
ReorganisationsOnDisk.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestReorganisations = Reorganisations.TestCase
TestReorganisationsOnDisk = ReorganisationsOnDisk.TestCase
