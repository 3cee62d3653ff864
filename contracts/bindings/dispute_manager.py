"""`DisputeManager`: a receipt that no batch holds, shown to the chain. Specified in `IDisputeManager.sol`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from contracts.bindings.contract import Binding
from contracts.protocol.typed_data import Receipt


class Status(IntEnum):
    """What became of a challenge."""

    NONE = 0
    OPEN = 1
    ANSWERED = 2
    UPHELD = 3


class Challenge(NamedTuple):
    """A challenge of a receipt; `answer_by` is unix seconds, amounts atomic units."""

    challenger: bytes
    gateway: bytes
    bond: int
    penalty: int
    answer_by: int
    status: int


class DisputeManager(Binding):
    """Reads and call data of inclusion challenges."""

    NAME = "DisputeManager"

    def bond(self) -> int:
        """Return what a challenger stakes on its claim, atomic units."""
        return int(self.read("bond"))

    def window(self) -> int:
        """Return how many seconds a gateway has to settle, and again to answer."""
        return int(self.read("window"))

    def challenge_of(self, digest: bytes) -> Challenge:
        """Return the challenge of a receipt's digest."""
        found = self.read("challenges", digest)
        return Challenge(*(found[0] if len(found) == 1 else found))

    def challenge_inclusion(self, receipt: Receipt, worker_signature: bytes, gateway_signature: bytes) -> bytes:
        """Encode the claim that a countersigned receipt is in no batch."""
        row = tuple(getattr(receipt, name) for name, _ in Receipt.FIELDS)
        return self.encode("challengeInclusion", row, worker_signature, gateway_signature)

    def answer_inclusion(self, digest: bytes, epoch: int, proof: Sequence[bytes]) -> bytes:
        """Encode the gateway's answer: the batch that holds the receipt."""
        return self.encode("answerInclusion", digest, epoch, list(proof))

    def uphold_inclusion(self, digest: bytes) -> bytes:
        """Encode the end of a challenge that nobody answered in time."""
        return self.encode("upholdInclusion", digest)
