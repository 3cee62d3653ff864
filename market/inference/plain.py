"""The short lane: plain requests, served by call-backs in batches instead of a task with its awaits for each.

What one turn of the event loop brings back from workers is checked, countersigned with one signature, charged in one
transaction and answered together. The order of steps, and what each may do, is the use case's own, with the same parts;
whatever is not plain (a generation, hedging, a failure) is left or handed to the use case. Decides only
what is plain. Called by the HTTP gateway.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import structlog

from contracts import tracing
from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job, Result
from contracts.protocol.metering import ceiling_units
from contracts.protocol.receipts import sign_receipts, sign_tree
from contracts.protocol.request_ids import new_request_id
from contracts.protocol.signing import SIGNATURE_BYTES
from contracts.protocol.tensors import content_hash
from market.errors import DeadlineExceeded, MarketError, Overloaded, WorkerHangs
from market.inference.attempt import failure_of
from market.inference.charging import ANSWER_KEPT_SECONDS
from market.inference.model import Answer, InferenceRequest, PriceTerms
from market.inference.plain_parts import InstantDispatcher, Plain, tell
from market.inference.rates import By
from market.inference.service import (
    GENERATION,
    RESERVATION_GRACE_SECONDS,
    InferenceService,
)
from market.inference.timeline import Timeline
from market.inference.unfinished import Unfinished
from market.payments.model import Charge, Claim, ParsedVoucher, Recorded, Reservation, StoredAnswer
from market.payments.ports import ClosesReservations, DuplicateCharge, InstantLedger
from market.registry.model import Listing
from market.registry.offers import LiveOffer
from market.telemetry import observe
from market.verification.result_check import CheckedResult, Mismatch, Returned, check_results

_TERMS_KEPT = 4_096
_Reservations = TypeVar("_Reservations", bound=ClosesReservations)

log = structlog.get_logger(__name__)


class PlainLane(ABC, Generic[_Reservations]):
    """The short lane of one gateway process, beside its use case and on the same parts; see `plain_lanes`."""

    def __init__(
        self,
        service: InferenceService,
        *,
        dispatcher: InstantDispatcher,
        reservations: _Reservations,
        ledger: InstantLedger,
    ) -> None:
        self._service = service
        self._parts = service.parts
        self._dispatcher = dispatcher
        self._reply_to = dispatcher.reply_to
        self._reservations = reservations
        self._ledger = ledger
        self._returned: list[tuple[Plain, Result | Exception]] = []
        self._terms: dict[tuple[bytes, int, int, int], PriceTerms] = {}
        self._named: list[Plain] = []
        self._unfinished = Unfinished()

    async def close(self) -> None:
        """Wait for charges that outlived their client."""
        await self._unfinished.close()

    def begin(
        self,
        request: InferenceRequest,
        listing: Listing,
        manifest: Manifest,
        blob: bytes,
        done: Callable[[Answer | Exception], None],
        admit: Callable[[], object] | None = None,
    ) -> bool:
        """Put a request on its way if it is plain; otherwise nothing was done, and the use case must serve it.

        `admit` counts it at the door before it goes, and raises what the door says to a client that is too fast.
        """
        parts = self._parts
        if (
            request.voucher is None
            or request.hedge
            or manifest.task == GENERATION
            or manifest.is_metered
            or request.trace is not None
            or tracing.is_on()
        ):
            return False
        try:
            facts = parts.authorizer.check(
                request.voucher, own=request.is_paid_by_gateway, by_key=request.key is not None
            )
            units = ceiling_units(manifest, request.tensors, request.parameters)
            plain = Plain(request, listing, manifest, facts, units, blob, done)
            if request.request_id is None:
                return self._go(plain, admit)
            if admit is not None:
                admit()
            self._look_up(plain)
        except Exception as error:
            self._left(error)
            return False
        return True

    @staticmethod
    def _left(error: Exception) -> None:
        # The use case says what is wrong; what surprises it is an internal error there, too.
        if not isinstance(error, CodedError):
            log.debug("plain-request-left", error=type(error).__name__)

    @abstractmethod
    def _go(self, plain: Plain, admit: Callable[[], object] | None = None) -> bool:
        """Reserve the money, then send the job; False where that must wait for the ledger, and nothing was done.

        Raises:
            Exception: whatever the use case will say, too; nothing was done.
        """

    def _claim(self, plain: Plain) -> Claim:
        """Choose the worker, and say what is to be set aside for it.

        Raises:
            Exception: whatever the use case will say, too.
        """
        parts, request, listing, facts = self._parts, plain.request, plain.listing, plain.facts
        plain.live, plain.others = parts.placement.choose(listing, plain.units, request, facts.channel.payer, {})
        plain.terms = terms = self._price(listing, plain.units, plain.live)
        plain.at = now = parts.wall_clock()
        plain.deadline_at = deadline_at = request.received_at + parts.limits.timeout_seconds
        assert request.voucher is not None  # `begin` left the others
        return parts.authorizer.claim(
            request.voucher,
            price=terms.price,
            request_id=request.request_id or new_request_id(),
            ttl_seconds=max(0.0, deadline_at - now) + RESERVATION_GRACE_SECONDS,
            remember=request.request_id is not None,
            key=request.key,
        )

    def _send(self, plain: Plain, reservation: Reservation, admit: Callable[[], object] | None = None) -> None:
        """Send the job for which money is set aside.

        Raises:
            Exception: whatever the use case will say, too; the money is given back.
        """
        parts, request, facts, live, now = self._parts, plain.request, plain.facts, plain.live, plain.at
        client, worker = facts.channel.payer, live.offer.worker
        plain.reservation = reservation
        try:
            observe("reserve", max(0.0, parts.wall_clock() - now))
            plain.job = job = self._job(plain)
            plain.timeline = Timeline(
                request.received_at,
                request_id=reservation.request_id,
                channel_id=facts.channel_id,
                model=request.model_ref,
                worker=worker,
                attempts=1,
                queued_at=now,
                code="client-gone",
            )
            if admit is not None:
                admit()
            if parts.rates is not None:
                if request.key is not None:
                    # First: where it says no the use case counts the payer, and that once.
                    parts.rates.admit(By.KEY, request.key.key_hash)
                parts.rates.admit(By.PAYER, client)
            # One that hangs is not waited for until the deadline where another may be asked.
            patience = (
                parts.load.patience_seconds(worker, job.model_id, len(plain.blob), (plain.deadline_at - now) / 2)
                if plain.others
                else math.inf
            )
            self._dispatcher.submit(job, worker, partial(self._ended, plain), client=client, leave_at=now + patience)
        except BaseException:
            self._reservations.release_now(reservation)
            raise
        plain.beside = parts.load.begin(worker, client)
        plain.began = parts.attempts.begin(live)

    # --- named requests ------------------------------------------------------------------------------------------

    def _look_up(self, plain: Plain) -> None:
        """Find out whether a request id was answered before; what one turn of the loop asks is asked together."""
        if not self._named:
            asyncio.get_running_loop().call_soon(self._look_all_up)
        self._named.append(plain)

    def _look_all_up(self) -> None:
        named, self._named = self._named, []
        wanted = [(plain.facts.channel_id, plain.request.request_id or b"") for plain in named]
        self._unfinished.begin()
        self._ledger.answer_all(wanted, lambda found: self._looked_up(named, found))

    def _looked_up(self, named: list[Plain], found: Sequence[StoredAnswer | BaseException | None]) -> None:
        for plain, known in zip(named, found, strict=True):
            try:
                if known is None and self._go(plain):
                    continue
            except Exception as error:
                self._left(error)
            self._unfinished.spawn(self._by_use_case(plain.request, plain.done))
        self._unfinished.end()

    async def _by_use_case(self, request: InferenceRequest, done: Callable[[Answer | Exception], None]) -> None:
        try:
            answer = await self._service.infer(request)
        except Exception as error:
            tell(done, error)
        else:
            tell(done, answer)

    def no_room(
        self, listing: Listing, blank: InferenceRequest, voucher: ParsedVoucher, *, by_key: bool
    ) -> Overloaded | None:
        """Return the refusal that awaits a plain request, still without tensors, where its workers have enough waiting.

        None where it must be read first: what is full for others may not be what one with wishes wants. Asked before
        it is read: while more comes than can be served, most of the work must not go into refusing. `by_key` says that
        the voucher is the one behind an API key.
        """
        parts = self._parts
        if blank.limits_workers or not parts.placement.is_crowded(listing.model_id):
            return None
        try:
            payer = parts.authorizer.check(voucher, by_key=by_key).channel.payer
            parts.placement.choose(listing, 1, blank, payer, {})
        except Overloaded as error:
            return error
        except CodedError:
            return None  # the long way says what is wrong
        return None

    # --- steps -------------------------------------------------------------------------------------------------

    def _price(self, listing: Listing, units: int, live: LiveOffer) -> PriceTerms:
        key = (listing.model_id, listing.royalty_ppm, units, live.offer.unit_price)
        known = self._terms.get(key)
        if known is None:
            if len(self._terms) >= _TERMS_KEPT:
                self._terms.clear()
            known = self._terms[key] = self._parts.placement.terms(listing, units, live, metered=False)
        return known

    def _job(self, plain: Plain) -> Job:
        request, terms, reservation, blob = plain.request, plain.terms, plain.reservation, plain.blob
        return Job(
            reservation.request_id,
            # What came to nothing and is asked again by its id is a job of its own; see `Running` of the use case.
            "0" if request.request_id is None else secrets.token_hex(4),
            plain.facts.channel,
            reservation.seq,
            plain.listing.model_id,
            terms.units,
            terms.price,
            terms.worker_amount,
            terms.owner_amount,
            terms.royalty_ppm,
            terms.fee_ppm,
            reservation.cumulative,
            reservation.voucher_amount,
            reservation.voucher_signature,
            plain.deadline_at,
            content_hash(blob),
            blob,
            None,
            request.requested_outputs,
            self._reply_to,
        )

    def _ended(self, plain: Plain, outcome: Result | Exception) -> None:
        # Results of one message come one after the other: they are looked at together, in the next turn of the loop.
        # What this turn read goes out before, so that its worker is at it meanwhile.
        if not self._returned:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._look)
        self._returned.append((plain, outcome))

    def _look(self) -> None:
        returned, self._returned = self._returned, []
        parts = self._parts
        now, clock = parts.wall_clock(), parts.clock()
        usable: list[tuple[Plain, Result]] = []
        for plain, outcome in returned:
            result = outcome if isinstance(outcome, Result) else None
            spent = clock - plain.began
            parts.load.end(
                plain.live.offer.worker, None if result is None else spent, plain.beside, plain.facts.channel.payer
            )
            observe("dispatch", spent)
            if result is None or not result.ok or result.outputs is None:
                self._unfinished.spawn(self._astray(plain, outcome))
                continue
            plain.timeline.returned_at = now
            plain.timeline.serve(result.started_at, result.compute_ms / 1_000, result.signed_at)
            usable.append((plain, result))
        if not usable:
            return
        started = time.perf_counter()
        checks = check_results(
            [Returned(plain.job, result, plain.live.offer.worker, plain.facts.channel_id) for plain, result in usable],
            parts.domain,
            now=now,
        )
        observe("verify", (time.perf_counter() - started) / len(usable), len(usable))
        good: list[Plain] = []
        for (plain, result), checked in zip(usable, checks, strict=True):
            if isinstance(checked, Mismatch):
                self._unfinished.spawn(self._mismatch(plain, checked, result))
                continue
            parts.attempts.count(plain.live, plain.began, plain.job, None)
            if clock >= plain.reservation.expires_at:
                self._refuse(plain, DeadlineExceeded("The reservation ran out before the charge."))
                continue
            plain.checked = checked
            plain.timeline.charged_at = now
            good.append(plain)
        if good:
            self._charge(good)

    def _charge(self, batch: list[Plain]) -> None:
        parts = self._parts
        # Stored in the same transaction as the charges; they leave this process only once that is durable.
        signatures = self._countersign([plain.checked for plain in batch])
        expire_at = parts.wall_clock() + ANSWER_KEPT_SECONDS
        charges = []
        for plain, signature in zip(batch, signatures, strict=True):
            checked = plain.checked
            charges.append(
                Charge(
                    checked.receipt,
                    checked.digest,
                    plain.facts.channel,
                    plain.reservation.voucher_amount,
                    plain.reservation.voucher_signature,
                    checked.worker_signature,
                    signature,
                    plain.live.worker.operator,
                    plain.listing.owner,
                    None if plain.request.request_id is None else checked.blob,
                    expire_at,
                    plain.reservation.key,
                    plain.timeline.to_bytes(),
                )
            )
        self._unfinished.begin()
        started = parts.clock()
        self._ledger.record_all(charges, lambda outcomes: self._charged(batch, charges, outcomes, started))

    def _countersign(self, checked: Sequence[CheckedResult]) -> list[bytes]:
        """Return the gateway's signatures; a worker's tree is signed as it is if all its receipts are here and good."""
        key, domain = self._parts.key, self._parts.domain
        tree = checked[0].tree
        if tree is not None and len(checked) == tree.size and all(one.tree is tree for one in checked):
            root = sign_tree(key, tree, domain)
            return [root + one.worker_signature[SIGNATURE_BYTES:] for one in checked]
        return sign_receipts(key, [one.digest for one in checked], domain)

    def _charged(
        self,
        batch: list[Plain],
        charges: list[Charge],
        outcomes: Sequence[Recorded | BaseException],
        started: float,
    ) -> None:
        self._unfinished.end()
        parts = self._parts
        observe("charge", parts.clock() - started, len(batch))
        now = parts.wall_clock()
        answered: list[Plain] = []
        for plain, charge, outcome in zip(batch, charges, outcomes, strict=True):
            if isinstance(outcome, DuplicateCharge):
                # Answered meanwhile, by another process: the use case repeats that.
                self._reservations.release_now(plain.reservation)
                self._unfinished.spawn(self._by_use_case(plain.request, plain.done))
                continue
            if isinstance(outcome, BaseException):
                self._refuse(plain, outcome if isinstance(outcome, Exception) else RuntimeError(str(outcome)))
                continue
            checked, receipt = plain.checked, charge.receipt
            parts.papers.add(
                receipt.worker, receipt.request_id, charge.gateway_signature, charge.worker_payee, outcome.worker_earned
            )
            self._reservations.commit_now(plain.reservation, outcome.charged, outcome.key_spent)
            plain.timeline.code = "ok"
            parts.timelines.keep(plain.timeline, now)
            tell(
                plain.done,
                Answer(
                    checked.outputs,
                    checked.parameters,
                    receipt,
                    checked.worker_signature,
                    charge.gateway_signature,
                    receipt.price,
                    outcome.charged,
                    receipt.request_id,
                ),
            )
            answered.append(plain)
        if parts.audits is not None:
            for plain in answered:
                parts.audits.served(plain.checked, plain.live, plain.listing, plain.manifest, plain.blob, plain.request)

    # --- what goes wrong -----------------------------------------------------------------------------------------

    def _refuse(self, plain: Plain, error: Exception) -> None:
        """Give the money back and end the request."""
        self._reservations.release_now(plain.reservation)
        plain.timeline.code = error.code if isinstance(error, MarketError) else "internal-error"
        self._parts.timelines.keep(plain.timeline, self._parts.wall_clock())
        tell(plain.done, error)

    async def _astray(self, plain: Plain, outcome: Result | Exception) -> None:
        """Go on where a worker gave no answer: the use case asks another, or says why nobody would do better."""
        try:
            failure = outcome if isinstance(outcome, WorkerHangs | Overloaded) else failure_of(outcome)
        except MarketError as error:
            self._parts.attempts.count(plain.live, plain.began, plain.job, error, raised=True)
            self._refuse(plain, error)
            return
        except Exception as error:
            self._parts.attempts.count(plain.live, plain.began, plain.job, None, raised=True)
            self._refuse(plain, error)
            return
        await self._elsewhere(plain, failure)

    async def _mismatch(self, plain: Plain, mismatch: Mismatch, result: Result) -> None:
        try:
            failure = await self._parts.attempts.keep_evidence(plain.live.offer.worker, mismatch, result)
        except Exception as error:
            self._refuse(plain, error)
            return
        await self._elsewhere(plain, failure)

    async def _elsewhere(self, plain: Plain, failure: MarketError) -> None:
        self._parts.attempts.count(plain.live, plain.began, plain.job, failure)
        try:
            answer = await self._service.go_on(
                plain.request,
                plain.listing,
                plain.manifest,
                plain.facts,
                plain.job,
                plain.reservation,
                plain.timeline,
                {plain.live.offer.worker: failure},
            )
        except Exception as error:
            tell(plain.done, error)
        else:
            tell(plain.done, answer)
