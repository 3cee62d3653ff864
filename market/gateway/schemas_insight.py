"""The shapes of what people look at: performance, the past, standing, reads of the chain."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from market.gateway.schemas import Amount, InferRequest, Offer, Performance, Schema, Worker


class Minute(Schema):
    """One minute with at least one attempt."""

    at: int = Field(description="Unix seconds.")
    served: int
    failed: int
    mean_ms: float | None


class ModelPerformance(Schema):
    """How a worker served one model."""

    model_id: str
    performance: Performance


class WorkerInsight(Worker):
    """A worker and how it served."""

    performance: Performance
    by_model: list[ModelPerformance]
    history: list[Minute]


class ServingWorker(Worker):
    """A worker that serves a model, and how well."""

    unit_price: str = Amount
    performance: Performance


class ModelInsight(Schema):
    """How a model is served, and by whom."""

    model_id: str
    performance: Performance
    history: list[Minute]
    served_by: list[ServingWorker]


class Bucket(Schema):
    """What was charged for one model in one step."""

    at: int = Field(description="Start of the step, unix seconds.")
    model_id: str
    requests: int
    price: str = Amount
    worker_amount: str = Amount
    owner_amount: str = Amount


class Past(Schema):
    """Charged requests over time."""

    since: int = Field(description="Where the buckets begin, unix seconds.")
    step_seconds: int
    complete: bool = Field(description="False where there was more than is looked at; `since` is later then.")
    buckets: list[Bucket]


class Standing(Schema):
    """What waits, and how far behind."""

    head_block: int | None = Field(description="Newest block of the gateway's node; null while it does not answer.")
    indexed_block: int | None
    blocks_behind: int | None = Field(description="Confirmed blocks that are not read yet.")
    unsettled_receipts: int
    unsettled_value: str = Amount
    settle_interval_seconds: float
    settle_value: str = Amount
    reserve: str = Amount
    arrears: str = Amount


class QuotedTerms(Schema):
    """What a request would cost, and to whom."""

    gateway: str
    escrow: str
    chain_id: int
    token: str
    model_id: str
    offers: list[Offer]


class ChainAnswer(Schema):
    """A JSON-RPC answer; `error` is the node's own."""

    jsonrpc: str
    id: Any = None
    result: Any = None
    error: Any = None


CHAIN_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["method"],
                    "properties": {
                        "jsonrpc": {"type": "string"},
                        "id": {},
                        "method": {
                            "type": "string",
                            "enum": ["eth_chainId", "eth_blockNumber", "eth_call", "eth_getLogs"],
                        },
                        "params": {"type": "array", "items": {}},
                    },
                }
            }
        },
    }
}

QUOTE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": InferRequest.model_json_schema()},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
