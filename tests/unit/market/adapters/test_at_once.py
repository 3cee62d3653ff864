import sqlite3

import pytest
import sqlalchemy as sa

from market.adapters.database.at_once import MOST_ITEMS, REST_SECONDS, SHARE, SLOW_SECONDS, STRETCH_SECONDS, AtOnce
from market.adapters.database.engine import open_engine
from market.errors import DatabaseUnreachable


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    made = sqlite3.connect(tmp_path / "some.db", isolation_level=None)
    made.executescript("PRAGMA journal_mode = WAL; CREATE TABLE numbers (number INTEGER NOT NULL)")
    made.close()
    return tmp_path / "some.db"


@pytest.fixture
def at_once(path, clock):
    engine = open_engine(f"sqlite:///{path}")
    made = AtOnce(engine, clock)
    yield made
    made.close()
    engine.dispose()


def numbers(path):
    with sqlite3.connect(path) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers")]


def writing(clock, number, seconds=0.0):
    def work(way):
        with way.writing() as connection:
            connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
            clock.now += seconds
        return [number]

    return work


def test_work_is_done_and_durable_when_it_returns(at_once, clock, path):
    assert at_once.run(writing(clock, 1), 1) == [1]
    assert numbers(path) == [1]


def test_another_writer_is_not_waited_for(at_once, clock, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert at_once.run(writing(clock, 1), 1) is None
    other.execute("COMMIT")
    other.close()
    assert numbers(path) == []
    assert at_once.run(writing(clock, 2), 1) == [2]


def test_what_goes_wrong_is_told_to_each(at_once, clock):
    def work(way):
        with way.writing() as connection:
            connection.exec_driver_sql("INSERT INTO numbers VALUES (NULL)")
        return [1, 2, 3]

    outcomes = at_once.run(work, 3)
    assert len(outcomes) == 3
    assert all(isinstance(one, sa.exc.IntegrityError) for one in outcomes)


def test_a_database_that_does_not_answer_is_named(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/no/such/folder.db")
    (outcome,) = AtOnce(engine).run(lambda way: way.writing().__enter__(), 1)
    assert isinstance(outcome, DatabaseUnreachable)


def test_commits_take_no_more_than_their_share_of_the_loop(at_once, clock):
    each = SLOW_SECONDS / 2
    began, done = clock.now, 0
    for number in range(1_000):
        if at_once.run(writing(clock, number, each), 1) is None:
            clock.now += 0.000_1
        else:
            done += 1
    assert done * each <= STRETCH_SECONDS + SHARE * (clock.now - began) + each
    assert done * each >= 0.9 * SHARE * (clock.now - began)


def test_a_slow_disk_is_left_to_the_thread_for_a_while(at_once, clock):
    number = 0
    while at_once.run(writing(clock, number, 2 * SLOW_SECONDS), 1) is not None:
        clock.now += 0.1
        number += 1
    assert 1 < number < 20
    clock.now += REST_SECONDS - 0.2
    assert at_once.run(writing(clock, 2), 1) is None
    clock.now += 0.2
    assert at_once.run(writing(clock, 3), 1) == [3]


def test_one_slow_commit_says_nothing(at_once, clock):
    for number in range(50):
        seconds = 5 * SLOW_SECONDS if number == 20 else SLOW_SECONDS / 4
        assert at_once.run(writing(clock, number, seconds), 1) == [number]
        clock.now += 0.1


def test_a_large_group_is_left_to_the_thread(at_once, clock, path):
    assert at_once.run(writing(clock, 1), MOST_ITEMS + 1) is None
    assert numbers(path) == []
