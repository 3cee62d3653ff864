"""The last hour of each worker: what was served, what failed, how long answers took."""

import pytest

from market.inference.activity import Activity

WORKER, OTHER, MODEL, SECOND = b"w", b"o", b"m", b"s"


@pytest.fixture
def clock():
    return [6_000.0]


@pytest.fixture
def activity(clock):
    return Activity(wall_clock=lambda: clock[0])


def test_attempts_are_counted_by_worker_and_model(activity):
    activity.record(WORKER, MODEL, 0.010, None)
    activity.record(WORKER, SECOND, 0.030, None)
    activity.record(OTHER, MODEL, 0.020, "worker-failed")
    assert activity.performance(worker=WORKER).served == 2
    model = activity.performance(model_id=MODEL)
    assert (model.served, model.failed, model.errors, model.success_rate) == (1, 1, {"worker-failed": 1}, 0.5)
    one = activity.performance(worker=WORKER, model_id=SECOND)
    assert (one.p50_ms, one.p95_ms) == (30.0, 30.0)
    nothing = activity.performance(worker=b"?")
    assert (nothing.served, nothing.success_rate, nothing.p50_ms) == (0, None, None)


def test_an_hour_later_nothing_is_left_but_the_newest_answer_times(activity, clock):
    activity.record(WORKER, MODEL, 0.010, None)
    clock[0] += 3_700
    assert activity.performance(worker=WORKER).served == 0
    assert activity.history(worker=WORKER) == []


def test_history_joins_the_same_minute_of_several_models(activity, clock):
    activity.record(WORKER, MODEL, 0.010, None)
    activity.record(WORKER, SECOND, 0.030, "overloaded")
    clock[0] += 61
    activity.record(WORKER, MODEL, 0.050, None)
    first, second = activity.history(worker=WORKER)
    assert (first.at, first.served, first.failed) == (6_000, 1, {"overloaded": 1})
    assert (second.at, second.spent_ms) == (6_060, 50.0)


def test_quantiles_are_of_the_newest_answers(activity):
    for number in range(1, 301):
        activity.record(WORKER, MODEL, number / 1_000, None)
    found = activity.performance(worker=WORKER)
    assert found.served == 300
    assert found.p50_ms == 45 + 128
    assert 285 <= found.p95_ms <= 290
