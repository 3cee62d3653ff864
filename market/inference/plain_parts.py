"""What the short lane is made of: its requests, the lane to the workers, and how an outcome is told.

Decides nothing. Called by `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job, Result
from market.inference.model import Answer, InferenceRequest, PriceTerms
from market.inference.timeline import Timeline
from market.payments.model import ChannelFacts, Reservation
from market.registry.model import Listing
from market.registry.offers import LiveOffer
from market.verification.result_check import CheckedResult

log = structlog.get_logger(__name__)


class InstantDispatcher(Protocol):
    """A lane that takes a job without a task that waits for it."""

    @property
    def reply_to(self) -> str:
        """See `Dispatcher.reply_to`."""
        ...

    def submit(
        self,
        job: Job,
        worker: bytes,
        ended: Callable[[Result | Exception], None],
        *,
        client: bytes | None = None,
        leave_at: float = math.inf,
    ) -> object:
        """Put a job on its way; `ended` is called once, with its result or what `Dispatcher.run` would raise.

        It is called with `WorkerHangs` if there is no result at `leave_at`, unix seconds.

        Raises:
            Overloaded | RequestInProgress: it was not taken.
        """
        ...


@dataclass(slots=True, eq=False)
class Plain:
    """One request on the short lane, whose channel and voucher are in order; times are unix seconds.

    `done` is called once with its answer or refusal. The second part is there once a worker is chosen and its price
    known, `others` telling whether another worker could serve it, too; the third once the job is sent, `began` being
    the monotonic clock's; `checked` once its result holds.
    """

    request: InferenceRequest
    listing: Listing
    manifest: Manifest
    facts: ChannelFacts
    units: int
    blob: bytes
    done: Callable[[Answer | Exception], None]

    live: LiveOffer = field(init=False)
    others: bool = field(init=False)
    terms: PriceTerms = field(init=False)
    at: float = field(init=False)
    deadline_at: float = field(init=False)

    job: Job = field(init=False)
    reservation: Reservation = field(init=False)
    timeline: Timeline = field(init=False)
    began: float = field(init=False)
    beside: int = field(init=False)

    checked: CheckedResult = field(init=False)


def tell(done: Callable[[Answer | Exception], None], outcome: Answer | Exception) -> None:
    """Hand an outcome to whoever waits for it; one client's answer must not end those of its neighbours."""
    try:
        done(outcome)
    except Exception:
        log.exception("answer-not-written")
