"""Which rows a batch has: pure, so that the same book always gives the same batch.

Debits claim what the batch's receipts add to each channel, never above its voucher; credits raise each payee to its
total of all batches. The contract caps debits at the deposit and pays credits in order while money lasts; since credits
are totals, what one batch could not pay the next one does.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from contracts.protocol.commitments import MerkleTree
from market.settlement.ports import Due, DueChannel

MAX_RECEIPTS = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of one batch; `totals` are the new totals by channel id and payee."""

    root: bytes
    count: int
    debits: tuple[tuple[DueChannel, int], ...]
    credits: tuple[tuple[bytes, int], ...]
    debited: int
    credited: int
    totals: dict[bytes, int]


def plan(due: Due) -> Plan:
    """Plan the batch of everything in `due`, which has at least one receipt."""
    spent: dict[bytes, int] = defaultdict(int)
    earned: dict[bytes, int] = defaultdict(int)
    for receipt in due.receipts:
        spent[receipt.channel_id] += receipt.price
        earned[receipt.worker_payee] += receipt.worker_amount
        earned[receipt.owner_payee] += receipt.owner_amount
    totals: dict[bytes, int] = {}
    debits = []
    for channel_id, amount in spent.items():
        channel = due.channels[channel_id]
        totals[channel_id] = channel.claimed + amount
        debits.append((channel, min(totals[channel_id], channel.voucher_amount)))
    rows = []
    for payee, amount in earned.items():
        if amount > 0:
            totals[payee] = due.promised.get(payee, 0) + amount
            rows.append((payee, totals[payee]))
    return Plan(
        root=MerkleTree([receipt.digest for receipt in due.receipts]).root,
        count=len(due.receipts),
        debits=tuple(sorted(debits, key=lambda row: row[0].channel_id)),
        credits=tuple(sorted(rows)),
        debited=sum(spent.values()),
        credited=sum(earned.values()),
        totals=totals,
    )
