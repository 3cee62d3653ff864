import dataclasses
import os
import sqlite3
import tracemalloc
from contextlib import closing
from types import SimpleNamespace

import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.messages import Papers
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import CreditNote
from tests.support import worker as support
from workers import papers, tasks
from workers.errors import JournalUnusable, StartError
from workers.papers import Journal
from workers.receipts import Answered

DOMAIN, GATEWAY = support.DOMAIN, support.GATEWAY
OPERATOR = b"\x0a" * 20


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    yield journal
    journal.close()


def serve(executor, manifest, **changes):
    _, work = executor.run([support.make_job(manifest, **changes)])
    return work[0]


def note(amount, payee=OPERATOR, key=GATEWAY):
    promise = CreditNote(GATEWAY.address, payee, amount)
    return promise, key.sign_digest(promise.digest(DOMAIN))


def test_what_pays_without_the_gateway_is_kept(journal, executor, packaged, tmp_path):
    first = serve(executor, packaged.manifest)
    second = serve(executor, packaged.manifest, cumulative=6_000, seq=2)
    journal.keep([first, second])
    assert journal.counts() == (2, 0)
    assert journal.claims() == []
    signatures = [(w.receipt.request_id, GATEWAY.sign_digest(w.receipt.digest(DOMAIN))) for w in (first, second)]
    journal.keep((), Papers(tuple(signatures), *note(900)))
    assert journal.counts() == (2, 2)
    ((best, countersignature),) = journal.claims()
    assert best.receipt == second.receipt
    assert best.voucher_amount == 6_000
    assert countersignature == signatures[1][1]
    journal.close()
    again = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    assert again.claims() == [(best, countersignature)]
    again.close()


def test_a_receipt_that_cannot_be_kept_is_not_answered_for(journal, executor, packaged, monkeypatch):
    job = support.make_job(packaged.manifest)
    results, work = executor.run([job])
    told = []
    monkeypatch.setattr(tasks, "_reply", lambda _client, served, _sitting: told.append((journal.counts()[0], served)))
    node = SimpleNamespace(journal=journal, redis=None)
    journal._db.execute("PRAGMA query_only = ON")  # as a full disk does
    tasks._deliver(node, [(job[0], results[0])], work)
    ((kept, [(_, result)]),) = told
    assert (kept, result.ok, result.code, result.retry) == (0, False, "journal-unwritable", Retry.OTHER_WORKER)
    journal._db.execute("PRAGMA query_only = OFF")
    told.clear()
    tasks._deliver(node, [(job[0], results[0])], work)
    ((kept, [(_, result)]),) = told
    assert (kept, result.ok) == (1, True), "the receipt stood in the journal before anybody was answered"


def test_processes_of_one_worker_share_the_journal_and_file_each_others_papers(journal, executor, packaged, tmp_path):
    other = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    first = serve(executor, packaged.manifest)
    second = serve(executor, packaged.manifest, cumulative=6_000, seq=2)
    journal.keep([first])
    other.keep([second])
    signatures = [(w.receipt.request_id, GATEWAY.sign_digest(w.receipt.digest(DOMAIN))) for w in (first, second)]
    journal.keep((), Papers(tuple(signatures), *note(900)))
    assert journal.counts() == other.counts() == (2, 2)
    other.close()


def test_notes_of_gateways_that_it_does_not_work_for_are_dropped(journal, executor, packaged):
    """Each is kept, and asked the chain about by `worker rescue`: a gateway could draw a thousand keys a second."""
    work = serve(executor, packaged.manifest)
    journal.keep([work])
    node = SimpleNamespace(journal=journal, gateways=frozenset({GATEWAY.address}))
    countersigned = ((work.receipt.request_id, GATEWAY.sign_digest(work.receipt.digest(DOMAIN))),)
    for number in range(1, 4):
        stranger = PrivateKey(bytes([100 + number]) * 32)
        promise = CreditNote(stranger.address, OPERATOR, 900)
        tasks._keep_papers(node, Papers(countersigned, promise, stranger.sign_digest(promise.digest(DOMAIN))))
    assert journal.notes() == []
    assert journal.counts() == (1, 1)
    tasks._keep_papers(node, Papers((), *note(900)))
    assert [kept.cumulative_amount for kept, _ in journal.notes()] == [900]


