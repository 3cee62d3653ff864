"""When each step of a request happened: what `market trace` shows, and what spans are made of.

Times are unix seconds of the gateway's clock; those of the model run are the worker's own. What is charged keeps its
times with the receipt; of the newest requests, also failed ones, this process remembers more. Decides nothing.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from contracts import tracing

KEPT = 4_096
# Receipt of the request, then microseconds after it.
_LAYOUT = struct.Struct("<d5iI")
_LIMIT = (1 << 31) - 1
MAX_MODEL_SECONDS = 4_000.0
_END_OF_TIME = 1e11


@dataclass(slots=True)
class Timeline:
    """One request's times; 0 where a step was not reached. `code` is ok, or of the refusal that ended it."""

    received_at: float
    span: tracing.Span | None = None
    request_id: bytes = b""
    channel_id: bytes = b""
    model: str = ""
    worker: bytes = b""
    attempts: int = 0
    queued_at: float = 0.0
    started_at: float = 0.0
    model_seconds: float = 0.0
    signed_at: float = 0.0
    returned_at: float = 0.0
    charged_at: float = 0.0
    answered_at: float = 0.0
    code: str = ""

    def queue(self, worker: bytes, at: float) -> None:
        """Note that it is given to a worker, for the first time or again."""
        self.worker = worker
        self.attempts += 1
        self.queued_at, self.started_at, self.model_seconds, self.signed_at, self.returned_at = at, 0.0, 0.0, 0.0, 0.0

    def adopt(self, other: Timeline) -> None:
        """Take over the times of the attempt that counts, kept apart while another was under way."""
        self.worker, self.attempts, self.queued_at = other.worker, other.attempts, other.queued_at
        self.started_at, self.model_seconds = other.started_at, other.model_seconds
        self.signed_at, self.returned_at = other.signed_at, other.returned_at

    def serve(self, started_at: float, model_seconds: float, signed_at: float) -> None:
        """Note what the worker says of its part; it may say anything, so what is no time is left out."""
        self.started_at = started_at if 0 <= started_at < _END_OF_TIME else 0.0
        self.signed_at = signed_at if 0 <= signed_at < _END_OF_TIME else 0.0
        self.model_seconds = model_seconds if 0 <= model_seconds < MAX_MODEL_SECONDS else 0.0

    def to_bytes(self) -> bytes:
        """Return the times up to the charge as they are kept with the receipt."""
        began = self.received_at
        times = self.queued_at, self.started_at, self.signed_at, self.returned_at, self.charged_at
        # Microseconds after the receipt of the request; the lowest number for none.
        offsets = [int((at - began) * 1e6) if at else -_LIMIT for at in times]
        model = int(self.model_seconds * 1e6)
        try:
            return _LAYOUT.pack(began, *offsets, model)
        except struct.error:  # by a clock that is years off
            return _LAYOUT.pack(began, *(max(-_LIMIT, min(_LIMIT, offset)) for offset in offsets), model)

    @classmethod
    def from_bytes(cls, data: bytes) -> Timeline | None:
        """Read what `to_bytes` wrote; None if it is something else."""
        if len(data) != _LAYOUT.size:
            return None
        received, *offsets, model = _LAYOUT.unpack(data)
        queued, started, signed, returned, charged = (0.0 if o == -_LIMIT else received + o / 1e6 for o in offsets)
        return cls(
            received_at=received,
            queued_at=queued,
            started_at=started,
            signed_at=signed,
            returned_at=returned,
            charged_at=charged,
            model_seconds=model / 1e6,
            code="ok",
        )


class Timelines:
    """The newest requests of this process by id."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._newest: OrderedDict[bytes, Timeline] = OrderedDict()

    def find(self, request_id: bytes, channel_id: bytes | None = None) -> Timeline | None:
        """Return the newest request of that id, if it is still remembered."""
        found = self._newest.get(request_id)
        return found if found is not None and channel_id in (None, found.channel_id) else None

    def keep(self, timeline: Timeline, at: float) -> None:
        """Remember a request that has ended, and tell the trace of it."""
        timeline.answered_at = at
        known = self._newest.get(timeline.request_id)
        # A repetition tells nothing of how the request was served.
        if timeline.request_id and (timeline.queued_at or known is None or not known.charged_at):
            self._newest[timeline.request_id] = timeline
            if len(self._newest) > self._kept:
                self._newest.popitem(last=False)
        if timeline.span is not None:
            _tell(timeline.span, timeline)


def _tell(span: tracing.Span, t: Timeline) -> None:
    if tracing.is_on():
        if t.queued_at:
            span.child("admit", t.received_at, t.queued_at)
            worker: dict[str, str | int] = {"market.worker": "0x" + t.worker.hex(), "market.attempts": t.attempts}
            span.child("dispatch", t.queued_at, t.returned_at or t.answered_at, worker)
        if t.charged_at:
            span.child("check", t.returned_at, t.charged_at)
            span.child("charge", t.charged_at, t.answered_at)
    attributes: dict[str, Any] = {"market.model": t.model, "market.code": t.code}
    if t.request_id:
        attributes["market.request_id"] = "0x" + t.request_id.hex()
    span.end(t.answered_at, attributes, failed=None if t.code == "ok" else t.code)
