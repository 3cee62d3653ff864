"""The shells around the gateway's background work: what a turn does, how often, and what a failure does."""

import signal
import threading
import time

import pytest
from celery.worker import state
from structlog.testing import capture_logs

from market import jobs
from market.errors import ChainUnreachable


class Work:
    """Jobs that count, or fail as told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: Exception | None = None

    def __getattr__(self, name):
        def step():
            if self.fails is not None:
                raise self.fails
            self.done.append(name)

        return step


@pytest.fixture
def work(monkeypatch):
    made = Work()
    monkeypatch.setattr(jobs, "_joined", [made])
    monkeypatch.setattr(jobs, "_failing", {})
    monkeypatch.setattr(jobs, "_due", {})
    return made


@pytest.mark.parametrize("name", ["index", "settle", "answer", "sweep", "measure"])
def test_each_task_takes_one_step(work, name):
    getattr(jobs, name)()
    assert work.done == [name]


def test_a_failure_is_said_once_and_so_is_its_end(work):
    work.fails = ChainUnreachable("no answer")
    with capture_logs() as logs:
        for _ in range(5):
            jobs.index()
        work.fails = None
        for _ in range(3):
            jobs.index()
    assert [(line["event"], line["job"]) for line in logs] == [("job-failed", "index"), ("job-recovered", "index")]
    assert logs[0]["code"] == "chain-unreachable"
    assert "MARKET_RPC_URL" in logs[0]["detail"], "the remedy too"


def test_a_bug_is_not_hidden(work):
    work.fails = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        jobs.index()


@pytest.fixture
def short(monkeypatch):
    """Turns of 0.4 s, of which 0.1 s is rest; the index each tenth of a second, the rest once."""
    monkeypatch.setattr(jobs, "TURN_SECONDS", 0.4)
    monkeypatch.setattr(jobs, "REST_SECONDS", 0.1)
    monkeypatch.setattr(jobs, "RHYTHM", {name: 0.1 if name == "index" else 60.0 for name in jobs.RHYTHM})


def test_a_turn_takes_each_step_when_it_is_due_and_the_next_goes_on_in_time(work, short):
    began = time.monotonic()
    jobs.turn()
    assert 0.15 < time.monotonic() - began < 0.35, "it ends before the next beat"
    assert work.done == ["index", "settle", "answer", "sweep", "measure", "index", "index"]
    time.sleep(max(0.0, began + 0.4 - time.monotonic()))
    jobs.turn()
    assert work.done[7:] == ["index"] * (len(work.done) - 7)
    assert 2 <= len(work.done) - 7 <= 4


def test_a_bug_in_one_step_keeps_no_other_from_its_time(work, short, monkeypatch):
    monkeypatch.setattr(Work, "settle", lambda _: 1 // 0, raising=False)
    with capture_logs() as logs:
        jobs.turn()
    assert work.done == ["index", "answer", "sweep", "measure", "index", "index"]
    assert [(line["event"], line["job"]) for line in logs] == [("job-broken", "settle")]


def test_the_end_of_the_program_ends_a_turn_at_once(work, monkeypatch):
    def end(*_):
        jobs._wake()
        monkeypatch.setattr(state, "should_stop", 0)

    monkeypatch.setattr(jobs, "RHYTHM", dict.fromkeys(jobs.RHYTHM, 4.0))
    before = signal.signal(signal.SIGUSR1, end)
    try:
        began = time.monotonic()
        main = threading.get_ident()
        threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
        jobs.turn()
        assert time.monotonic() - began < 2.0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert work.done == list(jobs.RHYTHM)


def test_every_step_has_its_time_and_the_turn_its_beat_on_the_gateways_own_queue():
    queue = jobs.queue_name(b"\x01" * 20)
    assert queue != jobs.queue_name(b"\x02" * 20)
    jobs.configure("redis://127.0.0.1:1/0", queue)
    assert jobs.app.conf.task_default_queue == queue
    beaten = {entry["task"] for entry in jobs.app.conf.beat_schedule.values()}
    timed = {f"market.jobs.{name}" for name in jobs.RHYTHM}
    assert beaten == {"market.jobs.turn"}
    assert beaten | timed == {name for name in jobs.app.tasks if name.startswith("market.jobs.")}
    assert min(jobs.RHYTHM.values()) >= 10 * jobs.REST_SECONDS, "the rest between two turns makes no step late"
    assert jobs.app.conf.accept_content == ["json"]
    assert all(entry["options"]["expires"] <= 60 for entry in jobs.app.conf.beat_schedule.values())
