"""What one request costs: units counted from its tensors, times the offered unit price, rounded up.

Gateway and worker compute the same number; a worker refuses a job whose price is below its offer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from contracts.protocol.errors import InvalidAmount
from contracts.protocol.money import check_amount
from contracts.protocol.tensors import Tensor


class Unit(IntEnum):
    """What a listing's price is for; the number is stored on chain."""

    REQUEST = 0
    ROW = 1
    TOKEN = 2
    BYTE = 3
    IMAGE = 4
    SECOND = 5
    MILLION_TOKENS = 6

    @property
    def is_tokens(self) -> bool:
        """Whether tokens are counted."""
        return self in _TOKENS

    @property
    def per_price(self) -> int:
        """How many of what is counted one price is for."""
        return 1_000_000 if self is Unit.MILLION_TOKENS else 1


_TOKENS = frozenset({Unit.TOKEN, Unit.MILLION_TOKENS})


# What a manifest says of audio that is priced by the second: samples a second, and which input has them.
SAMPLE_RATE, AUDIO_INPUT = "sample_rate", "audio_input"


def count_units(
    unit: Unit, tensors: Sequence[Tensor], batch_axis: int | None = 0, options: Mapping[str, Any] | None = None
) -> int:
    """Count the units of a request, at least 1; `options` are the manifest's.

    ROW counts the longest batch axis; TOKEN and MILLION_TOKENS count the non-zero entries of `attention_mask` or,
    without one, the entries of `input_ids` or of the first tensor by name; BYTE counts tensor bytes; IMAGE counts the
    elements of a BYTES input `image`, each a file, or else the rows; SECOND counts the samples of all rows of the
    audio input, by the sample rate, rounded up.
    """
    if unit is Unit.REQUEST or not tensors:
        return 1
    if unit is Unit.BYTE:
        return max(1, sum(len(tensor.data) for tensor in tensors))
    by_name = {tensor.name: tensor for tensor in tensors}
    # Of several tensors both sides must take the same one, in whatever order they hold them.
    first = by_name[min(by_name)]
    if unit is Unit.SECOND:
        said = options or {}
        samples = by_name.get(said.get(AUDIO_INPUT, first.name), first).elements
        return max(1, -(-samples // int(said.get(SAMPLE_RATE, 1))))
    image = by_name.get("image")
    if unit is Unit.IMAGE and image is not None and image.datatype == "BYTES":
        return max(1, image.elements)
    if unit in (Unit.ROW, Unit.IMAGE):
        axis = batch_axis or 0
        return max(1, *(tensor.shape[axis] for tensor in tensors if len(tensor.shape) > axis), 1)
    mask = by_name.get("attention_mask")
    if mask is not None and mask.datatype != "BYTES":
        return max(1, int((mask.to_numpy() != 0).sum()))
    return max(1, by_name.get("input_ids", first).elements)


def price_up(unit_price: int, units: int, *, units_per_price: int) -> int:
    """Return `unit_price × units ÷ units_per_price` in atomic units, rounded up.

    Raises:
        InvalidAmount: the price does not fit uint128.
    """
    if unit_price < 0 or units < 0 or units_per_price < 1:
        raise InvalidAmount("price and units are not negative.", field="unit_price")
    return check_amount(-(-unit_price * units // units_per_price), field="price")
