from hypothesis import given
from hypothesis import strategies as st

from market.registry.selection import Candidate, Limits, choose, rank


def candidate(worker: int, **changes) -> Candidate:
    given_ = {"operator": b"", "unit_price": 10, "in_flight": 0, "latency_ms": 0.0, "stake": 1} | changes
    return Candidate(worker=bytes([worker]), **given_)


def order(*candidates: Candidate, limits: Limits | None = None) -> list[int]:
    return [one.worker[0] for one in rank(candidates, limits or Limits())]


def test_documented_order():
    assert order(candidate(1, unit_price=11), candidate(2)) == [2, 1]
    assert order(candidate(1, in_flight=1), candidate(2, latency_ms=99)) == [2, 1]
    assert order(candidate(1, latency_ms=5), candidate(2, latency_ms=3)) == [2, 1]
    assert order(candidate(1, stake=1), candidate(2, stake=2)) == [2, 1]
    assert order(candidate(2), candidate(1)) == [1, 2]


def test_latency_below_a_millisecond_is_noise():
    assert order(candidate(1, latency_ms=3.9, stake=2), candidate(2, latency_ms=3.1)) == [1, 2]


def test_limits():
    both = (candidate(1, unit_price=10), candidate(2, unit_price=20))
    assert order(*both, limits=Limits(max_unit_price=10)) == [1]
    assert order(*both, limits=Limits(max_unit_price=9)) == []
    assert order(*both, limits=Limits(only_worker=b"\x02")) == [2]
    assert order(*both, limits=Limits(excluded=frozenset([b"\x01"]))) == [2]
    assert choose([], Limits()) is None


candidates = st.lists(
    st.builds(
        Candidate,
        worker=st.binary(min_size=1, max_size=2),
        operator=st.just(b""),
        unit_price=st.integers(0, 3),
        in_flight=st.integers(0, 3),
        latency_ms=st.floats(0, 3),
        stake=st.integers(0, 3),
    ),
    unique_by=lambda one: one.worker,
)


@given(candidates, st.randoms())
def test_the_order_of_arrival_changes_nothing(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert rank(found) == rank(shuffled)
    assert choose(shuffled) == (rank(found)[0] if found else None)