def test_forged_papers_are_dropped(journal, executor, packaged):
    work = serve(executor, packaged.manifest)
    journal.keep([work])
    forged = support.WORKER.sign_digest(work.receipt.digest(DOMAIN))
    journal.keep((), Papers(((work.receipt.request_id, forged), (b"?" * 32, forged)), *note(900, key=support.WORKER)))
    assert journal.counts() == (1, 0)
    assert journal.notes() == []


def test_a_gateway_that_sends_countersignatures_without_end_fills_no_disk(journal, executor, packaged):
    works = [
        serve(executor, packaged.manifest, cumulative=3_000 * n, seq=n, request_id=bytes([n]) * 32) for n in (1, 2)
    ]
    journal.keep(works)
    low, high = [(w.receipt.request_id, GATEWAY.sign_digest(w.receipt.digest(DOMAIN))) for w in works]
    long = (low[0], low[1] + bytes(32 * 1_000_000))
    for number in range(50):
        garbage = (low[0], low[1][:60] + number.to_bytes(5, "big"))
        journal.keep((), Papers((high, long, *[garbage] * 3, *[low] * 3)))
    (kept, size) = journal._db.execute("SELECT count(*), sum(length(signature)) FROM countersignatures").fetchone()
    assert kept <= 8
    assert size < 8 * 1_000
    assert [claim[0].receipt for claim in journal.claims()] == [works[1].receipt]


def test_a_forged_signature_among_genuine_ones_is_never_claimed(journal, executor, packaged):
    works = [
        serve(executor, packaged.manifest, cumulative=3_000 * n, seq=n, request_id=bytes([n]) * 32) for n in (1, 2, 3)
    ]
    journal.keep(works)
    genuine = [(w.receipt.request_id, GATEWAY.sign_digest(w.receipt.digest(DOMAIN))) for w in works]
    forged = support.WORKER.sign_digest(works[1].receipt.digest(DOMAIN))
    # the highest of this message is forged, so that each is looked at
    journal.keep((), Papers((genuine[0], (works[1].receipt.request_id, forged))))
    assert journal.claims()[0][0].receipt == works[0].receipt
    journal.keep((), Papers((genuine[1], (works[2].receipt.request_id, forged))))
    assert journal.claims()[0][1] == genuine[1][1]
    journal.keep((), Papers((genuine[2],)))
    assert journal.claims()[0][0].receipt == works[2].receipt


def test_what_millions_of_receipts_are_worth_is_found_in_little_memory(journal, executor, packaged):
    """A worker serves so many in an hour; all at once in memory, the way without the gateway would end for lack of it."""
    work = serve(executor, packaged.manifest)
    journal.keep([work])
    signature = GATEWAY.sign_digest(work.receipt.digest(DOMAIN))
    journal.keep((), Papers(((work.receipt.request_id, signature),)))
    rows = [
        (number, number.to_bytes(32, "big"), work.receipt.channel_id, row.to_bytes(), bytes(65))
        for number in range(2, 5_000)
        for row in [dataclasses.replace(work.receipt, request_id=number.to_bytes(32, "big"), cumulative=number)]
    ]
    with journal._db:
        journal._db.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?)", rows)
        journal._db.executemany(
            "INSERT INTO countersignatures (work, signature) VALUES (?, ?)", [(row[0], signature) for row in rows]
        )
    forged = dataclasses.replace(work.receipt, request_id=b"?" * 32, cumulative=1 << 100)
    with journal._db:
        journal._db.execute(
            "INSERT INTO work VALUES (?, ?, ?, ?, ?)",
            (30_000, forged.request_id, forged.channel_id, forged.to_bytes(), bytes(65)),
        )
        journal._db.execute("INSERT INTO countersignatures (work, signature) VALUES (30000, ?)", (signature,))
    del rows
    tracemalloc.start()
    try:
        (claim,) = journal.claims()
        assert claim[0].receipt == work.receipt
        assert sum(signed.gateway_signature is not None for signed in journal.signed()) == 1
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_notes_only_grow_and_name_the_operator(journal):
    journal.keep((), Papers((), *note(900)))
    journal.keep((), Papers((), *note(700)))
    journal.keep((), Papers((), *note(5_000, payee=b"\1" * 20)))
    ((kept, _),) = journal.notes()
    assert kept.cumulative_amount == 900


