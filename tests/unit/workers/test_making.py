"""What the process that made a model says is a stranger's word."""

import math

import pytest

from workers.errors import ModelUnusable
from workers.making.told import MOST_OUTPUTS, read_converted, read_quantised

CONVERTED = {"task": "text-embedding", "architecture": "BertModel", "precision": "fp32", "apart": 1e-5}
MOVED = {"output": "y", "relative": 0.1, "cosine": 0.99, "largest": 2}
QUANTISED = {"run_ms": [2.0, 1], "samples": 4, "differences": [MOVED]}


def test_what_was_made_is_read():
    assert read_converted(CONVERTED).apart == 1e-5
    assert read_converted({**CONVERTED, "apart": None, "more": "ignored"}).apart is None
    told = read_quantised(QUANTISED)
    assert (told.before_ms, told.after_ms, told.samples, told.differences[0].largest) == (2.0, 1, 4, 2.0)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "anything"},
        {"task": None},
        {"precision": "fp99"},
        {"architecture": 7},
        {"apart": "1"},
        {"apart": math.inf},
        {"apart": True},
    ],
)
def test_what_was_not_converted_is_no_answer(change):
    with pytest.raises(ModelUnusable):
        read_converted({**CONVERTED, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"run_ms": [0.0, 1.0]},
        {"run_ms": [1.0]},
        {"run_ms": [1.0, math.nan]},
        {"samples": "4"},
        {"differences": []},
        {"differences": [MOVED] * (MOST_OUTPUTS + 1)},
        {"differences": [{**MOVED, "relative": None}]},
        {"differences": ["y"]},
    ],
)
def test_what_was_not_quantised_is_no_answer(change):
    with pytest.raises(ModelUnusable):
        read_quantised({**QUANTISED, **change})


def test_a_name_cannot_write_over_the_screen():
    assert read_converted({**CONVERTED, "architecture": "\x1b[2J\n" + "x" * 999}).architecture.isprintable()
