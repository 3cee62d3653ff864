import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.errors import InvalidAmount
from contracts.protocol.money import PPM, format_amount, parse_amount, split_price
from contracts.protocol.pricing import Unit, count_units, price_up
from contracts.protocol.tensors import Tensor


@given(st.integers(0, 10**20))
def test_amounts_round_trip(units):
    assert parse_amount(format_amount(units)) == units


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.0000001", ".5", "1.", "1,5", "nan", "9" * 40, "٣"])
def test_bad_amounts_are_refused(text):
    with pytest.raises(InvalidAmount):
        parse_amount(text)


@given(st.integers(0, 10**15), st.integers(0, 500_000), st.integers(0, 500_000))
def test_a_split_adds_up_and_rounds_towards_the_gateway(price, royalty, fee):
    split = split_price(price, royalty, fee)
    assert sum(split) == price
    assert min(split) >= 0
    assert 0 <= split.gateway_amount - price * fee // PPM <= 2


def test_a_split_above_the_price_is_refused():
    with pytest.raises(InvalidAmount, match="do not fit"):
        split_price(10, 600_000, 600_000)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6))
def test_prices_round_up(unit_price, units, per):
    price = price_up(unit_price, units, units_per_price=per)
    assert price * per >= unit_price * units
    assert (price - 1) * per < unit_price * units or price == 0


def test_units():
    ids = Tensor.from_numpy("input_ids", np.ones((2, 5), "i8"))
    mask = Tensor.from_numpy("attention_mask", np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], "i8"))
    assert count_units(Unit.REQUEST, [ids]) == 1
    assert count_units(Unit.ROW, [ids, mask]) == 2
    assert count_units(Unit.TOKEN, [ids, mask]) == 7
    assert count_units(Unit.TOKEN, [ids]) == 10
    assert count_units(Unit.MILLION_TOKENS, [ids, mask]) == 7
    assert count_units(Unit.BYTE, [ids]) == 80
    assert count_units(Unit.ROW, []) == 1


def test_tokens_are_counted_alike_in_whatever_order_the_tensors_are_held():
    tensors = [Tensor.from_numpy("b", np.ones((2, 5), "i8")), Tensor.from_numpy("a", np.ones(3, "i8"))]
    assert count_units(Unit.TOKEN, tensors) == count_units(Unit.TOKEN, tensors[::-1]) == 3


def test_images_are_counted_by_the_file_or_by_the_row():
    files = Tensor.from_numpy("image", np.array([b"1", b"2", b"3"], dtype=object))
    pixels = Tensor.from_numpy("image", np.zeros((2, 3, 8, 8), "f4"))
    assert count_units(Unit.IMAGE, [files]) == 3
    assert count_units(Unit.IMAGE, [pixels]) == 2
    assert count_units(Unit.IMAGE, [Tensor.from_numpy("x", np.zeros((4, 7), "f4"))]) == 4
    assert count_units(Unit.IMAGE, [Tensor.from_numpy("image", np.array([], dtype=object))]) == 1


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [((1, 1), 1), ((1, 16_000), 1), ((1, 16_001), 2), ((3, 16_000), 3), ((2, 24_000), 3), ((1, 0), 1)],
)
def test_audio_is_counted_by_begun_seconds_of_all_rows_together(shape, seconds):
    audio, state = (
        Tensor.from_numpy("x", np.zeros(shape, "f4")),
        Tensor.from_numpy("state", np.zeros((2, 99_999), "f4")),
    )
    said = {"sample_rate": 16_000, "audio_input": "x"}
    for tensors in ([audio, state], [state, audio]):
        assert count_units(Unit.SECOND, tensors, 0, said) == seconds
    assert count_units(Unit.SECOND, [audio], 0, {"sample_rate": 16_000}) == seconds
