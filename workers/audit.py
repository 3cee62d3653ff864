"""Whether a gateway paid what it countersigned: the worker's papers added up against its credit on chain.

A sum that is short is proved by one receipt: shown to the dispute manager, the gateway must name the batch that holds
it or lose part of its reserve. Decides only what is overdue. Called by `worker audit|challenge|uphold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.bindings.deploy import Contracts
from contracts.bindings.dispute_manager import Challenge, DisputeManager, Status
from contracts.bindings.transactor import Mined, Transactor
from contracts.protocol.typed_data import Domain, Receipt
from workers.errors import NothingToChallenge
from workers.papers import Journal, Signed

_SHOWN = 5


@dataclass(slots=True)
class Standing:
    """One gateway and what it owes; amounts in atomic units.

    `earned` counts all receipts, `overdue` the countersigned ones that the gateway had its time to settle.
    """

    gateway: bytes
    receipts: int = 0
    countersigned: int = 0
    earned: int = 0
    overdue: int = 0
    promised: int = 0
    credited: int = 0
    withdrawn: int = 0
    newest_overdue: list[Receipt] = field(default_factory=list)

    @property
    def short(self) -> int:
        """What is overdue and not credited."""
        return max(0, self.overdue - self.credited)


def add_up(
    contracts: Contracts, disputes: DisputeManager, journals: Sequence[Journal], operator: bytes, *, now: float
) -> list[Standing]:
    """Return each gateway's standing by the papers of all the operator's workers given.

    Credits are the operator's: with the papers of some of its workers only, a shortfall may stay hidden, but none is
    made up.

    Raises:
        ChainError: the node does not answer.
    """
    settled_by = now - disputes.window()
    found: dict[bytes, Standing] = {}
    for journal in journals:
        for signed in journal.signed():
            receipt = signed.receipt
            one = found.setdefault(receipt.gateway, Standing(receipt.gateway))
            one.receipts += 1
            one.earned += receipt.worker_amount
            if signed.gateway_signature is None:
                continue
            one.countersigned += 1
            if receipt.served_at <= settled_by:
                one.overdue += receipt.worker_amount
                one.newest_overdue = sorted([*one.newest_overdue, receipt], key=lambda r: -r.served_at)[:_SHOWN]
        for note, _ in journal.notes():
            one = found.setdefault(note.gateway, Standing(note.gateway))
            one.promised = max(one.promised, note.cumulative_amount)
    for one in found.values():
        one.credited, one.withdrawn = contracts.escrow.credits(one.gateway, operator)
    return list(found.values())


def find(journals: Sequence[Journal], request_id: bytes) -> Signed:
    """Return a countersigned receipt.

    Raises:
        NothingToChallenge: it is not in the papers, or not countersigned.
    """
    found = [signed for journal in journals for signed in journal.signed() if signed.receipt.request_id == request_id]
    if not found:
        raise NothingToChallenge("these papers hold no receipt of that request.", field="request-id")
    for signed in found:
        if signed.gateway_signature is not None:
            return signed
    raise NothingToChallenge(
        "the gateway has not countersigned this receipt, so it promised nothing.", field="request-id"
    )


def challenge(
    contracts: Contracts, disputes: DisputeManager, sender: Transactor, signed: Signed, domain: Domain
) -> Mined:
    """Stake the bond on the claim that no batch holds the receipt.

    Raises:
        ChainError: the contract refuses (too early, challenged before), or the account cannot pay.
    """
    assert signed.gateway_signature is not None, "find() gives no other"
    digest = signed.receipt.digest(domain)
    bond, token = disputes.bond(), contracts.token
    if token.allowance(sender.address, disputes.address) < bond:
        sender.run(f"approve-bond:{digest.hex()}", token.address, token.approve(disputes.address, bond))
    data = disputes.challenge_inclusion(signed.receipt, signed.worker_signature, signed.gateway_signature)
    return sender.run(f"challenge:{digest.hex()}", disputes.address, data)


def open_challenge(disputes: DisputeManager, receipt: Receipt, domain: Domain) -> Challenge:
    """Return the challenge of a receipt that is neither answered nor upheld yet.

    Raises:
        NothingToChallenge: there is none.
        ChainError: the node does not answer.
    """
    found = disputes.challenge_of(receipt.digest(domain))
    if found.status != Status.OPEN:
        raise NothingToChallenge("no open challenge of this receipt.", field="request-id")
    return found


def uphold(disputes: DisputeManager, sender: Transactor, receipt: Receipt, domain: Domain) -> Mined:
    """Collect bond and penalty of a challenge that was not answered in time.

    Raises:
        NothingToChallenge: there is no open challenge of this receipt.
        ChainError: the contract refuses: the gateway still has time.
    """
    open_challenge(disputes, receipt, domain)
    digest = receipt.digest(domain)
    return sender.run(f"uphold:{digest.hex()}", disputes.address, disputes.uphold_inclusion(digest))
