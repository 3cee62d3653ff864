"""The shells around the gateway's background work: what is beaten, how often, and what a failure does."""

import pytest
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


def test_every_task_has_a_beat_on_the_gateways_own_queue():
    queue = jobs.queue_name(b"\x01" * 20)
    assert queue != jobs.queue_name(b"\x02" * 20)
    jobs.configure("redis://127.0.0.1:1/0", queue)
    assert jobs.app.conf.task_default_queue == queue
    beaten = {entry["task"] for entry in jobs.app.conf.beat_schedule.values()}
    assert beaten == {name for name in jobs.app.tasks if name.startswith("market.jobs.")}
    assert jobs.app.conf.accept_content == ["json"]
    assert all(entry["options"]["expires"] <= 60 for entry in jobs.app.conf.beat_schedule.values())