def test_a_better_voucher_replaces_a_worse_one_only(journal, executor, packaged):
    large = serve(executor, packaged.manifest, voucher_amount=1 << 70)
    small = serve(executor, packaged.manifest, voucher_amount=1 << 60)
    journal.keep([large])
    journal.keep([small])
    signature = GATEWAY.sign_digest(large.receipt.digest(DOMAIN))
    journal.keep((), Papers(((large.receipt.request_id, signature),)))
    assert [work.voucher_amount for work, _ in journal.claims()] == [1 << 70]


def test_journal_rows_survive_a_repeated_request(journal, executor, packaged):
    work = serve(executor, packaged.manifest)
    journal.keep([work, dataclasses.replace(work)])
    assert journal.counts()[0] == 1


def asked_again(work, **changes):
    receipt = dataclasses.replace(work.receipt, **changes)
    signature = support.WORKER.sign_digest(receipt.digest(DOMAIN))
    return dataclasses.replace(work, receipt=receipt, worker_signature=signature)


def test_a_request_asked_again_and_answered_alike_is_claimed_by_the_receipt_that_was_charged(
    journal, executor, packaged, tmp_path
):
    lost = serve(executor, packaged.manifest)
    journal.keep([lost])  # the gateway died before it charged this one
    charged = asked_again(lost, seq=lost.receipt.seq + 4, cumulative=lost.receipt.cumulative + 9_000)
    assert journal.keep([charged]) == []
    assert journal.counts() == (2, 0)
    signature = GATEWAY.sign_digest(charged.receipt.digest(DOMAIN))
    journal.keep((), Papers(((charged.receipt.request_id, signature),)))
    ((best, countersignature),) = journal.claims()
    assert (best.receipt, countersignature) == (charged.receipt, signature)
    again = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    assert again.claims() == journal.claims()
    again.close()


def test_a_second_answer_to_a_request_is_never_handed_out(journal, executor, packaged, tmp_path, monkeypatch):
    job = support.make_job(packaged.manifest)
    (result,), (first,) = executor.run([job])
    journal.keep([first])
    journal.close()
    journal = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)  # started again meanwhile
    other = asked_again(first, output_hash=b"o" * 32, seq=9)
    good = serve(executor, packaged.manifest, request_id=b"g" * 32, seq=10, cumulative=9_000)
    told = []
    monkeypatch.setattr(tasks, "_reply", lambda _client, served, _sitting: told.extend(served))
    node = SimpleNamespace(journal=journal, redis=None)
    good_result = dataclasses.replace(result, request_id=b"g" * 32, signature=good.worker_signature)
    good_job = dataclasses.replace(job[0], request_id=b"g" * 32)
    second = dataclasses.replace(result, signature=other.worker_signature)
    tasks._deliver(node, [(job[0], second), (good_job, good_result)], [other, good])
    assert [(one.ok, one.code) for _, one in told] == [(False, "answered-otherwise"), (True, "")]
    assert told[0][1].retry is Retry.OTHER_WORKER
    assert told[0][1].signature == b""
    assert journal.counts()[0] == 2
    # Other inputs, or another model, are another request to the contracts.
    assert journal.keep([asked_again(first, output_hash=b"p" * 32, input_hash=b"i" * 32)]) == []
    journal.close()


