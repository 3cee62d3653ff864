"""What the journal keeps in memory spares it looks at the file, and never changes what it finds."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contracts.protocol.request_ids import new_request_id, time_prefix
from contracts.protocol.typed_data import Channel, Receipt
from tests.support import worker as support
from workers import papers
from workers.papers import Journal, SignedWork

DOMAIN = support.DOMAIN
CHANNEL = Channel(b"\2" * 20, b"\2" * 20, b"\3" * 20, 5)
HOUR = 3_600.0


def work(request_id=None, channel_id=b"c" * 32, seq=1, *, output=b"o", asked=b"i") -> SignedWork:
    receipt = Receipt(
        request_id=request_id or new_request_id(),
        channel_id=channel_id,
        payer=b"\2" * 20,
        gateway=b"\3" * 20,
        seq=seq,
        worker=b"\4" * 20,
        model_id=b"m" * 32,
        input_hash=asked * 32,
        output_hash=output * 32,
        price=100,
        worker_amount=90,
        owner_amount=5,
        cumulative=100,
        served_at=1,
    )
    return SignedWork(receipt, bytes(65), CHANNEL, 100, bytes(65))


def an_id(at: float) -> bytes:
    return time_prefix(at) + os.urandom(26)


@pytest.fixture
def opened(tmp_path):
    journals = []

    def open_one() -> Journal:
        journals.append(Journal(tmp_path / "papers.db", domain=DOMAIN, operator=b"\x0a" * 20))
        return journals[-1]

    yield open_one
    for one in journals:
        one.close()


@contextmanager
def full_disk(journal: Journal) -> Iterator[None]:
    """Let what is written in the body fail when all is noted in memory."""
    journal._db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON channels BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.Error, match="full"):
        yield
    journal._db.execute("DROP TRIGGER full")


@pytest.fixture
def looks(monkeypatch):
    """Each look at the file by ids and places, as it is asked."""
    asked = []
    find = Journal._find

    def noting(journal, request_ids, places):
        if request_ids or places:
            asked.append((sorted(request_ids), list(places)))
        return find(journal, request_ids, places)

    monkeypatch.setattr(Journal, "_find", noting)
    return asked


def test_what_can_never_have_been_answered_is_not_looked_for(opened, looks, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 16)
    journal = opened()
    drawn_at = time.time() - HOUR

    def pack(n: int) -> list[SignedWork]:
        return [work(an_id(drawn_at + n), seq=n * 8 + k + 1) for k in range(8)]

    for n in range(10):
        assert journal.keep(pack(n)) == []
    opened().keep(pack(10))  # after a start, too
    assert looks == []


def test_old_ids_and_numbers_that_were_passed_are_looked_for_and_found(opened, looks, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 4)
    journal = opened()
    old, *_ = first = [work(an_id(time.time() - 60 + n), seq=10 + n) for n in range(9)]
    assert journal.keep(first) == []
    again = work(old.receipt.request_id, b"d" * 32, 1, output=b"p")
    beside = work(seq=old.receipt.seq, output=b"p")
    skipped = work(seq=3, output=b"p")
    for one in (journal, opened()):
        looks.clear()
        assert one.keep([again, beside, skipped]) == [again, beside]
        assert ([old.receipt.request_id], [(b"c" * 32, 10), (b"c" * 32, 3)]) in looks


def test_an_id_ahead_of_its_time_is_found_when_its_time_has_come(opened, looks, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 2)
    journal = opened()
    ahead = work(an_id(time.time() + HOUR))
    beyond = work(b"\xff" * 32, seq=2)
    assert journal.keep([ahead, beyond]) == []
    assert journal.keep([work(seq=n) for n in range(3, 9)]) == []
    assert looks == [], "it closes the way for nobody else"
    second = [work(one.receipt.request_id, seq=20 + n, output=b"p") for n, one in enumerate((ahead, beyond))]
    assert opened().keep(second) == journal.keep(second) == second
    hour_later = time.time() + HOUR + 1
    monkeypatch.setattr(papers.time, "time", lambda: hour_later)
    assert opened().keep(second) == journal.keep(second) == second


def test_what_another_process_answered_is_known(opened):
    journal, other = opened(), opened()
    journal.keep([work(seq=1)])
    theirs = work(seq=5)
    assert other.keep([theirs]) == []
    at_once = [work(theirs.receipt.request_id, seq=6, output=b"p"), work(seq=5, output=b"p")]
    assert journal.keep(at_once) == at_once


def test_a_channel_that_was_forgotten_is_looked_up_anew(opened, monkeypatch):
    monkeypatch.setattr(papers, "_CHANNELS", 2)
    journal = opened()
    channels = [bytes([n]) * 32 for n in range(5)]
    assert journal.keep([work(None, channel, seq) for channel in channels for seq in (4, 7)]) == []
    assert len(journal._highest) <= 2
    second = [work(None, channel, 7, output=b"p") for channel in channels]
    assert journal.keep(second) == second


def test_a_failed_transaction_leaves_nothing_in_memory_that_hides_an_answer(opened, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 3)
    journal, other = opened(), opened()
    first = work(seq=1)
    journal.keep([first])
    lost = work(seq=2)
    with full_disk(journal):
        journal.keep([lost, *(work(seq=n) for n in range(3, 9))])
    theirs = work(lost.receipt.request_id, seq=2, output=b"t")
    assert other.keep([theirs]) == []
    assert journal.keep([lost]) == [lost]
    second = work(first.receipt.request_id, b"d" * 32, output=b"p")
    assert journal.keep([second]) == [second]


def test_a_journal_with_the_first_index_of_places_is_given_the_new_one(opened, tmp_path):
    journal = opened()
    journal.keep([work(seq=5)])
    journal._db.executescript(
        "DROP INDEX work_by_channel; CREATE INDEX work_by_place ON work (substr(receipt, 105, 8), channel_id)"
    )
    journal.close()
    journal = opened()
    indexes = [name for (name,) in journal._db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")]
    assert sorted(indexes) == ["work_by_channel", "work_by_request"]
    second = work(seq=5, output=b"p")
    assert journal.keep([second]) == [second]


@pytest.mark.parametrize("seed", range(12))
def test_two_processes_refuse_just_what_contradicts_whatever_was_forgotten(opened, monkeypatch, seed):
    """Against a book that remembers all: restarts, failures, ids of all times, numbers in any order."""
    draw = random.Random(seed)
    monkeypatch.setattr(papers, "_RECENT", draw.choice([1, 3, 10]))
    monkeypatch.setattr(papers, "_CHANNELS", draw.choice([1, 2, 50]))
    now = [time.time()]
    monkeypatch.setattr(papers.time, "time", lambda: now[0])
    book: list[Receipt] = []
    ids = [an_id(now[0] + draw.choice([-HOUR, 0, 0, 30, HOUR, 2 * HOUR])) for _ in range(25)] + [
        b"\xff" * 32,
        bytes(32),
    ]
    journals = [opened(), opened()]

    def contradicts(receipt: Receipt) -> bool:
        return any(
            (one.request_id == receipt.request_id or (one.channel_id, one.seq) == (receipt.channel_id, receipt.seq))
            and one.input_hash == receipt.input_hash
            and one.output_hash != receipt.output_hash
            for one in book
        )

    for _ in range(250):
        now[0] += draw.choice([0.01, 1, 60, 600]) * draw.choice([1, 1, 1, -1])
        at = draw.randrange(2)
        if draw.random() < 0.1:
            journals[at] = opened()
        pack = [
            work(
                draw.choice(ids) if draw.random() < 0.7 else an_id(now[0]),
                bytes([draw.randrange(4)]) * 32,
                draw.randrange(1, 30),
                output=bytes([draw.randrange(2)]),
                asked=bytes([draw.randrange(2)]),
            )
            for _ in range(draw.randrange(1, 5))
        ]
        if draw.random() < 0.1:
            with full_disk(journals[at]):
                journals[at].keep(pack)
        expected = []
        for one in pack:
            if contradicts(one.receipt):
                expected.append(one)
            else:
                book.append(one.receipt)
        assert journals[at].keep(pack) == expected
        assert all(len({one.number for one in noted}) == len(noted) for noted in journals[at]._recent.values())
