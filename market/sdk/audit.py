"""Whether a payee was credited what its receipts say: each batch of a gateway read whole and held against its root.

A root commits to all receipts of its batch, so a list that does not rebuild it hides some or changes them: that is
said, and nothing of it is counted. The gateway's word is used for nothing else. Called by `market audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts.protocol.commitments import NO_RECEIPTS_ROOT, MerkleTree
from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.typed_data import Receipt
from market.sdk.client import Market
from market.sdk.errors import GatewayMisbehaved, GatewayRefused
from market.sdk.verify import ChainFacts

PAGE = 1_000
# A batch has thousands of receipts; a gateway that never comes to an end hides them.
MAX_PAGES = 100

Leaves = Callable[[int], Sequence[Receipt]]


class Books(ChainFacts, Protocol):
    """The chain as an audit asks it."""

    def last_epoch(self, gateway: bytes) -> int:
        """Return how many batches a gateway has settled."""
        ...

    def credited(self, gateway: bytes, payee: bytes) -> int:
        """Return what a gateway's settlements credited a payee in all, atomic units."""
        ...


@dataclass(frozen=True, slots=True)
class Due:
    """A receipt in a batch on chain that owes the payee `amount`, with the proof that it is there."""

    epoch: int
    receipt: Receipt
    digest: bytes
    proof: tuple[bytes, ...]
    amount: int

    def to_json(self) -> dict[str, Any]:
        """Return what `verifyReceipt` of the escrow takes, and the receipt itself."""
        return {
            "epoch": str(self.epoch),
            "digest": hex0x(self.digest),
            "proof": [hex0x(node) for node in self.proof],
            "amount": str(self.amount),
            "receipt": self.receipt.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """A payee's receipts at one gateway and its credit, atomic units; `withheld` are batches not shown as settled."""

    payee: bytes
    gateway: bytes
    epochs: int
    withheld: tuple[int, ...]
    receipts: tuple[Due, ...]
    credited: int

    @property
    def due(self) -> int:
        """What the receipts in batches on chain owe the payee."""
        return sum(one.amount for one in self.receipts)

    @property
    def short(self) -> int:
        """What is due and not credited."""
        return max(0, self.due - self.credited)

    def to_json(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        return {
            "payee": checksum(self.payee),
            "gateway": checksum(self.gateway),
            "epochs": self.epochs,
            "withheld": list(self.withheld),
            "receipts": len(self.receipts),
            "due": str(self.due),
            "credited": str(self.credited),
            "short": str(self.short),
        }


def audit(books: Books, leaves: Leaves, gateway: bytes, payee: bytes) -> Audit:
    """Add up what a gateway's batches owe a payee as a model's owner and as a worker's operator.

    Owner and operator are those that the registries name now: a model that changed hands counts for its new owner.

    Raises:
        ChainError: the node does not answer.
    """
    shares = _Shares(books, payee)
    withheld: list[int] = []
    found: list[Due] = []
    epochs = books.last_epoch(gateway)
    for epoch in range(1, epochs + 1):
        receipts = leaves(epoch)
        digests = [receipt.digest(books.domain) for receipt in receipts]
        tree = MerkleTree(digests) if digests else None
        if (NO_RECEIPTS_ROOT if tree is None else tree.root) != books.settled_root(gateway, epoch):
            withheld.append(epoch)
            continue
        for index, receipt in enumerate(receipts):
            amount = shares.of(receipt)
            if amount and tree is not None:
                found.append(Due(epoch, receipt, digests[index], tuple(tree.proof(index)), amount))
    return Audit(payee, gateway, epochs, tuple(withheld), tuple(found), books.credited(gateway, payee))


def leaves_of(market: Market) -> Leaves:
    """Return what reads a batch's receipts from a gateway; what it does not show, or shows malformed, is no receipt."""

    def read(epoch: int) -> list[Receipt]:
        found: list[Receipt] = []
        for _ in range(MAX_PAGES):
            path = f"/market/v1/settlements/{epoch}/receipts?after={len(found) - 1}&limit={PAGE}"
            try:
                page = [Receipt.from_json(row["receipt"]) for row in market.get(path)]
            except (GatewayRefused, GatewayMisbehaved, ProtocolError, KeyError, TypeError):
                return []
            found += page
            if len(page) < PAGE:
                return found
        return []

    return read


class _Shares:
    """What of a receipt is a payee's; asks the registries once for each model and worker."""

    def __init__(self, books: Books, payee: bytes) -> None:
        self._books = books
        self._payee = payee
        self._owners: dict[bytes, bytes] = {}
        self._operators: dict[bytes, bytes] = {}

    def of(self, receipt: Receipt) -> int:
        model_id, worker = receipt.model_id, receipt.worker
        if model_id not in self._owners:
            self._owners[model_id] = self._books.listed_model(model_id).owner
        if worker not in self._operators:
            self._operators[worker] = self._books.registered_worker(worker).operator
        owned = receipt.owner_amount if self._owners[model_id] == self._payee else 0
        return owned + (receipt.worker_amount if self._operators[worker] == self._payee else 0)
