"""Inputs too large for their deadline: ended with it, not computed in vain again, and never in others' way."""

import time
from dataclasses import replace

import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.tensors import Tensor
from tests.support import models
from tests.support.worker import DOMAIN, GATEWAY, UNIT_PRICE, WORKER, make_job
from workers.admission import Admission, Served
from workers.errors import OutOfTime
from workers.execution import Executor
from workers.models.sessions import SessionCache
from workers.models.sizes import FIRST_HOLD_SECONDS, LONGEST_HOLD_SECONDS, Size, SlowSizes

TINY, SMALL, LARGE = Size(1, 1), Size(100, 10), Size(10_000, 1_000)
# Some seconds of work on one core.
LABOUR = 3_000_000


def refuses(slow, size, seconds_left) -> bool:
    try:
        slow.check(size, seconds_left)
    except OutOfTime:
        return True
    return False


def test_what_was_late_is_refused_from_that_size_on_and_where_no_more_time_is_left():
    slow = SlowSizes()
    assert not slow
    slow.late(LARGE, 20.0)
    assert slow
    assert refuses(slow, LARGE, 24.0)
    assert not refuses(slow, LARGE, 25.0), "with a quarter more time it may be ready"
    assert refuses(slow, Size(20_000, 1_000), 20.0)
    assert not refuses(slow, SMALL, 1.0)
    assert not refuses(slow, Size(20_000, 999), 1.0), "more of shorter rows may take less"


def test_it_is_tried_again_after_twice_as_long_each_time():
    now = [0.0]
    slow = SlowSizes(lambda: now[0])
    hold = FIRST_HOLD_SECONDS
    for _ in range(10):
        slow.late(LARGE, 20.0)
        now[0] += hold - 1
        assert refuses(slow, LARGE, 20.0)
        now[0] += 1
        assert not refuses(slow, LARGE, 20.0)
        hold = min(LONGEST_HOLD_SECONDS, 2 * hold)


def test_what_is_ready_sooner_says_otherwise():
    slow = SlowSizes()
    slow.late(LARGE, 20.0)
    slow.ready(SMALL, 1.0)
    assert refuses(slow, LARGE, 20.0), "of smaller inputs it says nothing"
    slow.ready(LARGE, 20.5)
    assert refuses(slow, LARGE, 20.0), "nor where it took as long"
    slow.ready(LARGE, 2.0)
    assert not slow


def test_the_smaller_one_that_was_later_stands_for_the_larger():
    slow = SlowSizes()
    for i in range(100):
        slow.late(Size(10_000 + i, 1_000 - i), 10.0)
    assert len(slow._known) <= 16
    slow.late(SMALL, 20.0)
    assert len(slow._known) == 1


def test_a_size_is_that_of_all_and_of_the_longest():
    numbers = Tensor.from_numpy("x", np.zeros((3, 50), "f4"))
    texts = Tensor.from_numpy("text", np.array(["a", "b" * 70], dtype=object))
    assert Size.of([[numbers], [numbers, texts]]) == Size(2 * 600 + 79, 70)
    assert Size.of([[Tensor.from_numpy("n", np.float32(1))]]) == Size(4, 0)
    assert SMALL.with_other(Size(1, 11)) == Size(100, 11)


@pytest.fixture(scope="module")
def laborious(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laborious")
    return models.fetched(folder / "p", models.laborious_package(folder / "p"))


@pytest.fixture
def executor(laborious, chain):
    served = {laborious.model_id: Served(laborious, UNIT_PRICE)}
    admission = Admission(
        domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=60_000, chain=chain
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    sessions.get(laborious)
    return Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)


def job(package, size: int, seconds: float = 60.0):
    made, blob = make_job(package.manifest, np.zeros((1, size), "f4"))
    return replace(made, deadline_at=time.time() + seconds), blob


def ask(executor, *jobs):
    return executor.run(list(jobs))[0]


def test_a_run_ends_with_its_deadline_and_is_not_begun_again_in_vain(executor, laborious):
    began = time.monotonic()
    (late,) = ask(executor, job(laborious, LABOUR, seconds=0.7))
    assert (late.code, late.retry, late.signature) == ("out-of-time", Retry.OTHER_WORKER, b"")
    assert time.monotonic() - began < 5.0
    began = time.monotonic()
    refused, small = ask(executor, job(laborious, LABOUR, seconds=0.6), job(laborious, 10))
    assert time.monotonic() - began < 0.5
    assert (refused.code, "no larger than these took more than" in refused.detail) == ("out-of-time", True)
    assert small.ok
    (longer,) = ask(executor, job(laborious, LABOUR // 30, seconds=60.0))
    assert longer.ok, "smaller inputs are served"


def test_those_behind_it_whose_time_is_over_are_not_run_at_all(executor, laborious):
    late, behind, patient = ask(
        executor,
        job(laborious, LABOUR, seconds=0.7),
        job(laborious, 11, seconds=0.2),
        job(laborious, 12),
    )
    assert (late.code, behind.code, patient.ok) == ("out-of-time", "job-too-late", True)


def test_a_model_that_is_measured_later_has_all_its_time(executor, laborious):
    assert ask(executor, job(laborious, LABOUR, seconds=0.5))[0].code == "out-of-time"
    graph = executor._sessions.get(laborious).graph
    assert graph.run({"x": np.zeros((1, 1_000), "f4")}, ["y"])["y"] == 0.0
