import pytest

from contracts.protocol.signing import recover
from market.inference import papers as papers_module
from market.inference.load import WorkerLoad
from market.inference.papers import PapersDesk
from tests.support.money import DOMAIN, GATEWAY

WORKER, PAYEE = b"\x01" * 20, b"\x02" * 20
MODEL = b"\x03" * 32


def desk() -> PapersDesk:
    return PapersDesk(key=GATEWAY, domain=DOMAIN)


def test_papers_are_taken_once_with_a_signed_note():
    of = desk()
    of.add(WORKER, b"a" * 32, b"1" * 65, PAYEE, 10)
    of.add(WORKER, b"b" * 32, b"2" * 65, PAYEE, 30)
    assert of.waiting() == [WORKER]
    papers = of.take(WORKER)
    assert papers.countersigned == ((b"a" * 32, b"1" * 65), (b"b" * 32, b"2" * 65))
    note = papers.credit_note
    assert (note.gateway, note.payee, note.cumulative_amount) == (GATEWAY.address, PAYEE, 30)
    assert recover(note.digest(DOMAIN), papers.credit_note_signature) == GATEWAY.address
    assert of.take(WORKER) is None
    assert of.waiting() == []


def test_the_promise_only_grows():
    of = desk()
    of.add(WORKER, b"a" * 32, b"1" * 65, PAYEE, 30)
    of.add(WORKER, b"b" * 32, b"2" * 65, PAYEE, 10)
    assert of.take(WORKER).credit_note.cumulative_amount == 30


def test_a_new_payee_starts_with_its_own_total():
    of = desk()
    of.add(WORKER, b"a" * 32, b"1" * 65, PAYEE, 30)
    of.add(WORKER, b"b" * 32, b"2" * 65, b"\x03" * 20, 10)
    note = of.take(WORKER).credit_note
    assert (note.payee, note.cumulative_amount) == (b"\x03" * 20, 10)


def test_papers_that_could_not_be_sent_are_kept():
    of = desk()
    of.add(WORKER, b"a" * 32, b"1" * 65, PAYEE, 30)
    papers = of.take(WORKER)
    of.add(WORKER, b"b" * 32, b"2" * 65, PAYEE, 40)
    of.put_back(WORKER, papers)
    again = of.take(WORKER)
    assert len(again.countersigned) == 2
    assert again.credit_note.cumulative_amount == 40


def test_an_absent_worker_costs_bounded_memory(monkeypatch):
    monkeypatch.setattr(papers_module, "MAX_WAITING", 3)
    of = desk()
    for i in range(5):
        of.add(WORKER, bytes([i]) * 32, b"1" * 65, PAYEE, i)
    assert [request_id[0] for request_id, _ in of.take(WORKER).countersigned] == [2, 3, 4]


def test_what_a_worker_failed_is_forgiven_with_time_and_with_good_work():
    now = [0.0]
    load = WorkerLoad(lambda: now[0])
    load.begin(WORKER)
    for _ in range(20):
        load.judge(WORKER, fault=True)
    low = load.reliability(WORKER)
    assert low < 0.4
    now[0] += 30.0
    assert load.reliability(WORKER) == pytest.approx(1 - (1 - low) / 2)
    for _ in range(20):
        load.judge(WORKER, fault=False)
    assert load.reliability(WORKER) > 0.85
    assert load.reliability(PAYEE) == 1.0


def test_the_rate_counts_a_batch_as_what_it_is():
    load = WorkerLoad()
    beside = [load.begin(WORKER) for _ in range(8)]
    assert load.queue_seconds(WORKER) == 0.0, "nothing is known yet"
    for one in beside[:4]:
        load.end(WORKER, 0.4, one)
    assert load.queue_seconds(WORKER) == pytest.approx(4 / (4 / 0.4))


def test_patience_is_ten_times_the_slowest_and_grows_with_what_is_larger():
    load = WorkerLoad()
    load.begin(WORKER)
    load.end(WORKER, 0.4)
    assert load.patience_seconds(WORKER, MODEL, 100, 15.0) == 15.0, "it never answered this model"
    load.answered(WORKER, MODEL, 100)
    assert load.patience_seconds(WORKER, MODEL, 50, 15.0) == load.patience_seconds(WORKER, MODEL, 100, 15.0) == 4.0
    assert load.patience_seconds(WORKER, MODEL, 200, 15.0) == 8.0
    assert load.patience_seconds(WORKER, MODEL, 100, 2.0) == 2.0
    assert load.patience_seconds(PAYEE, MODEL, 100, 15.0) == 15.0


def test_how_large_inputs_were_is_forgotten_with_time():
    load = WorkerLoad()
    assert load.largest(WORKER, MODEL) == 0.0
    load.begin(WORKER)
    load.answered(WORKER, MODEL, 1_000)
    for _ in range(100):
        load.answered(WORKER, MODEL, 10)
    assert 300 < load.largest(WORKER, MODEL) < 400
    assert load.largest(WORKER, b"2" * 32) == 0.0


def test_a_share_is_what_each_would_have_if_all_had_the_same():
    load = WorkerLoad()
    assert not load.below_share(WORKER, b"a")
    for _ in range(4):
        load.begin(WORKER, b"a")
    assert not load.below_share(WORKER, b"a"), "alone it may have all"
    assert load.below_share(WORKER, b"b")
    load.begin(WORKER, b"b")
    assert load.below_share(WORKER, b"b")
    assert not load.below_share(WORKER, b"a")
    load.end(WORKER, 0.1, 1, b"b")
    for _ in range(4):
        load.end(WORKER, None, 1, b"a")
    assert not load.below_share(WORKER, b"b")


def test_load_counts_and_smooths():
    load = WorkerLoad()
    load.begin(WORKER)
    load.begin(WORKER)
    assert load.in_flight(WORKER) == 2
    load.end(WORKER, 0.010)
    load.end(WORKER, None)
    assert (load.in_flight(WORKER), load.latency_ms(WORKER)) == (0, 10.0)
    load.begin(WORKER)
    load.end(WORKER, 0.020)
    assert load.latency_ms(WORKER) == 12.0
    assert load.latency_ms(PAYEE) == 0.0
