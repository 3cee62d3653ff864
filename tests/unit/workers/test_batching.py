import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.models.batching import group, join, split


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=12), st.integers(1, 16))
def test_every_request_is_in_one_group_and_gets_its_own_rows_back(shapes, cap):
    requests = [{"x": np.full((rows, width), i, "f4")} for i, (rows, width) in enumerate(shapes)]
    groups = group(requests, 0, cap)
    assert sorted(i for members in groups for i in members) == list(range(len(requests)))
    for members in groups:
        together = [requests[i] for i in members]
        assert len({one["x"].shape[1] for one in together}) == 1
        assert len(members) == 1 or sum(len(one["x"]) for one in together) <= cap
        pieces = split(join(together, 0), together, 0)
        for piece, one in zip(pieces, together, strict=True):
            np.testing.assert_array_equal(piece["x"], one["x"])


def test_without_a_batch_axis_each_runs_alone():
    assert group([{"x": np.ones(3)}] * 3, None, 8) == [[0], [1], [2]]


def test_scalars_and_uneven_inputs_are_not_joined():
    scalar = {"x": np.ones((2, 2)), "k": np.array(1)}
    uneven = {"x": np.ones((2, 2)), "y": np.ones((3, 2))}
    assert sorted(group([scalar, scalar, uneven], 0, 8)) == [[0], [1], [2]]


def test_outputs_that_do_not_follow_the_batch_are_not_split():
    requests = [{"x": np.ones((2, 2))}, {"x": np.ones((1, 2))}]
    assert split({"y": np.ones((5, 2))}, requests, 0) is None
    assert split({"y": np.array(1.0)}, requests, 0) is None
