"""How many rows a model runs at once, by a clock that says how long each batch takes."""

from types import SimpleNamespace

import pytest

from workers.errors import ExecutionFailed
from workers.models import opening


class Model:
    """A model whose batches take as long as `seconds` says by their rows; those of `fails` rows and more fail."""

    def __init__(self, seconds, *, most=64, fails=1_000) -> None:
        self.manifest = SimpleNamespace(max_batch=most, batch_axis=0)
        self.graph_outputs = ["y"]
        self.graph = self
        self.ran, self.now = [], 0.0
        self._seconds, self._fails = seconds, fails

    def sample(self, rows):
        return rows

    def run(self, rows, outputs):
        if rows >= self._fails:
            raise ExecutionFailed("too many rows.")
        self.ran.append(rows)
        self.now += self._seconds(rows)


@pytest.fixture
def warm_up(monkeypatch):
    def measure(model):
        clock = SimpleNamespace(monotonic=lambda: model.now, perf_counter=lambda: model.now)
        monkeypatch.setattr(opening, "time", clock)
        return opening.warm_up(model), model.ran[::2]

    return measure


def test_what_goes_on_gaining_is_measured_to_the_most(warm_up):
    assert warm_up(Model(lambda rows: 0.01 + 0.0001 * rows)) == (64, [1, 2, 4, 8, 16, 32, 64])


def test_two_doublings_that_bring_nothing_end_it(warm_up):
    assert warm_up(Model(lambda rows: 0.001 * rows)) == (1, [1, 2, 4])
    assert warm_up(Model(lambda rows: 0.004 + 0.001 * max(4, rows) * (1 + (rows > 8)))) == (8, [1, 2, 4, 8, 16, 32])


def test_one_doubling_that_brings_nothing_does_not(warm_up):
    uneven = {1: 1.0, 2: 2.1, 4: 2.0, 8: 4.2, 16: 8.3}
    assert warm_up(Model(lambda rows: uneven[rows] / 100, most=16)) == (4, [1, 2, 4, 8, 16])


def test_time_and_failures_end_it(warm_up):
    assert warm_up(Model(lambda rows: 1.0)) == (2, [1, 2])
    assert warm_up(Model(lambda rows: 0.01, fails=4)) == (2, [1, 2])
    assert warm_up(Model(lambda rows: 0.01, fails=1)) == (1, [])
