"""The shapes of what became of one request."""

from __future__ import annotations

from pydantic import Field

from market.gateway.schemas import Amount, Schema


class TraceStep(Schema):
    """One step; what does not concern it is null. `started`, `modelRun` and `signed` are by the worker's clock."""

    step: str = Field(
        description="received, queued, started, modelRun, signed, returned, charged, answered, refused or settled."
    )
    at: float | None = Field(description="Unix seconds; null for settled, which the chain dates by its block.")
    seconds: float | None = Field(default=None, description="How long the model ran.")
    worker: str | None = None
    attempts: int | None = Field(default=None, description="How many workers were asked.")
    epoch: str | None = None
    transaction_hash: str | None = None
    block: int | None = None


class TraceMoney(Schema):
    """What it cost and who got what, by its receipt."""

    price: str = Amount
    worker_amount: str = Amount
    owner_amount: str = Amount
    gateway_amount: str = Amount
    cumulative: str = Amount
    channel_id: str
    payer: str
    worker: str
    worker_payee: str
    owner_payee: str
    model_id: str


class RequestTrace(Schema):
    """One request, step by step."""

    request_id: str
    trace_id: str | None = Field(description="The W3C trace that the client or the gateway began.")
    state: str = Field(description="failed, answered (again, without a charge), charged or settled.")
    code: str = Field(description="ok, or the error code that ended it.")
    steps: list[TraceStep]
    money: TraceMoney | None
