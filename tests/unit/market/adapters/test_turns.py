"""Clients take turns in a queue, each in its own order."""

from hypothesis import given
from hypothesis import strategies as st

from market.adapters.turns import TurnQueue


def drained(queue):
    out = []
    while queue:
        out.append(queue.popleft())
    return out


def test_one_request_does_not_wait_for_anothers_thousand():
    queue = TurnQueue()
    for number in range(1_000):
        queue.append(b"many", ("many", number))
    queue.append(b"few", ("few", 0))
    assert drained(queue)[:4] == [("many", 0), ("few", 0), ("many", 1), ("many", 2)]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans())))
def test_nothing_is_lost_each_keeps_its_order_and_nobody_is_passed_over_twice(steps):
    queue, put, got = TurnQueue(), [], []
    waiting: dict[bytes, int] = {}
    passed: dict[bytes, dict[bytes, int]] = {}
    for number, (client, takes) in enumerate(steps):
        queue.append(client, (client, number))
        put.append((client, number))
        waiting[client] = waiting.get(client, 0) + 1
        passed.setdefault(client, {})
        if takes:
            served, item = queue.popleft()
            got.append((served, item))
            waiting[served] -= 1
            passed[served] = {}
            for other, count in waiting.items():
                if other != served and count:
                    before = passed[other].get(served, 0)
                    assert before < 2, "served again and again while another waits"
                    passed[other][served] = before + 1
    got += drained(queue)
    assert sorted(got) == sorted(put)
    for client in (b"a", b"b", b"c", b"d"):
        assert [item for item in got if item[0] == client] == [item for item in put if item[0] == client]
