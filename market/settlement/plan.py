"""Which rows a batch has: pure, so that the same book always gives the same batch.

Debits claim what the batch's receipts add to each channel, never above its voucher; credits raise each payee to its
total of all batches. The contract caps debits at the deposit and pays credits in the order given while money lasts: in
full, the smallest sum due first, never a share of each. Who came off short stays in the book as unpaid, and since all
amounts are totals the next batch that has money makes it good, without a new request.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from contracts.protocol.commitments import NO_RECEIPTS_ROOT, MerkleTree
from market.settlement.ports import Due, DueChannel, DueReceipt, Standing

MAX_RECEIPTS = 4096
# Gas a row costs at most, held by the gas snapshot; a payee's first credit also fills an empty slot.
DEBIT_GAS = 13_500
CREDIT_GAS = 6_500
FIRST_CREDIT_GAS = CREDIT_GAS + 17_100
# EIP-7825 allows a transaction 16.7M, of which the sender keeps a sixth as a margin and the call itself takes 0.1M.
MAX_ROWS_GAS = 13_800_000
CHANNEL_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of one batch; `totals` are the new totals by channel id and payee, `receipts` the leaves in order."""

    root: bytes
    receipts: tuple[DueReceipt, ...]
    debits: tuple[tuple[DueChannel, int], ...]
    credits: tuple[tuple[bytes, int], ...]
    debited: int
    credited: int
    totals: dict[bytes, int]


@dataclass
class _Sums:
    """What the receipts taken so far add to channels and payees, and the gas that is left for more rows."""

    standing: Standing
    spent: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    earned: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    gas_left: int = MAX_ROWS_GAS

    def takes(self, receipt: DueReceipt) -> bool:
        """Add a receipt unless its rows no longer fit."""
        payees = {receipt.worker_payee, receipt.owner_payee} - self.earned.keys()
        gas = sum(self.credit_gas(payee) for payee in payees)
        if not self.has_room(gas if receipt.channel_id in self.spent else gas + DEBIT_GAS):
            return False
        self.spent[receipt.channel_id] += receipt.price
        self.earned[receipt.worker_payee] += receipt.worker_amount
        self.earned[receipt.owner_payee] += receipt.owner_amount
        return True

    def credit_gas(self, payee: bytes) -> int:
        """Return what a payee's row costs at most."""
        return CREDIT_GAS if self.standing.credited(payee) else FIRST_CREDIT_GAS

    def has_room(self, gas: int) -> bool:
        """Take so much gas, unless it is not left."""
        if gas > self.gas_left:
            return False
        self.gas_left -= gas
        return True


def plan(due: Due, standing: Standing) -> Plan | None:
    """Plan one batch of the oldest receipts in `due` and of what is unpaid; None if there is nothing to do."""
    sums = _Sums(standing)
    receipts = []
    for receipt in due.receipts[:MAX_RECEIPTS]:
        if not sums.takes(receipt):
            break
        receipts.append(receipt)

    claims = {channel_id: due.channels[channel_id].claimed + spent for channel_id, spent in sums.spent.items()}
    totals = {payee: due.promised.get(payee, 0) + earned for payee, earned in sums.earned.items() if earned > 0}
    new_totals = claims | totals
    unpaid = due.unpaid - paid(due, standing)
    for channel_id in _channels(unpaid):
        deposited, settled = standing.channel(channel_id)
        if channel_id not in claims and deposited > settled and sums.has_room(DEBIT_GAS):
            claims[channel_id] = due.channels[channel_id].claimed
    if _gain(claims, standing) + standing.free_reserve() > 0:
        for payee in _payees(unpaid):
            if payee not in totals and sums.has_room(sums.credit_gas(payee)):
                totals[payee] = due.promised[payee]

    if not claims and not totals:
        return None
    dues = {payee: max(0, total - standing.credited(payee)) for payee, total in totals.items()}
    return Plan(
        root=MerkleTree([receipt.digest for receipt in receipts]).root if receipts else NO_RECEIPTS_ROOT,
        receipts=tuple(receipts),
        debits=tuple(
            (due.channels[channel_id], min(claim, due.channels[channel_id].voucher_amount))
            for channel_id, claim in sorted(claims.items())
        ),
        credits=tuple(sorted(totals.items(), key=lambda row: (dues[row[0]], row[0]))),
        debited=sum(sums.spent.values()),
        credited=sum(sums.earned.values()),
        totals=new_totals,
    )


def paid(due: Due, standing: Standing) -> frozenset[bytes]:
    """Return the unpaid channels and payees that the chain shows paid by now."""
    settled = {
        account for account in _channels(due.unpaid) if standing.channel(account)[1] >= due.channels[account].claimed
    }
    credited = {account for account in _payees(due.unpaid) if standing.credited(account) >= due.promised[account]}
    return frozenset(settled | credited)


def paid_totals(due: Due, standing: Standing) -> dict[bytes, int]:
    """Return the totals that the chain was seen to reach, of those that `paid` names."""
    seen = paid(due, standing)
    claimed = {account: due.channels[account].claimed for account in _channels(seen)}
    return claimed | {account: due.promised[account] for account in _payees(seen)}


def makes_good(due: Due, standing: Standing) -> bool:
    """Tell whether the chain has money now for somebody who came off short."""
    unpaid = due.unpaid - paid(due, standing)
    channels = {channel_id: due.channels[channel_id].claimed for channel_id in _channels(unpaid)}
    return _gain(channels, standing) > 0 or (bool(_payees(unpaid)) and standing.free_reserve() > 0)


def _gain(claims: dict[bytes, int], standing: Standing) -> int:
    gain = 0
    for channel_id, claim in claims.items():
        deposited, settled = standing.channel(channel_id)
        gain += max(0, min(claim, deposited) - settled)
    return gain


def _channels(accounts: frozenset[bytes]) -> list[bytes]:
    return sorted(account for account in accounts if len(account) == CHANNEL_ID_BYTES)


def _payees(accounts: frozenset[bytes]) -> list[bytes]:
    return sorted(account for account in accounts if len(account) != CHANNEL_ID_BYTES)
