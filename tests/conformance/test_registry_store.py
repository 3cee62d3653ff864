"""One suite for every adapter of `registry.ports.RegistryStore`; SQLite and PostgreSQL are real."""

import contextlib
import random

import pytest
import sqlalchemy as sa

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.registry_store import DatabaseRegistryStore, DatabaseRegistryView
from market.adapters.memory_chain import MemoryChain, MemoryRegistryStore
from market.errors import ChainUnreachable
from market.registry.indexer import KEPT_BLOCKS, Indexer, ReorgTooDeep
from tests.support.chain_events import (
    MIN_STAKE,
    batch,
    everything,
    funded,
    registered,
    settled,
    thawing,
)
from tests.support.postgres import server_url


class Kept:
    """A store with a view of it, and what a second process would see."""

    def __init__(self, store, view, again) -> None:
        self.store, self.view, self._again = store, view, again

    def state(self):
        refresh = getattr(self.view, "refresh", None)
        if refresh is not None:
            refresh()
        fresh = self._again()
        assert everything(fresh) == everything(self.view), "followed and read anew are the same"
        return everything(self.view)


def database(url: str) -> Kept:
    engine = open_engine(url)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    upgrade(engine)

    def again():
        view = DatabaseRegistryView(engine)
        view.refresh()
        return view

    return Kept(DatabaseRegistryStore(engine, min_stake=MIN_STAKE), DatabaseRegistryView(engine), again)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kept(request, tmp_path) -> Kept:
    if request.param == "memory":
        store = MemoryRegistryStore(min_stake=MIN_STAKE)
        return Kept(store, store.view, lambda: store.view)
    return database(server_url() if request.param == "postgres" else f"sqlite:///{tmp_path}/chain.db")


@pytest.fixture
def chain() -> MemoryChain:
    return MemoryChain()


def follow(chain, kept, *, confirmations=0, first_block=0) -> Indexer:
    indexer = Indexer(chain, kept.store, confirmations=confirmations, first_block=first_block)
    indexer.catch_up()
    return indexer


def assert_as_read_straight(chain, kept, *, confirmations) -> None:
    """The state is that of whoever reads the chain as it is now from its beginning."""
    straight = MemoryRegistryStore(min_stake=MIN_STAKE)
    Indexer(chain, straight, confirmations=confirmations).catch_up()
    assert kept.state() == everything(straight.view)


def test_events_become_records(chain, kept):
    chain.mine(funded(1_000), registered(150))
    chain.mine(settled(400), batch(1, 70), thawing(60, 150))
    follow(chain, kept)
    cursor, _, workers, channels, credit, reserve, settlements = kept.state()
    assert cursor == 2
    assert (channels[0].deposited, channels[0].settled, channels[0].salt) == (1_000, 400, 2**64 - 1)
    assert (workers[0].stake, workers[0].thawing, workers[0].active) == (150, 60, False)
    assert credit.credited == 70
    assert reserve.amount == 90
    assert [s.epoch for s in settlements] == [1]


def test_amounts_of_128_bits_are_kept(chain, kept):
    chain.mine(funded(2**128 - 1))
    follow(chain, kept)
    assert kept.state()[3][0].deposited == 2**128 - 1


def test_only_confirmed_blocks_count(chain, kept):
    chain.mine(funded(1_000))
    indexer = follow(chain, kept, confirmations=2)
    assert kept.state()[3] == []
    chain.mine()
    chain.mine()
    indexer.catch_up()
    assert kept.state()[3][0].deposited == 1_000


def test_a_restart_goes_on_where_it_was(chain, kept):
    chain.mine(funded(1_000))
    follow(chain, kept)
    chain.mine(settled(5))
    follow(chain, kept)
    assert kept.state()[3][0].settled == 5


@pytest.mark.parametrize("depth", [1, 3, 20, KEPT_BLOCKS])
def test_another_branch_takes_the_place_of_the_old_one(chain, kept, depth):
    for _ in range(30):
        chain.mine()
    chain.mine(funded(1_000))
    indexer = follow(chain, kept)
    before = kept.state()
    for total in range(1, depth + 1):
        chain.mine(settled(total), batch(total, total))
    indexer.catch_up()
    assert kept.state() != before
    chain.drop(depth)
    for _ in range(depth):
        chain.mine()
    indexer.catch_up()
    assert kept.state()[1:] == before[1:]
    chain.mine(settled(77))
    indexer.catch_up()
    assert kept.state()[3][0].settled == 77


def test_a_longer_branch_is_noticed_too(chain, kept):
    chain.mine(funded(1_000))
    chain.mine(settled(10))
    indexer = follow(chain, kept)
    chain.drop(1)
    chain.mine()
    chain.mine(settled(20))
    chain.mine()
    indexer.catch_up()
    assert kept.state()[3][0].settled == 20


def test_a_chain_with_nothing_in_common_is_refused(chain, kept):
    chain.mine(funded(1_000))
    follow(chain, kept)
    other = MemoryChain()
    other.drop(1)
    for _ in range(5):
        other.mine()
    with pytest.raises(ReorgTooDeep):
        follow(other, kept)
    assert kept.state()[3][0].deposited == 1_000


def test_a_reorganisation_below_the_kept_blocks_is_refused(chain, kept):
    for _ in range(KEPT_BLOCKS + 50):
        chain.mine()
    follow(chain, kept)
    assert len(kept.store.known_blocks()) == KEPT_BLOCKS + 1
    chain.drop(KEPT_BLOCKS + 1)
    for _ in range(KEPT_BLOCKS + 5):
        chain.mine()
    with pytest.raises(ReorgTooDeep):
        follow(chain, kept)


