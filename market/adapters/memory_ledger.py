"""A ledger in memory for unit tests: the rules of `payments.ports.Ledger` without durability.

Held against the database ledger by the conformance suite; never used to serve.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.errors import InsufficientVoucher, KeyLimit
from market.payments.model import Account, Charge, Earning, Evidence, Recorded, StoredAnswer, StoredReceipt
from market.payments.ports import DuplicateCharge


class MemoryLedger:
    """Implements `market.payments.ports.Ledger`."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.stored: dict[tuple[bytes, bytes], StoredReceipt] = {}
        self.outputs: dict[tuple[bytes, bytes], tuple[bytes, float]] = {}
        self.owed: dict[bytes, int] = {}
        self.parts: dict[tuple[bytes, str, bytes], tuple[int, int]] = {}
        self.evidence: list[Evidence] = []
        self.spent: dict[bytes, int] = {}

    async def record(self, charge: Charge) -> Recorded:
        """See `Ledger.record`."""
        receipt = charge.receipt
        key = (receipt.request_id, receipt.channel_id)
        account = self.accounts.get(receipt.channel_id, Account())
        if key in self.stored:
            raise DuplicateCharge
        ceiling, signature = max(
            (account.ceiling, account.voucher_signature), (charge.voucher_amount, charge.voucher_signature)
        )
        total = account.charged + receipt.price
        if total > ceiling:
            raise InsufficientVoucher(required=total)
        key_spent = 0
        if charge.key is not None:
            key_spent = self.spent.get(charge.key.key_hash, 0) + receipt.price
            if key_spent > charge.key.limit:
                raise KeyLimit
            self.spent[charge.key.key_hash] = key_spent
        self.accounts[receipt.channel_id] = Account(total, 0, ceiling, signature, max(account.last_seq, receipt.seq))
        self.stored[key] = StoredReceipt(
            receipt,
            charge.digest,
            charge.worker_signature,
            charge.gateway_signature,
            charge.worker_payee,
            charge.owner_payee,
            position=len(self.stored) + 1,
            timeline=charge.timeline,
            trace=charge.trace,
        )
        if charge.outputs is not None:
            self.outputs[key] = (charge.outputs, charge.outputs_expire_at)
        for payee, role, amount in (
            (charge.worker_payee, "worker", receipt.worker_amount),
            (charge.owner_payee, "owner", receipt.owner_amount),
        ):
            self.owed[payee] = self.owed.get(payee, 0) + amount
            requests, earned = self.parts.get((payee, role, receipt.model_id), (0, 0))
            self.parts[payee, role, receipt.model_id] = (requests + 1, earned + amount)
        return Recorded(total, self.owed[charge.worker_payee], key_spent)

    async def account(self, channel_id: bytes) -> Account | None:
        """See `Ledger.account`."""
        return self.accounts.get(channel_id)

    async def key_spent(self, key_hash: bytes) -> int:
        """See `Ledger.key_spent`."""
        return self.spent.get(key_hash, 0)

    async def answer(self, channel_id: bytes, request_id: bytes) -> StoredAnswer | None:
        """See `Ledger.answer`."""
        stored = self.stored.get((request_id, channel_id))
        kept = self.outputs.get((request_id, channel_id))
        return None if stored is None else StoredAnswer(stored, None if kept is None else kept[0])

    async def receipt(self, request_id: bytes, channel_id: bytes | None = None) -> StoredReceipt | None:
        """See `Ledger.receipt`."""
        found = [
            stored
            for (request, channel), stored in self.stored.items()
            if request == request_id and channel_id in (None, channel)
        ]
        return found[0] if len(found) == 1 else None

    async def receipts(self, channel_id: bytes, *, after: int = 0, limit: int = 100) -> Sequence[StoredReceipt]:
        """See `Ledger.receipts`."""
        mine = [stored for (_, channel), stored in self.stored.items() if channel == channel_id]
        return [stored for stored in mine if stored.position > after][:limit]

    async def batch(self, epoch: int, *, after: int = -1, limit: int = 100) -> Sequence[StoredReceipt]:
        """See `Ledger.batch`."""
        mine = [stored for stored in self.stored.values() if stored.epoch == epoch]
        placed = sorted((stored.leaf_index, stored) for stored in mine if stored.leaf_index is not None)
        return [stored for index, stored in placed if index > after][:limit]

    async def earned(self, payee: bytes) -> int:
        """See `Ledger.earned`."""
        return self.owed.get(payee, 0)

    async def earnings(self, payee: bytes) -> Sequence[Earning]:
        """See `Ledger.earnings`."""
        return [
            Earning(who, role, model_id, requests, earned)
            for (who, role, model_id), (requests, earned) in self.parts.items()
            if who == payee
        ]

    async def keep_evidence(self, evidence: Evidence) -> None:
        """See `Ledger.keep_evidence`."""
        self.evidence.append(evidence)

    async def sweep(self, now: float) -> int:
        """See `Ledger.sweep`."""
        gone = [key for key, (_, expires_at) in self.outputs.items() if expires_at <= now]
        for key in gone:
            del self.outputs[key]
        return len(gone)
