"""Being paid without the gateway: what a worker's own papers are worth to the escrow, and collecting it.

First the countersigned receipts move what the vouchers cover from the channels into the gateway's reserve, then
the gateway's credit note is redeemed from that reserve, then the operator withdraws. Each step can be repeated: the
contract pays a total, never an amount twice. Called by `worker rescue`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.bindings.deploy import Contracts
from contracts.bindings.errors import TransactionReverted
from contracts.bindings.transactor import Transactor
from contracts.protocol.typed_data import CreditNote
from workers.papers import Journal, SignedWork


@dataclass(frozen=True, slots=True)
class Claim:
    """One channel: `claimable` atomic units move to the gateway's reserve with this receipt."""

    work: SignedWork
    gateway_signature: bytes
    claimable: int


@dataclass(frozen=True, slots=True)
class Debt:
    """What one gateway owes the operator by its note, and what is on chain already, atomic units.

    `arrears` is what the contract still holds back of the gateway's reserve for a note presented earlier.
    """

    note: CreditNote
    signature: bytes
    credited: int
    withdrawn: int
    arrears: int

    @property
    def owed(self) -> int:
        """What the note promises beyond what is credited."""
        return max(0, self.note.cumulative_amount - self.credited)


@dataclass(frozen=True, slots=True)
class Rescue:
    """What the papers are worth now."""

    claims: Sequence[Claim]
    debts: Sequence[Debt]

    @property
    def claimable(self) -> int:
        """What all channels give, atomic units."""
        return sum(claim.claimable for claim in self.claims)

    @property
    def owed(self) -> int:
        """What all notes promise beyond what is credited."""
        return sum(debt.owed for debt in self.debts)


def look(contracts: Contracts, journal: Journal, operator: bytes) -> Rescue:
    """Hold the papers against the chain.

    Raises:
        ChainError: the node does not answer.
    """
    claims = []
    for work, gateway_signature in journal.claims():
        state = contracts.escrow.channel(work.receipt.channel_id)
        target = min(work.receipt.cumulative, work.voucher_amount, state.deposited)
        if target > state.settled:
            claims.append(Claim(work, gateway_signature, target - state.settled))
    debts = []
    for note, signature in journal.notes():
        credited, withdrawn = contracts.escrow.credits(note.gateway, operator)
        _, arrears = contracts.escrow.presented_note(note.gateway, operator)
        debts.append(Debt(note, signature, credited, withdrawn, arrears))
    return Rescue(claims, debts)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a rescue brought, atomic units; `still_owed` waits for the gateway's reserve to fill."""

    claimed: int
    credited: int
    withdrawn: int
    still_owed: int


def collect(
    contracts: Contracts,
    sender: Transactor,
    journal: Journal,
    *,
    say: Callable[[str], object] = lambda _: None,
) -> Collected:
    """Claim, redeem and withdraw to the sending account, which must be the operator.

    Raises:
        ChainError: the node does not answer or the account cannot pay for gas; run it again.
    """
    escrow, operator = contracts.escrow, sender.address
    found = look(contracts, journal, operator)
    claimed = 0
    for claim in found.claims:
        work = claim.work
        data = escrow.claim_with_receipt(
            work.channel,
            work.voucher_amount,
            work.voucher_signature,
            work.receipt,
            work.worker_signature,
            claim.gateway_signature,
        )
        purpose = f"claim:{work.receipt.channel_id.hex()}:{work.receipt.cumulative}"
        if _sent(sender, purpose, escrow.address, data):
            claimed += claim.claimable
            say(f"claimed {claim.claimable} from channel {work.receipt.channel_id.hex()[:16]}")
    credited = withdrawn = still_owed = 0
    for debt in found.debts:
        gateway = debt.note.gateway
        # A batch that paid the note since leaves its arrears, which keep the reserve from others until somebody calls.
        if debt.owed or debt.arrears:
            data = escrow.redeem_credit_note(debt.note, debt.signature)
            purpose = f"redeem:{gateway.hex()}:{debt.note.cumulative_amount}:{debt.credited}"
            _sent(sender, purpose, escrow.address, data)
        now, before = escrow.credits(gateway, operator)
        credited += now - debt.credited
        still_owed += max(0, debt.note.cumulative_amount - now)
        if now > before:
            data = escrow.withdraw(gateway, operator, now - before)
            sender.run(f"withdraw:{gateway.hex()}:{now}", escrow.address, data)
            withdrawn += now - before
            say(f"withdrew {now - before}")
    return Collected(claimed, credited, withdrawn, still_owed)


def _sent(sender: Transactor, purpose: str, to: bytes, data: bytes) -> bool:
    """Send; False if somebody else was first (another worker of the same channel, or the gateway after all)."""
    try:
        sender.run(purpose, to, data)
    except TransactionReverted as error:
        if error.error in ("InferenceEscrowNothingToClaim", "InferenceEscrowNothingToRedeem"):
            return False
        raise
    return True
