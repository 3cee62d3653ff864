"""The fuzz targets, briefly: honest inputs, and each of them changed a few hundred times, the same ones every run."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.run import NAMES, mutated
from tests.fuzz.targets import SEEDS, TARGETS

CHANGES = 300


def test_every_target_is_run():
    assert set(NAMES) == set(TARGETS) == set(SEEDS)


@pytest.mark.parametrize("name", NAMES)
def test_strangers_bytes_are_taken_or_refused(name):
    for seed in SEEDS[name]:
        TARGETS[name](seed)
    chance = random.Random(name)
    for _ in range(CHANGES):
        TARGETS[name](mutated(chance, SEEDS[name]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "loading"])
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_so_is_noise(name, data):
    TARGETS[name](data)
