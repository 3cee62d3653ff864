"""What became of one request: its times, step by step, and its money.

Public as receipts are. Of a charged request the ledger keeps the times; the newest requests, failed ones too, are known
to the process that served them. Nothing here changes state.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from contracts import tracing
from contracts.protocol.hexes import checksum, hex0x
from market.errors import ReceiptNotFound
from market.gateway import schemas_trace
from market.gateway.lookup import hash_of, runtime
from market.inference.timeline import Timeline
from market.payments.model import StoredReceipt

router = APIRouter(prefix="/market/v1", tags=["Market"])


@router.get("/requests/{request_id}/trace", response_model=schemas_trace.RequestTrace)
async def request_trace(request: Request, request_id: str, channel: str | None = None) -> Any:
    """Tell when each step of a request happened, what it cost, and in which transaction it was settled."""
    joined = runtime(request)
    wanted = hash_of(request_id, "request_id")
    channel_id = None if channel is None else hash_of(channel, "channel")
    stored = await joined.ledger.receipt(wanted, channel_id)
    recent = joined.inference.timelines.find(wanted, channel_id)
    if stored is None and recent is None:
        raise ReceiptNotFound(
            "no such request was charged, and none is remembered.",
            field="request_id",
            remedy="Ask the gateway that served it; of failed requests only the newest are remembered.",
        )
    settlement = None if stored is None else await joined.settlement_of(stored)
    record = None
    if settlement is not None:
        settled = joined.registry.settlements(joined.gateway)
        record = next((one for one in settled if str(one.epoch) == settlement["epoch"]), None)
    times = _times(stored, recent)
    return {
        "request_id": hex0x(wanted),
        "trace_id": _trace_id(stored, recent),
        "state": _state(stored, times, settled=settlement is not None),
        "code": "ok" if stored is not None else times.code,
        "steps": [
            *_steps(times),
            *([] if settlement is None else [_settled(settlement, None if record is None else record.block)]),
        ],
        "money": None if stored is None else _money(stored),
    }


def _times(stored: StoredReceipt | None, recent: Timeline | None) -> Timeline:
    kept = None if stored is None or stored.timeline is None else Timeline.from_bytes(stored.timeline)
    # What this process remembers may be an attempt that was refused after the one that was charged.
    if recent is not None and (stored is None or recent.charged_at):
        return recent
    if kept is not None:
        return kept
    assert stored is not None, "one of them is known"
    return Timeline(float(stored.receipt.served_at), signed_at=float(stored.receipt.served_at), code="ok")


def _trace_id(stored: StoredReceipt | None, recent: Timeline | None) -> str | None:
    context = None if stored is None else tracing.read(stored.trace)
    if context is None and recent is not None and recent.span is not None:
        context = recent.span.context
    return None if context is None else context.trace_id.hex()


def _state(stored: StoredReceipt | None, times: Timeline, *, settled: bool) -> str:
    if stored is None:
        return "failed" if times.code != "ok" else "answered"
    return "settled" if settled else "charged"


def _steps(t: Timeline) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []

    def add(name: str, at: float, **more: Any) -> None:
        if at:
            steps.append({"step": name, "at": round(at, 6), "seconds": None, **more})

    add("received", t.received_at)
    add("queued", t.queued_at, worker=checksum(t.worker) if t.worker else None, attempts=t.attempts or None)
    add("started", t.started_at)
    if t.started_at:
        add("modelRun", t.started_at + t.model_seconds, seconds=round(t.model_seconds, 6))
    add("signed", t.signed_at)
    add("returned", t.returned_at)
    add("charged", t.charged_at)
    add("answered" if t.code == "ok" else "refused", t.answered_at)
    return steps


def _settled(settlement: dict[str, Any], block: int | None) -> dict[str, Any]:
    return {
        "step": "settled",
        "at": None,
        "seconds": None,
        "epoch": settlement["epoch"],
        "transaction_hash": settlement["transactionHash"],
        "block": block,
    }


def _money(stored: StoredReceipt) -> dict[str, Any]:
    receipt = stored.receipt
    return {
        "price": str(receipt.price),
        "worker_amount": str(receipt.worker_amount),
        "owner_amount": str(receipt.owner_amount),
        "gateway_amount": str(receipt.price - receipt.worker_amount - receipt.owner_amount),
        "cumulative": str(receipt.cumulative),
        "channel_id": hex0x(receipt.channel_id),
        "payer": checksum(receipt.payer),
        "worker": checksum(receipt.worker),
        "worker_payee": checksum(stored.worker_payee),
        "owner_payee": checksum(stored.owner_payee),
        "model_id": hex0x(receipt.model_id),
    }