def test_who_asks_again_by_the_same_id_is_given_the_same_answer(executor, packaged, monkeypatch):
    """Sampling and the company in a batch make another of the same inputs."""
    job, blob = support.make_job(packaged.manifest)
    (first,), (paper,) = executor.run([(job, blob)])
    served = executor._sessions.get(packaged)
    monkeypatch.setattr(served, "run", lambda works: pytest.fail("it was run a second time"))
    again, _ = support.make_job(
        packaged.manifest, request_id=job.request_id, attempt="other", seq=job.seq + 3, cumulative=9_000
    )
    (second,), (other,) = executor.run([(again, blob)])
    assert (second.ok, second.outputs, second.attempt) == (True, first.outputs, "other")
    assert other.receipt == dataclasses.replace(
        paper.receipt,
        seq=job.seq + 3,
        cumulative=other.receipt.cumulative,
        served_at=other.receipt.served_at,
    )


def test_the_oldest_answers_are_forgotten(packaged):
    kept = Answered(most_bytes=8_000)
    jobs = [support.make_job(packaged.manifest, request_id=bytes([n]) * 32)[0] for n in range(20)]
    for job in jobs:
        kept.put(job, b"x" * 400, 1)
    known = [kept.get(job) is not None for job in jobs]
    assert known == [False] * 9 + [True] * 11
    kept.put(jobs[0], b"x" * 501, 1)
    assert kept.get(jobs[0]) is None, "too large"


# --- journals that cannot be opened -----------------------------------------------------------------------------------


def refused(path) -> JournalUnusable:
    with pytest.raises(JournalUnusable) as caught:
        Journal(path, domain=DOMAIN, operator=OPERATOR)
    assert isinstance(caught.value, StartError)
    assert str(path) in caught.value.detail
    return caught.value


def test_a_file_that_is_no_database_is_named_as_the_journal(tmp_path):
    path = tmp_path / "papers.db"
    path.write_bytes(b"no database at all" * 100)
    error = refused(path)
    assert error.detail == f"the worker's journal {path}: file is not a database."
    assert "worker rescue" in error.remedy


def test_a_folder_in_the_journals_place_is_named(tmp_path):
    assert "is a folder" in refused(tmp_path).detail


def test_a_journal_of_a_newer_version_is_left_as_it_is(journal, tmp_path):
    journal.close()
    path = tmp_path / "papers.db"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        database.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    assert "newer version (2, this program knows 1)" in refused(path).detail
    assert path.read_bytes() == before


def test_a_journal_from_before_versions_were_written_is_read(journal, executor, packaged, tmp_path):
    journal.keep([serve(executor, packaged.manifest)])
    journal.close()
    with closing(sqlite3.connect(tmp_path / "papers.db")) as database:
        database.execute("PRAGMA user_version = 0")
    again = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    assert again.counts() == (1, 0)
    again.close()


@pytest.mark.parametrize(
    ("table", "said"),
    [("channels (x)", "no worker's journal"), ("work (number INTEGER PRIMARY KEY)", "no such column")],
)
def test_another_programs_database_is_not_taken_for_a_journal(tmp_path, table, said):
    path = tmp_path / "papers.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE {table}")
    before = path.read_bytes()
    assert said in refused(path).detail
    if said == "no worker's journal":
        assert path.read_bytes() == before


def test_a_journal_that_cannot_be_written_says_what_to_allow(tmp_path, monkeypatch):
    path = tmp_path / "papers.db"
    sqlite3.connect(path).close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        papers.sqlite3, "connect", lambda path, **given: connect(f"file:{path}?mode=ro", uri=True, **given)
    )
    error = refused(path)
    assert "readonly" in error.detail
    assert "Let this user write it" in error.remedy


