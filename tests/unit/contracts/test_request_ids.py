import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

from contracts.protocol.randomness import Draws
from contracts.protocol.request_ids import new_request_id


def test_ids_are_different_and_grow_with_time():
    first = [new_request_id() for _ in range(1_000)]
    assert len(set(first)) == 1_000
    assert {len(one) for one in first} == {32}
    time.sleep(0.002)
    assert new_request_id() > max(first)


def test_no_two_threads_draw_the_same():
    draws = Draws(8)
    with ThreadPoolExecutor(4) as pool:
        drawn = [one for lot in pool.map(lambda _: [draws.take() for _ in range(2_000)], range(4)) for one in lot]
    assert len(set(drawn)) == 8_000
    assert {len(one) for one in drawn} == {8}


def test_a_forked_process_draws_its_own():
    draws = Draws(8)
    draws.take()
    forked = multiprocessing.get_context("fork")
    theirs = forked.SimpleQueue()
    process = forked.Process(target=lambda: theirs.put([draws.take() for _ in range(200)]))
    process.start()
    there = theirs.get()
    process.join()
    assert not {draws.take() for _ in range(200)} & set(there)
