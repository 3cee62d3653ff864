"""That a database was written to is noticed without reading it, whoever wrote; a server is always read."""

import pytest
import sqlalchemy as sa

from market.adapters.database.changes import Changes
from market.adapters.database.engine import open_engine, writing
from tests.support.postgres import server_url


@pytest.fixture
def engine(tmp_path):
    made = open_engine(f"sqlite:///{tmp_path}/some.db")
    with writing(made) as connection:
        connection.execute(sa.text("CREATE TABLE some (number INTEGER)"))
    yield made
    made.dispose()


def write(engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.text("INSERT INTO some VALUES (1)"))


@pytest.fixture
def changes(engine):
    made = Changes(engine)
    yield made
    made.close()


def test_each_write_is_noticed_once_and_nothing_else(engine, changes):
    assert changes.any(), "nothing was read yet"
    assert not changes.any()
    for _ in range(3):
        write(engine)
        assert changes.any()
        assert not changes.any()


def test_what_another_process_writes_is_noticed(engine, changes):
    changes.any()
    another = open_engine(str(engine.url))
    write(another)
    another.dispose()
    assert changes.any()
    assert not changes.any()


def test_each_reader_remembers_for_itself(engine, changes):
    other = Changes(engine)
    changes.any()
    other.any()
    write(engine)
    assert changes.any()
    assert other.any()
    other.close()


def test_a_write_that_is_under_way_makes_nobody_wait(engine, changes):
    changes.any()
    with writing(engine) as connection:
        connection.execute(sa.text("INSERT INTO some VALUES (2)"))
        assert not changes.any(), "nobody can read it yet"
    assert changes.any()


def test_a_file_that_is_gone_or_broken_counts_as_written(tmp_path):
    (tmp_path / "broken.db").write_bytes(b"no database" * 1_000)
    engine = open_engine(f"sqlite:///{tmp_path}/broken.db")
    changes = Changes(engine)
    assert changes.any()
    assert changes.any()
    changes.close()
    engine.dispose()


@pytest.mark.integration
def test_a_server_is_always_read():
    engine = open_engine(server_url())
    changes = Changes(engine)
    assert changes.any()
    assert changes.any()
    changes.close()
    engine.dispose()