def test_a_journal_that_another_program_holds_is_named(journal, tmp_path, monkeypatch):
    journal.close()
    path = tmp_path / "papers.db"
    connect = sqlite3.connect
    monkeypatch.setattr(papers.sqlite3, "connect", lambda path, **given: connect(path, timeout=0, **given))
    with closing(connect(path)) as database:
        database.execute("PRAGMA user_version = 0")
        database.commit()
        database.execute("BEGIN IMMEDIATE")
        assert "Another program holds it" in refused(path).remedy


def test_a_second_answer_is_never_handed_out_however_long_ago_the_first_was(
    journal, executor, packaged, tmp_path, monkeypatch
):
    """The contracts compare neither channels nor times: who has both answers signed takes a part of the stake."""
    monkeypatch.setattr(papers, "_RECENT", 3)
    first = serve(executor, packaged.manifest)
    journal.keep([first])

    def forget():
        for n in range(5):
            request_id = bytes([n]) + os.urandom(31)
            other = asked_again(first, request_id=request_id, output_hash=os.urandom(32), channel_id=os.urandom(32))
            assert journal.keep([other]) == []
        assert first.receipt.request_id not in journal._recent

    forget()
    other = asked_again(first, output_hash=b"o" * 32, channel_id=b"c" * 32, seq=9)
    assert journal.keep([other]) == [other]
    forget()
    # With other inputs it is another request, which must not hide the first one.
    assert journal.keep([asked_again(first, output_hash=b"p" * 32, input_hash=b"i" * 32, seq=10)]) == []
    again = Journal(tmp_path / "papers.db", domain=DOMAIN, operator=OPERATOR)
    assert journal.keep([other]) == again.keep([other]) == [other]
    assert again.keep([asked_again(first, seq=11)]) == []
    again.close()


def test_one_number_of_a_channel_is_never_given_two_answers(journal, executor, packaged, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 1)
    first = serve(executor, packaged.manifest)
    assert journal.keep([first]) == []
    other = asked_again(first, request_id=b"r" * 32, output_hash=b"o" * 32)
    elsewhere = asked_again(other, request_id=b"s" * 32, channel_id=b"c" * 32)
    assert journal.keep([other, elsewhere]) == [other]
    at_once = [asked_again(first, request_id=bytes([n]) * 32, seq=70, output_hash=bytes([n]) * 32) for n in (1, 2)]
    assert journal.keep(at_once) == at_once[1:]


def test_no_look_at_the_past_reads_all_of_it(journal, executor, packaged, monkeypatch):
    monkeypatch.setattr(papers, "_RECENT", 1)
    first = serve(executor, packaged.manifest)
    journal.keep([asked_again(first, seq=9), asked_again(first, seq=8, request_id=b"r" * 32)])
    asked = []
    journal._db.set_trace_callback(asked.append)
    journal.keep([first, asked_again(first, seq=2), asked_again(first, seq=3, request_id=b"r" * 32)])
    journal._find_gap()
    journal._highest.clear()
    journal._highest_of(first.receipt.channel_id)
    journal._db.set_trace_callback(None)
    looks = [query for query in asked if query.startswith("SELECT")]
    assert len(looks) >= 5
    for query in looks:
        plan = [row[3] for row in journal._db.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert not any(step.startswith("SCAN") for step in plan), query


def test_a_number_is_looked_for_in_its_own_channel_alone(journal, executor, packaged, monkeypatch):
    """Each channel counts from one: by its number alone a receipt would be compared with one of every channel."""
    first = serve(executor, packaged.manifest)
    others = [
        asked_again(first, request_id=os.urandom(32), channel_id=os.urandom(32), output_hash=os.urandom(32))
        for _ in range(50)
    ]
    assert journal.keep(others) == []
    read = []
    monkeypatch.setattr(papers, "_recent", lambda *given, made=papers._recent: read.append(given) or made(*given))
    assert journal.keep([first]) == []
    assert len(read) == 1, "itself, and none of the others"
