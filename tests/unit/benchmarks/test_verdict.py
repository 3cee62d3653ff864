"""The verdict of soak and overload finds what grows, slows down, fails or is charged wrong."""

import pytest

from benchmarks import verdict
from benchmarks.watch import MIB, growth

SECONDS = 100


def window(**changes):
    classes = [{"requests": 900, "p50": 2.0, "p99": 10.0}] * 4
    return {"refused": 0, "broken": 0, "unsent": 0, "hanging": 0, "classes": classes, **changes}


def sample(at, **changes):
    made = {"at": at, "memory": {"gateway": 150 * MIB, "chain": 50 * MIB}, "files": {"gateway": 80, "chain": 9}}
    return {**made, "redis_bytes": 2 * MIB, "waiting": at % 3, "keys": 10, **changes}


def soak(samples=None, windows=None, charges=(True, "exact")):
    samples = samples or [sample(at) for at in range(SECONDS)]
    found = {"samples": samples, "windows": windows or [window()] * 10, "requests": 10_000, "charges": charges}
    return [row.what for row in verdict.of_soak(found, warm_up=0.2) if row.holds is False]


def rising(name, what):
    return [sample(at, **{name: what(at)}) for at in range(SECONDS)]


def test_growth_is_that_of_the_straight_line():
    assert growth([(x, 3.0 * x + 5) for x in range(11)]) == pytest.approx(30.0)
    assert growth([(x, float(x % 2)) for x in range(1_001)]) == pytest.approx(0.0, abs=0.01)
    assert growth([(1.0, 2.0)]) == 0.0


def test_what_is_steady_holds_after_a_warm_up_that_is_not():
    warming = [sample(at, memory={"gateway": min(150, 100 + 3 * at) * MIB, "chain": at * MIB}) for at in range(SECONDS)]
    assert soak(warming) == []


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (rising("memory", lambda at: {"gateway": (150 + at // 5) * MIB, "chain": 1}), "memory, gateway"),
        (rising("files", lambda at: {"gateway": 80 + at // 10, "chain": 9}), "open files, gateway"),
        (rising("redis_bytes", lambda at: at * MIB), "Valkey's memory"),
        (rising("waiting", lambda at: 2 * at), "requests that wait in Valkey"),
        (rising("keys", lambda at: 2 * at), "keys in Valkey"),
    ],
)
def test_what_grows_is_found(samples, found):
    assert soak(samples) == [found]


def test_slower_answers_failures_and_wrong_charges_are_found():
    slow = window(classes=[{"requests": 900, "p50": 2.0, "p99": 30.0}] * 4)
    assert soak(windows=[window()] * 6 + [slow] * 4) == ["p99 of tiny requests, first and last third"]
    assert soak(windows=[window(broken=2)] * 10) == ["refused, broken or not sent"]
    assert soak(charges=(False, "one too many")) == ["charges"]


def overload(**changes):
    made = {"rps": 950.0, "offered": 3_000.0, "seconds": 60.0, "requests": 57_000, "refused": 100_000}
    made |= {"statuses": {"429": 100_000}, "refused_p50": 1.0, "refused_p99": 20.0, "p50": 900.0, "p99": 2_000.0}
    made |= {"broken": 0, "hanging": 0, "charges": (True, "exact"), **changes}
    return [row.what for row in verdict.of_overload("tiny", 1_000.0, made) if row.holds is False]


def test_an_overload_is_judged():
    assert overload() == []
    assert overload(rps=890.0) == ["tiny: goodput"]
    assert overload(refused_p99=251.0) == ["tiny: refusals"]
    assert overload(hanging=1) == ["tiny: broken or hanging"]
    assert overload(charges=(False, "")) == ["tiny: charges"]
