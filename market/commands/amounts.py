"""Amounts on the command line: dollars by default, atomic units with a `u`, both on the way out; dry runs in words.

Called by the commands that move money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from contracts.protocol.errors import InvalidAmount
from contracts.protocol.hexes import checksum
from contracts.protocol.money import check_amount, format_amount, parse_amount
from market.commands.output import emit, print_fields, print_table

if TYPE_CHECKING:
    from market.sdk.chain import Chain

AMOUNT_HELP = "Dollars such as 0.25, or atomic units such as 250000u."


def parse_money(text: str, *, field: str = "amount") -> int:
    """Read dollars or, with a trailing `u`, atomic units.

    Raises:
        InvalidAmount: neither.
    """
    if text.endswith("u"):
        digits = text.removesuffix("u")
        if not (digits.isascii() and digits.isdecimal()):
            raise InvalidAmount(f"{text!r} is no number of units.", field=field, remedy="Write for example 250000u.")
        return check_amount(int(digits), field=field)
    return parse_amount(text, field=field)


def both(units: int) -> str:
    """Write an amount in dollars and in atomic units."""
    return f"{format_amount(units)} ({units}u)"


def finish(chain: Chain, data: Mapping[str, Any], fields: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was done, or after a dry run what would have been."""
    if not chain.planned:
        emit(data, as_json=as_json, text=lambda: print_fields(fields))
        return
    contracts = {address: name for name, address in chain.contracts().items()}
    rows = [
        {
            "what": planned.what,
            "from": checksum(planned.sender),
            "to": checksum(planned.to),
            "contract": contracts.get(planned.to, ""),
            "gas": planned.gas,
            "feeWei": None if planned.fee_wei is None else str(planned.fee_wei),
            "data": "0x" + planned.data.hex(),
        }
        for planned in chain.planned
    ]
    emit(
        {"dryRun": True, "transactions": rows, **data},
        as_json=as_json,
        text=lambda: _show(rows, fields),
    )


def _show(rows: list[dict[str, Any]], fields: Mapping[str, Any]) -> None:
    print_table(
        "would be signed and sent",
        ("what", "contract", "gas", "fee in wei"),
        [
            (row["what"], row["contract"], str(row["gas"] or "after the first"), str(row["feeWei"] or ""))
            for row in rows
        ],
    )
    print_fields(fields)
