"""Values of audits, and the book that keeps them.

Plain data and one port. An audit is written down where answers differed, with what each worker signed; where they
agreed it is only counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contracts.protocol.typed_data import Receipt
from market.verification.audit_verdict import Outcome


@dataclass(frozen=True, slots=True)
class Statement:
    """What one worker signed: its receipt, by which input and output are known, and who stands behind it."""

    operator: bytes
    receipt: Receipt
    signature: bytes

    @property
    def worker(self) -> bytes:
        """Who signed."""
        return self.receipt.worker


@dataclass(frozen=True, slots=True)
class Audit:
    """A request that workers answered differently, the first statement that of the worker who served the client.

    `error` is the relative L2 distance, infinite where there is no such number. `share` and `commitment` say how the
    request was chosen; `number` is 0 until the audit is written down.
    """

    at: float
    outcome: Outcome
    statements: tuple[Statement, ...]
    against: bytes | None
    error: float
    tolerance: float
    detail: str
    share: float
    commitment: bytes
    number: int = 0

    @property
    def model_id(self) -> bytes:
        """The model that was asked."""
        return self.statements[0].receipt.model_id


@dataclass(frozen=True, slots=True)
class WorkerAudits:
    """What audits say of a worker: requests it answered while it was new, how many audits it passed, its conviction."""

    worker: bytes
    answered: int = 0
    agreed: int = 0
    convicted_at: float | None = None
    conviction: int | None = None
    pardoned_at: float | None = None


@dataclass(frozen=True, slots=True)
class AuditSecret:
    """A secret that requests were chosen by; `secret` is None while it may still be in use."""

    commitment: bytes
    began_at: float
    secret: bytes | None = None


@dataclass(slots=True)
class Counted:
    """What was counted since it was last written down, by worker."""

    answered: dict[bytes, int] = field(default_factory=dict)
    agreed: dict[bytes, int] = field(default_factory=dict)

    def add(self, other: Counted) -> None:
        """Add another count to this one."""
        for mine, theirs in ((self.answered, other.answered), (self.agreed, other.agreed)):
            for worker, count in theirs.items():
                mine[worker] = mine.get(worker, 0) + count


class AuditBook(Protocol):
    """The durable record of one gateway's audits; each method returns once the database has answered.

    Each of them raises `DatabaseUnreachable` if it does not.
    """

    async def begin_secret(self, secret: bytes, commitment: bytes, now: float) -> None:
        """Write a secret down before it is used."""
        ...

    async def secrets(self, now: float, limit: int = 100) -> Sequence[AuditSecret]:
        """Return the newest secrets, the newest first; those that may be in use without their secret."""
        ...

    async def workers(self) -> Mapping[bytes, WorkerAudits]:
        """Return what audits say of every worker that they say something of."""
        ...

    async def count(self, counted: Counted) -> None:
        """Add to what workers answered and passed."""
        ...

    async def keep(self, audit: Audit) -> tuple[int, bool]:
        """Write an audit down; returns its number, and whether the worker it is against is convicted by it.

        That is so by a conviction, and by the last of so many strikes since it was pardoned as convict. One audit of a
        request is written down, the first: of another the number of that one is returned, and False.
        """
        ...

    async def pardon(self, worker: bytes, now: float) -> bool:
        """Take a conviction back: the worker begins anew. False if there is none."""
        ...

    async def find(self, number: int) -> Audit | None:
        """Return an audit by its number."""
        ...

    async def audits(self, worker: bytes | None = None, *, before: int | None = None, limit: int = 100) -> list[Audit]:
        """Return audits in which a worker had a part, or all, the newest first, those below number `before`."""
        ...
