import time

from contracts.protocol.request_ids import new_request_id


def test_ids_are_different_and_grow_with_time():
    first = [new_request_id() for _ in range(1_000)]
    assert len(set(first)) == 1_000
    assert {len(one) for one in first} == {32}
    time.sleep(0.002)
    assert new_request_id() > max(first)
