"""Amounts: `int` in atomic token units everywhere; this module converts at the edges and splits a price.

Called by the gateway (pricing), the worker (admission) and every command line; never rounds in a payer's disfavour
beyond one atomic unit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from contracts.protocol.errors import InvalidAmount

TOKEN_DECIMALS = 6
ATOMIC_PER_TOKEN = 10**TOKEN_DECIMALS
PPM = 1_000_000
MAX_ROYALTY_PPM = 500_000  # ModelRegistry takes no more
MAX_UINT128 = 2**128 - 1

_DECIMAL = re.compile(r"\d{1,30}(?:\.\d{1,30})?", re.ASCII)


class Split(NamedTuple):
    """Who gets what of one price, atomic units; the three parts add up to the price."""

    worker_amount: int
    owner_amount: int
    gateway_amount: int


def parse_amount(text: str, *, field: str = "amount") -> int:
    """Read a token amount such as `0.25` as atomic units.

    Raises:
        InvalidAmount: not a plain non-negative decimal, or finer than one atomic unit.
    """
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        raise InvalidAmount(f"{text!r} is not an amount.", field=field, remedy="Write a decimal such as 0.25.")
    whole, _, fraction = text.strip().partition(".")
    if len(fraction.rstrip("0")) > TOKEN_DECIMALS:
        raise InvalidAmount(
            f"{text!r} is finer than the token's {TOKEN_DECIMALS} decimals.",
            field=field,
            remedy="Use a multiple of 0.000001.",
        )
    units = int(whole) * ATOMIC_PER_TOKEN + int(fraction[:TOKEN_DECIMALS].ljust(TOKEN_DECIMALS, "0"))
    return check_amount(units, field=field)


def parse_money(text: str, *, field: str = "amount") -> int:
    """Read dollars such as `0.25` or, with a trailing `u`, atomic units.

    Raises:
        InvalidAmount: neither.
    """
    if text.endswith("u"):
        digits = text.removesuffix("u")
        if not (digits.isascii() and digits.isdecimal()):
            raise InvalidAmount(f"{text!r} is no number of units.", field=field, remedy="Write for example 250000u.")
        return check_amount(int(digits), field=field)
    return parse_amount(text, field=field)


def parse_payment(text: str, *, field: str = "amount") -> int:
    """Read an amount that is to be moved, as `parse_money` does.

    Raises:
        InvalidAmount: none, or 0.
    """
    units = parse_money(text, field=field)
    if units == 0:
        raise InvalidAmount("0 moves nothing.", field=field, remedy="Name an amount above 0.")
    return units


def check_terms(low: int, high: int, royalty_ppm: int) -> None:
    """Refuse a listing's terms that the registry would refuse, before anything is made for them.

    Raises:
        InvalidAmount: the bounds cross, or the royalty is outside 0 to half the price.
    """
    if low > high:
        raise InvalidAmount(
            f"the least price, {format_amount(low)}, is above the highest, {format_amount(high)}.",
            field="min-price",
            remedy="Name a least price that is not above the highest.",
        )
    if not 0 <= royalty_ppm <= MAX_ROYALTY_PPM:
        raise InvalidAmount(
            f"a royalty of {royalty_ppm} millionths cannot be listed.",
            field="royalty-ppm",
            remedy=f"Name 0 to {MAX_ROYALTY_PPM} millionths of the price.",
        )


def both(units: int) -> str:
    """Write an amount in dollars and in atomic units."""
    return f"{format_amount(units)} ({units}u)"


def check_amount(units: int, *, field: str = "amount") -> int:
    """Return `units` if it fits uint128.

    Raises:
        InvalidAmount: negative or above 2**128 - 1.
    """
    if not 0 <= units <= MAX_UINT128:
        raise InvalidAmount(f"{units} is outside 0 to 2**128 - 1.", field=field)
    return units


def format_amount(units: int) -> str:
    """Write atomic units as a decimal with all six places, `250000` as `0.250000`."""
    sign = "-" if units < 0 else ""
    whole, fraction = divmod(abs(units), ATOMIC_PER_TOKEN)
    return f"{sign}{whole}.{fraction:0{TOKEN_DECIMALS}d}"


def split_price(price: int, royalty_ppm: int, fee_ppm: int) -> Split:
    """Split a price between worker, owner and gateway.

    Owner and worker are rounded down; the gateway keeps the rest, at most two atomic units above its fee.

    Raises:
        InvalidAmount: royalty and fee together exceed the price.
    """
    if royalty_ppm < 0 or fee_ppm < 0 or royalty_ppm + fee_ppm > PPM:
        raise InvalidAmount(f"royalty {royalty_ppm} ppm and fee {fee_ppm} ppm do not fit in {PPM}.", field="fee_ppm")
    owner = price * royalty_ppm // PPM
    worker = price * (PPM - royalty_ppm - fee_ppm) // PPM
    return Split(worker_amount=worker, owner_amount=owner, gateway_amount=price - owner - worker)
