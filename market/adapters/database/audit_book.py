"""Audits on SQLAlchemy Core; the few that are written down are written one by one.

Decides nothing; strikes are counted in the transaction that adds one.
Built by `market.bootstrap`; implements `market.inference.audit_model.AuditBook`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from contracts.protocol.typed_data import Receipt
from market.adapters.database.engine import reading, writing
from market.adapters.database.rows import RowInsert
from market.adapters.database.tables_audits import audit_secrets, audit_statements, audited_workers, audits
from market.aside import looking
from market.inference.audit_model import Audit, AuditSecret, Counted, Statement, WorkerAudits
from market.verification.audit_verdict import Outcome, strikes_convict

# A process chooses by one for an hour; what it chose last may wait for ten minutes more.
IN_USE_SECONDS = 2 * 3_600.0


class DatabaseAuditBook:
    """Implements `AuditBook`."""

    def __init__(self, engine: Engine, gateway: bytes) -> None:
        self._engine = engine
        self._gateway = gateway
        columns = ("gateway", "worker", "answered", "agreed")
        self._add = RowInsert(audited_workers, columns, engine.dialect, adding=("answered", "agreed"))

    async def begin_secret(self, secret: bytes, commitment: bytes, now: float) -> None:
        """See `AuditBook.begin_secret`."""
        await asyncio.to_thread(self._begin_secret, secret, commitment, now)

    async def secrets(self, now: float, limit: int = 100) -> Sequence[AuditSecret]:
        """See `AuditBook.secrets`."""
        return await looking(self._secrets, now, limit)

    async def workers(self) -> Mapping[bytes, WorkerAudits]:
        """See `AuditBook.workers`."""
        return await asyncio.to_thread(self._workers)

    async def count(self, counted: Counted) -> None:
        """See `AuditBook.count`."""
        await asyncio.to_thread(self._count, counted)

    async def keep(self, audit: Audit) -> tuple[int, bool]:
        """See `AuditBook.keep`."""
        return await asyncio.to_thread(self._keep, audit)

    async def pardon(self, worker: bytes, now: float) -> bool:
        """See `AuditBook.pardon`."""
        return await asyncio.to_thread(self._pardon, worker, now)

    async def find(self, number: int) -> Audit | None:
        """See `AuditBook.find`."""
        found = await looking(self._read, audits.c.number == number, 1)
        return found[0] if found else None

    async def audits(self, worker: bytes | None = None, *, before: int | None = None, limit: int = 100) -> list[Audit]:
        """See `AuditBook.audits`."""
        condition: Any = sa.true()
        if before is not None:
            condition &= audits.c.number < before
        if worker is not None:
            s = audit_statements.c
            condition &= audits.c.number.in_(sa.select(s.number).where(s.worker == worker))
        return await looking(self._read, condition, limit)

    # --- writing -------------------------------------------------------------------------------------------------

    def _begin_secret(self, secret: bytes, commitment: bytes, now: float) -> None:
        with writing(self._engine) as connection:
            row = {"commitment": commitment, "gateway": self._gateway, "secret": secret, "began_at": now}
            connection.execute(audit_secrets.insert(), row)

    def _count(self, counted: Counted) -> None:
        workers = sorted(counted.answered.keys() | counted.agreed.keys())
        rows = [(self._gateway, one, counted.answered.get(one, 0), counted.agreed.get(one, 0)) for one in workers]
        with writing(self._engine) as connection:
            self._add.execute(connection, rows)

    def _keep(self, audit: Audit) -> tuple[int, bool]:
        row = {
            "gateway": self._gateway,
            "at": audit.at,
            "outcome": audit.outcome.value,
            "against": audit.against,
            "error": audit.error if isfinite(audit.error) else None,
            "tolerance": audit.tolerance,
            "detail": audit.detail,
            "share": audit.share,
            "commitment": audit.commitment,
        }
        first = audit.statements[0]
        s = audit_statements.c
        again = (
            (s.worker == first.worker)
            & (s.place == 0)
            & (s.receipt == first.receipt.to_bytes())
            & (s.number == audits.c.number)
            & (audits.c.gateway == self._gateway)
        )
        with writing(self._engine) as connection:
            # The database may have gone after it wrote and before it said so: one difference must not be two strikes.
            known = connection.execute(sa.select(s.number).where(again)).scalar()
            if known is not None:
                return int(known), False
            number = int(connection.execute(audits.insert().returning(audits.c.number), row).scalar_one())
            connection.execute(
                audit_statements.insert(),
                [
                    {
                        "number": number,
                        "place": place,
                        "worker": one.worker,
                        "operator": one.operator,
                        "receipt": one.receipt.to_bytes(),
                        "signature": one.signature,
                    }
                    for place, one in enumerate(audit.statements)
                ],
            )
            convicted = audit.against is not None and self._convict(connection, audit, audit.against, number)
        return number, convicted

    def _convict(self, connection: Connection, audit: Audit, worker: bytes, number: int) -> bool:
        """Convict a worker, if that is what the audit, or its strikes together, come to."""
        self._add.execute(connection, [(self._gateway, worker, 0, 0)])
        c = audited_workers.c
        mine = (c.gateway == self._gateway) & (c.worker == worker)
        known = connection.execute(sa.select(c.pardoned_at, c.agreed).where(mine).with_for_update()).one()
        if audit.outcome is Outcome.STRIKE:
            struck = (
                (audits.c.gateway == self._gateway)
                & (audits.c.against == worker)
                & (audits.c.at > (known.pardoned_at or 0.0))
            )
            query = sa.select(sa.func.count()).where(struck, audits.c.outcome == Outcome.STRIKE.value)
            if not strikes_convict(connection.execute(query).scalar_one(), known.agreed):
                return False
        first = mine & c.convicted_at.is_(None)
        connection.execute(audited_workers.update().where(first).values(convicted_at=audit.at, conviction=number))
        return True

    def _pardon(self, worker: bytes, now: float) -> bool:
        c = audited_workers.c
        convicted = (c.gateway == self._gateway) & (c.worker == worker) & c.convicted_at.isnot(None)
        anew = {"convicted_at": None, "conviction": None, "pardoned_at": now, "answered": 0, "agreed": 0}
        with writing(self._engine) as connection:
            return connection.execute(audited_workers.update().where(convicted).values(anew)).rowcount > 0

    # --- reading -------------------------------------------------------------------------------------------------

    def _secrets(self, now: float, limit: int) -> list[AuditSecret]:
        c = audit_secrets.c
        query = sa.select(audit_secrets).where(c.gateway == self._gateway).order_by(c.began_at.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [
                AuditSecret(row.commitment, row.began_at, row.secret if now - row.began_at > IN_USE_SECONDS else None)
                for row in connection.execute(query)
            ]

    def _workers(self) -> dict[bytes, WorkerAudits]:
        query = sa.select(audited_workers).where(audited_workers.c.gateway == self._gateway)
        with reading(self._engine) as connection:
            return {
                row.worker: WorkerAudits(
                    row.worker, row.answered, row.agreed, row.convicted_at, row.conviction, row.pardoned_at
                )
                for row in connection.execute(query)
            }

    def _read(self, condition: Any, limit: int) -> list[Audit]:
        c = audits.c
        query = sa.select(audits).where(c.gateway == self._gateway, condition).order_by(c.number.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
            statements: dict[int, list[Statement]] = {row.number: [] for row in rows}
            s = audit_statements.c
            signed = sa.select(audit_statements).where(s.number.in_(statements)).order_by(s.number, s.place)
            for one in connection.execute(signed):
                statement = Statement(one.operator, Receipt.from_bytes(one.receipt), one.signature)
                statements[one.number].append(statement)
        return [
            Audit(
                at=row.at,
                outcome=Outcome(row.outcome),
                statements=tuple(statements[row.number]),
                against=row.against,
                error=inf if row.error is None else row.error,
                tolerance=row.tolerance,
                detail=row.detail,
                share=row.share,
                commitment=row.commitment,
                number=row.number,
            )
            for row in rows
        ]
