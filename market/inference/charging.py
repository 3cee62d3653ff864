"""What ends a served request: the charge, durable before the answer; the reservation closed; an answer given once more.

Decides nothing about who serves. Must never return an answer whose charge is not on the disk, nor charge after the
reservation ran out. Called by the use case.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import decode_tensors
from market.errors import DeadlineExceeded, MarketError, RequestIdReused
from market.inference.countersign import Countersigner
from market.inference.kept import keep, kept, pieces
from market.inference.model import Answer, InferenceRequest
from market.inference.papers import PapersDesk
from market.inference.streaming import Spawn, TokenFeed
from market.inference.timeline import Timeline
from market.payments.model import ChannelFacts, Charge, Recorded, Reservation, StoredAnswer
from market.payments.ports import Ledger, Reservations
from market.registry.model import Listing
from market.registry.offers import LiveOffer
from market.telemetry import stage
from market.verification.result_check import CheckedResult

ANSWER_KEPT_SECONDS = 3_600.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Running:
    """One request while it is served.

    `asking` tells it from an earlier asking of the same request id that came to nothing: what a worker, or a node's
    memory, knows of that one must not be taken for this one.
    """

    request: InferenceRequest
    facts: ChannelFacts
    client: bytes
    listing: Listing
    manifest: Manifest
    request_id: bytes
    blob: bytes
    input_hash: bytes
    units: int
    deadline_at: float
    generates: bool
    feed: TokenFeed | None
    timeline: Timeline
    asking: str = field(default_factory=lambda: secrets.token_hex(4))


class Cashier:
    """Charges served requests; one per gateway process."""

    def __init__(
        self,
        *,
        countersigner: Countersigner,
        ledger: Ledger,
        reservations: Reservations,
        papers: PapersDesk,
        spawn: Spawn,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._countersigner = countersigner
        self._ledger = ledger
        self._reservations = reservations
        self._papers = papers
        self._spawn = spawn
        self._wall_clock = wall_clock
        self._clock = clock

    async def charge(
        self, running: Running, checked: CheckedResult, reservation: Reservation, live: LiveOffer
    ) -> Answer:
        """Charge for an answer and return it.

        Raises:
            MarketError: nothing was charged, the money was given back; `DuplicateCharge` if its id was charged before.
        """
        named = running.request.request_id is not None
        cuts = () if running.feed is None else running.feed.cuts
        outputs = keep(checked.blob, checked.outputs, cuts) if named else None
        durable = self._make_durable(running, checked, reservation, live, outputs)
        with stage("charge"):
            recorded, gateway_signature = await asyncio.shield(self._spawn(durable))
        return Answer(
            tensors=checked.outputs,
            parameters=checked.parameters,
            receipt=checked.receipt,
            worker_signature=checked.worker_signature,
            gateway_signature=gateway_signature,
            charged=checked.receipt.price,
            cumulative=recorded.charged,
            request_id=running.request_id,
        )

    async def _make_durable(
        self,
        running: Running,
        checked: CheckedResult,
        reservation: Reservation,
        live: LiveOffer,
        outputs: bytes | None,
    ) -> tuple[Recorded, bytes]:
        """Charge for good and close the reservation, whether or not anybody still waits.

        Returns what was recorded, and the gateway's signature of the receipt.
        """
        receipt = checked.receipt
        operator = live.worker.operator
        try:
            # Stored in the same transaction as the charge; it leaves this process only once that is durable.
            signature = await self._countersigner.sign(checked.digest)
            if self._clock() >= reservation.expires_at:
                raise DeadlineExceeded("The reservation ran out before the charge.")
            times = running.timeline
            times.charged_at = self._wall_clock()
            recorded = await self._ledger.record(
                Charge(
                    receipt=receipt,
                    digest=checked.digest,
                    channel=running.facts.channel,
                    voucher_amount=reservation.voucher_amount,
                    voucher_signature=reservation.voucher_signature,
                    worker_signature=checked.worker_signature,
                    gateway_signature=signature,
                    worker_payee=operator,
                    owner_payee=running.listing.owner,
                    outputs=outputs,
                    outputs_expire_at=self._wall_clock() + ANSWER_KEPT_SECONDS,
                    key=reservation.key,
                    timeline=times.to_bytes(),
                    trace=None if times.span is None else times.span.context.to_bytes(),
                )
            )
        except BaseException:
            await self.give_back(reservation)
            raise
        self._papers.add(receipt.worker, receipt.request_id, signature, operator, recorded.worker_earned)
        closing = self._close(reservation, recorded)
        if receipt.price == reservation.price:
            # The answer need not wait: charged and reserved together stay the same.
            self._spawn(closing)
        else:
            # The client's next voucher may count on the rest.
            await closing
        return recorded, signature

    async def _close(self, reservation: Reservation, recorded: Recorded) -> None:
        try:
            await self._reservations.commit(reservation, recorded.charged, recorded.key_spent)
        except MarketError as error:
            # The charge is durable; the reservation runs out by itself and the next commit brings the total.
            log.warning("reservation-not-closed", code=error.code)

    async def give_back(self, reservation: Reservation) -> None:
        """Give the money of a request back that is not charged."""
        try:
            await self._reservations.release(reservation)
        except MarketError as error:
            # It runs out by itself; the failure that led here is what the client must hear of.
            log.warning("reservation-not-released", code=error.code)

    async def repeat(
        self, request: InferenceRequest, model_id: bytes, input_hash: bytes, answered: StoredAnswer
    ) -> Answer:
        """Answer a request id again from the ledger; nothing is charged.

        Raises:
            RequestIdReused: it was asked for another model or with other inputs, or its outputs are no longer kept.
        """
        stored = answered.stored
        receipt = stored.receipt
        if receipt.input_hash != input_hash or receipt.model_id != model_id:
            raise RequestIdReused(field="Market-Request-Id")
        if answered.outputs is None:
            raise RequestIdReused("This request was answered and charged; its outputs are no longer kept.")
        blob, cuts = kept(answered.outputs)
        tensors, parameters = decode_tensors(blob)
        missing = set(request.requested_outputs) - {tensor.name for tensor in tensors}
        if missing:
            raise RequestIdReused(f"It was asked without the output {min(missing)}.", field="Market-Request-Id")
        account = await self._ledger.account(receipt.channel_id)
        return Answer(
            tensors=tuple(tensors),
            parameters=parameters,
            receipt=receipt,
            worker_signature=stored.worker_signature,
            gateway_signature=stored.gateway_signature,
            charged=receipt.price,
            cumulative=receipt.cumulative if account is None else account.charged,
            request_id=receipt.request_id,
            repeated=True,
            pieces=pieces(receipt.request_id, tensors, cuts),
        )