def test_a_node_that_repeats_itself_counts_once(chain, kept):
    chain.repeats = True
    chain.mine(funded(1_000))
    chain.mine(batch(1, 10), batch(2, 20))
    follow(chain, kept)
    state = kept.state()
    assert state[5].amount == 180
    assert len(state[6]) == 2


def test_a_node_that_lies_behind_is_waited_for(chain, kept):
    chain.mine(funded(1_000))
    chain.mine(settled(10))
    indexer = follow(chain, kept)
    chain.lag = 2
    assert indexer.step() == 0
    assert kept.state()[3][0].settled == 10
    chain.mine(settled(11))
    chain.lag = 0
    indexer.catch_up()
    assert kept.state()[3][0].settled == 11


def test_a_node_that_is_blind_for_the_newest_blocks_loses_no_event(chain, kept):
    """Behind one address may stand several nodes: one knows the head, another answers the range query."""
    for _ in range(100):
        chain.mine()
    chain.mine(funded(1_000))
    chain.mine(settled(10))
    chain.blind = 10
    follow(chain, kept)
    assert kept.state()[3][0].settled == 10


def test_a_node_that_fails_anywhere_changes_nothing_and_loses_nothing(chain, kept):
    chain.mine(funded(1_000))
    for total in range(1, 6):
        chain.mine(settled(total))
    indexer = Indexer(chain, kept.store, confirmations=0)
    for _ in range(200):
        chain.fails = 1 if random.random() < 0.7 else 0
        try:
            if indexer.step() == 0:
                break
        except ChainUnreachable:
            continue
    chain.fails = 0
    indexer.catch_up()
    assert kept.state()[3][0].settled == 5


def test_of_two_indexers_one_wins_each_range(chain, kept):
    chain.mine(funded(1_000), batch(1, 10))
    first = Indexer(chain, kept.store, confirmations=0)
    blocks = [chain.block(0), chain.block(1)]
    events = [*chain.events_in(blocks[0]), *chain.events_in(blocks[1])]
    assert kept.store.apply(None, blocks, events)
    assert not kept.store.apply(None, blocks, events)
    first.catch_up()
    assert kept.state()[5].amount == 90


def test_a_long_past_is_read_in_ranges(chain, kept):
    chain.mine(funded(1_000))
    for number in range(1_200):
        chain.mine(*([settled(number)] if number % 100 == 99 else []))
    follow(chain, kept)
    state = kept.state()
    assert state[0] == 1_201
    assert state[3][0].settled == 1_199
    assert len(kept.store.known_blocks()) <= KEPT_BLOCKS + 1


class Counting(MemoryChain):
    """A node that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__()

    def newest(self):
        self.asked.append("newest")
        return super().newest()

    def block(self, number):
        self.asked.append("block")
        return super().block(number)

    def events_in(self, block):
        self.asked.append("events")
        return super().events_in(block)


@pytest.mark.parametrize("confirmations", [0, 1, 5])
def test_a_chain_followed_block_by_block_is_asked_for_the_newest_and_the_events(kept, confirmations):
    chain = Counting()
    for _ in range(confirmations + 2):
        chain.mine()
    indexer = follow(chain, kept, confirmations=confirmations)
    for _ in range(confirmations + 2):  # until each block in question was once the newest
        chain.mine()
        indexer.step()
    for _ in range(3):
        chain.asked.clear()
        chain.mine(funded(1_000))
        assert indexer.step() == 1
        assert indexer.step() == 0
        assert chain.asked == ["newest", "events", "newest"]


def test_another_branch_is_noticed_although_its_blocks_were_the_newest_once(kept):
    chain = Counting()
    indexer = Indexer(chain, kept.store, confirmations=1)
    chain.mine(funded(1_000))
    for number in range(1, 5):
        chain.mine(settled(number))
        indexer.step()
    indexer.catch_up()
    chain.drop(3)
    for number in range(10, 14):
        chain.mine(settled(number))
        indexer.step()
    indexer.catch_up()
    assert_as_read_straight(chain, kept, confirmations=1)


@pytest.mark.parametrize("confirmations", [0, 1, 3])
def test_random_forks_watched_block_by_block_end_where_a_straight_reading_ends(chain, kept, confirmations):
    rng = random.Random(confirmations)
    indexer = Indexer(chain, kept.store, confirmations=confirmations)
    for total in range(1, 150):
        chain.mine(*rng.choice([[settled(total)], [funded(total)], [], [batch(total, total), settled(total)]]))
        if rng.random() < 0.1 and chain.newest().number > 12:
            chain.drop(rng.randint(1, 6))
        chain.lag = rng.choice([0, 0, 0, 0, 1])
        chain.fails = rng.choice([0, 0, 0, 0, 1])
        with contextlib.suppress(ChainUnreachable):
            indexer.step()
        chain.lag = chain.fails = 0
    chain.mine()
    indexer.catch_up()
    assert_as_read_straight(chain, kept, confirmations=confirmations)


def test_random_forks_end_where_a_straight_reading_ends(chain, kept):
    """I14: whatever was forked, lagged and failed on the way, the state is that of the chain as it is."""
    rng = random.Random(7)
    indexer = Indexer(chain, kept.store, confirmations=0)
    total = 0
    for _ in range(150):
        action = rng.random()
        if action < 0.6:
            total += 1
            chain.mine(*rng.choice([[settled(total)], [funded(total)], [], [batch(total, total), settled(total)]]))
        elif action < 0.75 and chain.newest().number > 12:
            chain.drop(rng.randint(1, 10))
        else:
            chain.lag = rng.choice([0, 0, 1, 3])
            chain.fails = rng.choice([0, 0, 1])
            with contextlib.suppress(ChainUnreachable):
                indexer.step()
            chain.lag = chain.fails = 0
    chain.mine()
    indexer.catch_up()
    assert_as_read_straight(chain, kept, confirmations=0)
