"""What the money commands print: what was done, or after a dry run what would have been.

Called by the commands that move money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from market.commands.output import emit, print_fields, print_table

if TYPE_CHECKING:
    from contracts.bindings.command import Planned
    from market.sdk.chain import Chain

AMOUNT_HELP = "Dollars such as 0.25, or atomic units such as 250000u."


def finish(chain: Chain, data: Mapping[str, Any], fields: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was done, or after a dry run what would have been."""
    if not chain.planned:
        emit(data, as_json=as_json, text=lambda: print_fields(fields))
        return
    show_plan(chain.planned, chain.contracts(), data, fields, as_json=as_json)


def show_plan(
    planned: Sequence[Planned],
    contracts: Mapping[str, bytes],
    data: Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print what a dry run would send; `contracts` are addresses by name."""
    names = {address: name for name, address in contracts.items()}
    rows = [one.to_json(names) for one in planned]
    emit(
        {"dryRun": True, "transactions": rows, **data},
        as_json=as_json,
        text=lambda: _show(rows, fields),
    )


def _show(rows: list[dict[str, Any]], fields: Mapping[str, Any]) -> None:
    print_table(
        "would be signed and sent",
        ("what", "contract", "gas", "fee in wei"),
        [(row["what"], row["contract"], str(row["gas"] or "not known yet"), str(row["feeWei"] or "")) for row in rows],
    )
    print_fields(fields)
