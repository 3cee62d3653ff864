"""What the ledger and the settlement book tell about the past: calls and earnings over time, batches, what waits.

Reads only, and bounded: a question looks at the newest receipts and never at all of them. Called by the gateway's read
API through `market.bootstrap`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from market.adapters.database.engine import reading
from market.adapters.database.settlement_book import DatabaseSettlementBook
from market.adapters.database.tables_chain import settlement_batches
from market.adapters.database.tables_ledger import receipts
from market.settlement.ports import Backlog

LOOKED_AT = 20_000
KEPT_SECONDS = 5.0
_KEPT_ANSWERS = 256
_FILTERS = {"operator": receipts.c.worker_payee, "owner": receipts.c.owner_payee, "worker": receipts.c.worker}


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one model was charged in one step of time from `at`, unix seconds; amounts in atomic units."""

    at: int
    model_id: bytes
    requests: int
    price: int
    worker_amount: int
    owner_amount: int


@dataclass(frozen=True, slots=True)
class Past:
    """Buckets in order of time; `since` is where they begin, later than asked for if there was too much to look at."""

    since: int
    step_seconds: int
    complete: bool
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the gateway's own book holds of a batch beyond the chain's event; None where only the event is known."""

    debited: int
    credited: int
    gas_used: int | None


class DatabaseStatistics:
    """Answers from one database, each answer kept for a few seconds."""

    def __init__(self, engine: Engine, gateway: bytes) -> None:
        self._engine = engine
        self._gateway = gateway
        self._book = DatabaseSettlementBook(engine)
        self._lock = threading.Lock()
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}

    def past(self, who: Mapping[str, bytes], *, since: int, step_seconds: int) -> Past:
        """Return charges since `since` (unix seconds) of those receipts that match every part of `who`.

        `who` names operator, owner, worker or model_id.

        Raises:
            DatabaseUnreachable: the database does not answer.
        """
        key = ("past", *sorted(who.items()), since // step_seconds, step_seconds)
        found: Past = self._remember(key, lambda: self._past(who, since, step_seconds))
        return found

    def batches(self) -> dict[int, BatchFacts]:
        """Return what is booked of this gateway's batches, by epoch."""
        found: dict[int, BatchFacts] = self._remember(("batches",), self._batches)
        return found

    def backlog(self) -> Backlog:
        """Return how much is not settled."""
        found: Backlog = self._remember(("backlog",), lambda: self._book.backlog(self._gateway))
        return found

    def _remember(self, key: tuple[Any, ...], ask: Any) -> Any:
        # One question at a time: these are for people who look, and requests that pay come first.
        with self._lock:
            now = time.monotonic()
            known = self._kept.get(key)
            if known is not None and now - known[0] < KEPT_SECONDS:
                return known[1]
            answer = ask()
            self._kept.pop(key, None)
            self._kept[key] = (time.monotonic(), answer)
            while len(self._kept) > _KEPT_ANSWERS:
                del self._kept[next(iter(self._kept))]
            return answer

    def _past(self, who: Mapping[str, bytes], since: int, step_seconds: int) -> Past:
        c = receipts.c
        newest = (
            sa.select(
                *(c.served_at, c.model_id, c.worker, c.worker_payee, c.owner_payee),
                *(c.price, c.worker_amount, c.owner_amount),
            )
            .where(c.gateway == self._gateway)
            .order_by(c.position.desc())
            .limit(LOOKED_AT)
            .subquery()
        )
        n = newest.c
        at = n.served_at - n.served_at % step_seconds
        wanted = [n[{**_FILTERS, "model_id": c.model_id}[name].name] == value for name, value in who.items()]
        query = (
            sa.select(
                at.label("at"),
                n.model_id,
                sa.func.count(),
                sa.func.sum(n.price),
                sa.func.sum(n.worker_amount),
                sa.func.sum(n.owner_amount),
            )
            .where(n.served_at >= since, *wanted)
            .group_by(at, n.model_id)
            .order_by(at, n.model_id)
        )
        with reading(self._engine) as connection:
            looked, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(n.served_at))).one()
            rows = connection.execute(query).all()
        complete = looked < LOOKED_AT or oldest <= since
        buckets = tuple(Bucket(row[0], bytes(row[1]), *(int(number) for number in row[2:])) for row in rows)
        return Past(since if complete else int(oldest), step_seconds, complete, buckets)

    def _batches(self) -> dict[int, BatchFacts]:
        b = settlement_batches.c
        query = sa.select(b.epoch, b.debited, b.credited, b.gas_used).where(b.gateway == self._gateway)
        with reading(self._engine) as connection:
            return {row.epoch: BatchFacts(row.debited, row.credited, row.gas_used) for row in connection.execute(query)}
