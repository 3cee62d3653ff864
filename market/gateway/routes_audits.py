"""Audits of results: where workers answered differently, who was convicted, and by which secrets was chosen.

Public, as evidence must be: receipts, hashes and signatures, no inputs and no outputs. Nothing here changes state.
"""

from __future__ import annotations

import time
from math import isfinite
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.typed_data import Domain
from market.errors import AuditNotFound
from market.gateway import schemas_audits as schemas
from market.gateway.lookup import address_of, runtime
from market.inference.audit_model import Audit

router = APIRouter(prefix="/market/v1", tags=["Market"])
MAX_PAGE = 1_000
_MOST = 2**63 - 1


@router.get("/audits", response_model=list[schemas.Audit])
async def audits(
    request: Request,
    worker: str | None = None,
    before: Annotated[int | None, Query(ge=1, le=_MOST)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Any:
    """List audits in which answers differed, the newest first: all, or those of one worker; those below `before`."""
    joined = runtime(request)
    wanted = None if worker is None else address_of(worker, field="worker")
    found = await joined.audit_book.audits(wanted, before=before, limit=limit)
    return [_audit(one, joined.domain) for one in found]


@router.get("/audits/workers", response_model=list[schemas.WorkerAudits])
async def audited_workers(request: Request) -> Any:
    """Tell of each worker how many audits it passed, and whether it is convicted."""
    found = await runtime(request).audit_book.workers()
    return [
        {
            "worker": checksum(one.worker),
            "answered": one.answered,
            "agreed": one.agreed,
            "convicted_at": one.convicted_at,
            "conviction": one.conviction,
            "pardoned_at": one.pardoned_at,
        }
        for one in sorted(found.values(), key=lambda one: one.worker)
    ]


@router.get("/audits/secrets", response_model=list[schemas.AuditSecret])
async def audit_secrets(request: Request, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100) -> Any:
    """List by what requests were chosen, the newest first: the secret's hash at once, the secret two hours later."""
    return [
        {
            "commitment": hex0x(one.commitment),
            "began_at": one.began_at,
            "secret": None if one.secret is None else hex0x(one.secret),
        }
        for one in await runtime(request).audit_book.secrets(time.time(), limit)
    ]


@router.get("/audits/{number}", response_model=schemas.Audit)
async def audit(request: Request, number: Annotated[int, Path(ge=1, le=_MOST)]) -> Any:
    """Return one audit with all that was signed."""
    joined = runtime(request)
    found = await joined.audit_book.find(number)
    if found is None:
        raise AuditNotFound(f"there is no audit {number}.", field="number")
    return _audit(found, joined.domain)


def _audit(found: Audit, domain: Domain) -> dict[str, Any]:
    return {
        "number": found.number,
        "at": found.at,
        "outcome": found.outcome.value,
        "model_id": hex0x(found.model_id),
        "against": None if found.against is None else checksum(found.against),
        "error": found.error if isfinite(found.error) else None,
        "tolerance": found.tolerance,
        "detail": found.detail,
        "share": found.share,
        "commitment": hex0x(found.commitment),
        "statements": [
            {
                "worker": checksum(one.worker),
                "operator": checksum(one.operator),
                "receipt": one.receipt.to_json(),
                "digest": hex0x(one.receipt.digest(domain)),
                "worker_signature": hex0x(one.signature),
            }
            for one in found.statements
        ],
    }
