"""The shapes of audits."""

from __future__ import annotations

from pydantic import Field

from market.gateway.schemas import Schema

_TIME = "Unix seconds."


class AuditStatement(Schema):
    """What one worker signed; the receipt has the hashes of input and output."""

    worker: str
    operator: str
    receipt: dict[str, str]
    digest: str
    worker_signature: str


class Audit(Schema):
    """A request that workers answered differently; the first statement is that of the worker who served the client."""

    number: int
    at: float = Field(description=_TIME)
    outcome: str = Field(description="convicted, strike (of three that convict) or disputed (no two agreed).")
    model_id: str
    against: str | None = Field(description="The worker that two others agreed against.")
    error: float | None = Field(description="Relative L2 distance; null where there is no such number.")
    tolerance: float
    detail: str
    share: float = Field(description="Share of the worker's requests that were audited then.")
    commitment: str = Field(description="SHA-256 of the secret that the request was chosen by.")
    statements: list[AuditStatement]


class WorkerAudits(Schema):
    """What audits say of a worker."""

    worker: str
    answered: int = Field(description="Requests while it was new; not counted any more after that.")
    agreed: int = Field(description="Audits that it passed.")
    convicted_at: float | None = Field(description="Unix seconds; while it is set, no offer of the worker is sold.")
    conviction: int | None = Field(description="The audit that it was convicted by.")
    pardoned_at: float | None = Field(description=_TIME)


class AuditSecret(Schema):
    """A secret that requests were chosen by: those whose HMAC-SHA256 of the id begins below the share."""

    commitment: str
    began_at: float = Field(description=_TIME)
    secret: str | None = Field(description="Null while it may be in use.")
