"""The one-request use case: choose a worker, set the money aside, have it served, check, charge, answer.

Decides the order of these steps and what happens when one fails: the money is given back and nothing is charged, or the
charge is durable before the answer leaves. Must never answer outputs that the worker's signature does not cover, nor
charge twice for one request id. Called by the HTTP gateway; knows no HTTP, no queue and no database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from contracts import tracing
from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import from_hex
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job
from contracts.protocol.metering import ceiling_units, choices
from contracts.protocol.request_ids import new_request_id
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import content_hash, encode_tensors
from contracts.protocol.typed_data import Domain
from market.errors import (
    MarketError,
    NoCapacity,
    NoPayment,
    RequestInProgress,
    UnknownModel,
    WorkerHangs,
)
from market.inference.activity import Activity
from market.inference.attempt import Attempts
from market.inference.audit_queue import AuditQueue
from market.inference.breaker import Breakers
from market.inference.charging import Cashier, Running
from market.inference.countersign import Countersigner
from market.inference.hedging import Hedges, Try
from market.inference.load import WorkerLoad
from market.inference.model import Answer, InferenceRequest, Partial, PriceTerms, Quote
from market.inference.papers import PapersDesk
from market.inference.placement import Placement
from market.inference.ports import Dispatcher
from market.inference.rates import By, Rates
from market.inference.streaming import TokenFeed, stream
from market.inference.timeline import Timeline, Timelines
from market.inference.unfinished import Unfinished
from market.payments.authorize import Authorizer
from market.payments.model import ChannelFacts, Reservation, StoredAnswer
from market.payments.ports import AlreadyCharged, DuplicateCharge, Ledger, Reservations
from market.registry.model import Listing
from market.registry.offers import LiveOffer, LiveOffers
from market.registry.ports import RegistryView
from market.telemetry import stage
from market.verification.result_check import CheckedResult

MAX_ATTEMPTS = 3
# A reservation outlives the deadline by this much, so that a charge in progress is never overtaken by its expiry.
RESERVATION_GRACE_SECONDS = 30.0
HASH_IN_THREAD_BYTES = 1 << 20
GENERATION = "text-generation"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """What the operator sets: the fee in millionths, the deadline of one request, failover included, and its queue.

    Generations have a deadline of their own; a little before it a stream is ended with what there is. `hedge_share` is
    how many of the requests that allow it may be sent to a second worker.
    """

    fee_ppm: int
    timeout_seconds: float
    generation_timeout_seconds: float = 100.0
    max_queue_seconds: float = 2.0
    hedge_share: float = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """What serves requests, shared by the use case and its short lane."""

    key: PrivateKey
    domain: Domain
    authorizer: Authorizer
    placement: Placement
    attempts: Attempts
    load: WorkerLoad
    papers: PapersDesk
    timelines: Timelines
    limits: InferenceLimits
    rates: Rates | None
    audits: AuditQueue | None
    wall_clock: Callable[[], float]
    clock: Callable[[], float]


@contextmanager
def _told(timeline: Timeline) -> Iterator[None]:
    """Note how a request ended; one that is cancelled keeps what its timeline began with."""
    try:
        yield
    except MarketError as error:
        timeline.code = error.code
        raise
    except Exception:
        timeline.code = "internal-error"
        raise
    timeline.code = "ok"


class InferenceService:
    """Serves paid requests; one per gateway process."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        registry: RegistryView,
        offers: LiveOffers,
        authorizer: Authorizer,
        reservations: Reservations,
        ledger: Ledger,
        dispatcher: Dispatcher,
        papers: PapersDesk,
        limits: InferenceLimits,
        rates: Rates | None = None,
        audits: AuditQueue | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._domain = domain
        self._registry = registry
        self._offers = offers
        self._authorizer = authorizer
        self._reservations = reservations
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._limits = limits
        self._rates = rates
        self._audits = audits
        self._wall_clock = wall_clock
        self._clock = clock
        self.activity = Activity(wall_clock=wall_clock)
        self.timelines = Timelines()
        load, breakers = WorkerLoad(clock), Breakers(clock)
        self._placement = Placement(offers, load, breakers, limits.fee_ppm, limits.max_queue_seconds)
        self._attempts = Attempts(
            domain=domain,
            dispatcher=dispatcher,
            ledger=ledger,
            load=load,
            breakers=breakers,
            activity=self.activity,
            wall_clock=wall_clock,
            clock=clock,
        )
        self._hedges = Hedges(self.activity, load, limits.hedge_share)
        self._unfinished = Unfinished()
        self._cashier = Cashier(
            countersigner=Countersigner(key, domain),
            ledger=ledger,
            reservations=reservations,
            papers=papers,
            spawn=self._unfinished.spawn,
            wall_clock=wall_clock,
            clock=clock,
        )
        self.parts = Parts(
            key=key,
            domain=domain,
            authorizer=authorizer,
            placement=self._placement,
            attempts=self._attempts,
            load=load,
            papers=papers,
            timelines=self.timelines,
            limits=limits,
            rates=rates,
            audits=audits,
            wall_clock=wall_clock,
            clock=clock,
        )

    def quote(self, model_ref: str) -> list[Quote]:
        """Return the live offers for a model, the cheapest first.

        Raises:
            UnknownModel: no active listing has this name or id.
        """
        listing = self._find(model_ref)
        _require_active(listing, model_ref)
        return self._offers.quotes(listing.model_id)

    def stream(self, request: InferenceRequest, *, counted: bool = True) -> AsyncGenerator[Partial | Answer, None]:
        """Serve one generation piece by piece, the answer with the receipt last; close it when the reader is gone.

        A reader that leaves is charged for the tokens it took, and nothing if it took none. Whoever iterates says with
        each step that the piece before was sent; without `counted` none is sent before all are: leaving costs nothing.

        Raises:
            MarketError: as of `infer`; after the first piece no other worker is asked.
        """
        seconds = request.received_at + self._limits.generation_timeout_seconds - self._wall_clock()
        return stream(
            lambda feed: self.infer(request, feed),
            self._dispatcher,
            self._unfinished.spawn,
            counted=counted,
            texts=choices(request.parameters),
            stop_after_seconds=0.95 * seconds,
        )

    async def infer(self, request: InferenceRequest, feed: TokenFeed | None = None) -> Answer:
        """Serve one request and charge it, or charge nothing; `feed` takes what is streamed before the answer.

        Raises:
            MarketError: see the classes; every failure after the reservation gives the money back.
        """
        timeline = Timeline(request.received_at, code="client-gone", model=request.model_ref)
        if request.trace is not None or tracing.is_on():
            timeline.span = tracing.start("inference", tracing.parse(request.trace), request.received_at)
            if timeline.span is not None:
                tracing.current.set(str(timeline.span.context))
        try:
            with _told(timeline):
                return await self._infer(request, feed, timeline)
        finally:
            if timeline.span is not None:
                tracing.current.set(None)
            self.timelines.keep(timeline, self._wall_clock())

    async def go_on(
        self,
        request: InferenceRequest,
        listing: Listing,
        manifest: Manifest,
        facts: ChannelFacts,
        job: Job,
        reservation: Reservation,
        timeline: Timeline,
        failed: dict[bytes, MarketError],
    ) -> Answer:
        """Serve a request on from where the first worker failed it; the reservation becomes this method's to close.

        Raises:
            MarketError: see `infer`.
        """
        assert job.inputs is not None
        running = Running(
            request=request,
            facts=facts,
            client=facts.channel.payer,
            listing=listing,
            manifest=manifest,
            request_id=job.request_id,
            blob=job.inputs,
            input_hash=job.input_hash,
            units=job.units,
            deadline_at=job.deadline_at,
            generates=False,
            feed=None,
            timeline=timeline,
        )
        try:
            with _told(timeline):
                return await self._serve_once(running, failed, reservation)
        finally:
            self.timelines.keep(timeline, self._wall_clock())

    async def _infer(self, request: InferenceRequest, feed: TokenFeed | None, timeline: Timeline) -> Answer:
        listing = self._find(request.model_ref)
        if request.request_id is None:
            _require_active(listing, request.model_ref)
        if request.voucher is None:
            raise NoPayment
        facts = self._authorizer.check(request.voucher, own=request.is_paid_by_gateway, by_key=request.key is not None)
        if self._rates is not None:
            await self._count(self._rates, request, facts)
        blob = encode_tensors(request.tensors, request.parameters)
        large = len(blob) > HASH_IN_THREAD_BYTES
        input_hash = await asyncio.to_thread(content_hash, blob) if large else content_hash(blob)
        timeline.channel_id = facts.channel_id
        if request.request_id is not None:
            timeline.request_id = request.request_id
            # What was paid for is handed out whether or not it could be bought now.
            stored = await self._ledger.answer(facts.channel_id, request.request_id)
            if stored is not None:
                return await self._repeat(request, listing, input_hash, stored)
            _require_active(listing, request.model_ref)
        manifest = self._offers.manifest(listing.model_id)
        if manifest is None:
            raise NoCapacity(f"No live worker offers {listing.name}.", field="model")
        generates = manifest.task == GENERATION
        limits = self._limits
        timeout_seconds = limits.generation_timeout_seconds if generates else limits.timeout_seconds
        running = Running(
            request=request,
            facts=facts,
            client=request.payer or facts.channel.payer,
            listing=listing,
            manifest=manifest,
            request_id=request.request_id or new_request_id(),
            blob=blob,
            input_hash=input_hash,
            units=ceiling_units(manifest, request.tensors, request.parameters),
            deadline_at=request.received_at + timeout_seconds,
            generates=generates,
            feed=feed,
            timeline=timeline,
        )
        timeline.request_id = running.request_id
        return await self._serve_once(running)

    async def close(self) -> None:
        """Wait for charges that outlived their client."""
        self._hedges.close()
        await self._unfinished.close()

    async def _count(self, rates: Rates, request: InferenceRequest, facts: ChannelFacts) -> None:
        names = [(By.PAYER, request.payer or facts.channel.payer)]
        if request.key is not None:
            names.append((By.KEY, request.key.key_hash))
        for by, name in names:
            pending = rates.admit(by, name)
            if pending is not None:
                await pending

    # --- steps -------------------------------------------------------------------------------------------------

    async def _serve_once(
        self,
        running: Running,
        failed: dict[bytes, MarketError] | None = None,
        reservation: Reservation | None = None,
    ) -> Answer:
        """Serve a request, or repeat the answer if its id was charged meanwhile."""
        try:
            return await self._serve(running, failed, reservation)
        except (AlreadyCharged, DuplicateCharge):
            stored = await self._ledger.answer(running.facts.channel_id, running.request_id)
            if stored is None:
                raise RequestInProgress(field="Market-Request-Id") from None
            return await self._repeat(running.request, running.listing, running.input_hash, stored)

    async def _repeat(
        self, request: InferenceRequest, listing: Listing, input_hash: bytes, stored: StoredAnswer
    ) -> Answer:
        """Answer a request id again, by the version of the model that was asked then: the name may have moved on."""
        asked = self._registry.listing(stored.stored.receipt.model_id)
        if asked is not None and asked.name == request.model_ref:
            listing = asked
        return await self._cashier.repeat(request, listing.model_id, input_hash, stored)

    async def _serve(
        self,
        running: Running,
        failed: dict[bytes, MarketError] | None = None,
        reservation: Reservation | None = None,
    ) -> Answer:
        """Ask worker after worker; `failed` and `reservation` are those of an attempt that was made already."""
        failed = {} if failed is None else failed
        try:
            while True:
                if failed and (len(failed) >= MAX_ATTEMPTS or self._wall_clock() >= running.deadline_at):
                    raise list(failed.values())[-1]
                live, others = self._placement.choose(
                    running.listing, running.units, running.request, running.client, failed
                )
                metered = running.manifest.is_metered
                terms = self._placement.terms(running.listing, running.units, live, metered=metered)
                second = self._second(running, live, failed) if running.request.hedge and others else None
                # Whoever answers, its price is covered.
                price = terms.price if second is None else max(terms.price, second[1].price)
                if reservation is not None and reservation.price != price:
                    held, reservation = reservation, None
                    await self._cashier.give_back(held)
                if reservation is None:
                    with stage("reserve"):
                        reservation = await self._reserve(running, price)
                if second is None:
                    outcome = await self._ask(running, live, terms, reservation, len(failed), running.timeline, others)
                else:
                    live, outcome = await self._race(running, (live, terms), second, reservation, failed)
                if isinstance(outcome, CheckedResult):
                    # From here the charge owns the reservation, even if the client leaves.
                    held, reservation = reservation, None
                    answer = await self._cashier.charge(running, outcome, held, live)
                    if self._audits is not None:
                        self._audit(self._audits, running, outcome, live)
                    return answer
                failed[live.offer.worker] = outcome
                if running.feed is not None and running.feed.started:
                    raise outcome
        except asyncio.CancelledError:
            # The client is gone: nothing may wait here, but the money must go back.
            if reservation is not None:
                self._unfinished.spawn(self._cashier.give_back(reservation))
            raise
        except BaseException:
            if reservation is not None:
                await self._cashier.give_back(reservation)
            raise

    @staticmethod
    def _audit(audits: AuditQueue, running: Running, checked: CheckedResult, live: LiveOffer) -> None:
        # Once the answer is on its way.
        asyncio.get_running_loop().call_soon(
            audits.served, checked, live, running.listing, running.manifest, running.blob, running.request
        )

    def _second(
        self, running: Running, live: LiveOffer, failed: Mapping[bytes, MarketError]
    ) -> tuple[LiveOffer, PriceTerms] | None:
        """Return who may be asked beside the first choice, if anybody has room; generations are asked for once."""
        if running.generates:
            return None
        besides = {**failed, live.offer.worker: WorkerHangs()}
        second, _ = self._placement.choose(running.listing, running.units, running.request, running.client, besides)
        if not self._hedges.has_room(second, self._offers.max_batch(second.offer.worker, second.offer.model_id)):
            return None
        metered = running.manifest.is_metered
        return second, self._placement.terms(running.listing, running.units, second, metered=metered)

    async def _race(
        self,
        running: Running,
        first: tuple[LiveOffer, PriceTerms],
        second: tuple[LiveOffer, PriceTerms],
        reservation: Reservation,
        failed: dict[bytes, MarketError],
    ) -> tuple[LiveOffer, CheckedResult | MarketError]:
        """Ask the first worker, and the second if it is late; returns whose outcome counts, others in `failed`."""
        times: dict[bytes, Timeline] = {}
        earlier = len(failed)

        def attempt(number: int, live: LiveOffer, terms: PriceTerms) -> Try:
            def begin() -> Coroutine[Any, Any, CheckedResult | MarketError]:
                own = times[live.offer.worker] = replace(running.timeline)
                return self._ask(running, live, terms, reservation, earlier + number, own, others=True)

            return Try(live, begin)

        *others, (live, outcome) = await self._hedges.race(attempt(0, *first), attempt(1, *second))
        failed.update((other.offer.worker, failure) for other, failure in others if isinstance(failure, MarketError))
        running.timeline.adopt(times[live.offer.worker])
        return live, outcome

    async def _ask(
        self,
        running: Running,
        live: LiveOffer,
        terms: PriceTerms,
        reservation: Reservation,
        attempt: int,
        timeline: Timeline,
        others: bool,
    ) -> CheckedResult | MarketError:
        job = self._job(running, terms, reservation, attempt=f"{running.asking}-{attempt}")
        timeline.queue(live.offer.worker, self._wall_clock())
        return await self._attempts.run(
            job,
            live,
            channel_id=running.facts.channel_id,
            client=running.client,
            generates=running.generates,
            feed=running.feed,
            others=others,
            timeline=timeline,
        )

    async def _reserve(self, running: Running, price: int) -> Reservation:
        voucher = running.request.voucher
        assert voucher is not None  # infer() refused already
        left = max(0.0, running.deadline_at - self._wall_clock())
        return await self._authorizer.reserve(
            voucher,
            price=price,
            request_id=running.request_id,
            ttl_seconds=left + RESERVATION_GRACE_SECONDS,
            remember=running.request.request_id is not None,
            key=running.request.key,
        )

    def _job(self, running: Running, terms: PriceTerms, reservation: Reservation, attempt: str) -> Job:
        return Job(
            request_id=running.request_id,
            attempt=attempt,
            channel=running.facts.channel,
            seq=reservation.seq,
            model_id=running.listing.model_id,
            units=terms.units,
            price=terms.price,
            worker_amount=terms.worker_amount,
            owner_amount=terms.owner_amount,
            royalty_ppm=terms.royalty_ppm,
            fee_ppm=terms.fee_ppm,
            cumulative=reservation.cumulative - (reservation.price - terms.price),
            voucher_amount=reservation.voucher_amount,
            voucher_signature=reservation.voucher_signature,
            deadline_at=running.deadline_at,
            input_hash=running.input_hash,
            inputs=running.blob,
            inputs_ref=None,
            outputs=running.request.requested_outputs,
            reply_to=self._dispatcher.reply_to,
            unit_price=terms.unit_price,
            stream=running.feed is not None,
            units_per_price=terms.units_per_price,
        )

    def _find(self, model_ref: str) -> Listing:
        """Return a listing by name or model id, active or not."""
        listing = self._registry.listing_by_name(model_ref)
        if listing is None and model_ref.startswith("0x"):
            try:
                listing = self._registry.listing(from_hex(model_ref, 32, field="model"))
            except InvalidHex:
                listing = None
        if listing is None:
            raise _unknown(model_ref)
        return listing


def _require_active(listing: Listing, model_ref: str) -> None:
    if not listing.active:
        raise _unknown(model_ref)


def _unknown(model_ref: str) -> UnknownModel:
    return UnknownModel(f"No active listing is called {model_ref!r}.", field="model")
