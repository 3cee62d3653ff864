"""What the short lane is made of: its requests at two stages, the lane to the workers, and what is not finished yet.

Decides nothing. Called by `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job, Result
from market.inference.model import Answer, InferenceRequest, PriceTerms
from market.inference.timeline import Timeline
from market.payments.model import ChannelFacts, Claim, Reservation
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
    """One request on the short lane; `done` is called once with its answer or refusal."""

    request: InferenceRequest
    listing: Listing
    manifest: Manifest
    facts: ChannelFacts
    job: Job
    live: LiveOffer
    reservation: Reservation
    timeline: Timeline
    began: float
    beside: int
    done: Callable[[Answer | Exception], None]
    checked: CheckedResult | None = None


@dataclass(slots=True, eq=False)
class Asked:
    """A request whose channel and voucher are in order."""

    request: InferenceRequest
    listing: Listing
    manifest: Manifest
    facts: ChannelFacts
    units: int
    blob: bytes
    done: Callable[[Answer | Exception], None]


@dataclass(slots=True, eq=False)
class Claimed:
    """A request with its worker and price, before the money is set aside; times are unix seconds.

    `others` tells whether another worker could serve it, too.
    """

    asked: Asked
    live: LiveOffer
    others: bool
    terms: PriceTerms
    claim: Claim
    deadline_at: float
    at: float


def tell(done: Callable[[Answer | Exception], None], outcome: Answer | Exception) -> None:
    """Hand an outcome to whoever waits for it; one client's answer must not end those of its neighbours."""
    try:
        done(outcome)
    except Exception:
        log.exception("answer-not-written")
