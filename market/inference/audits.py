"""Audits what workers answered: asks another operator's worker the same, and a third one where the two differ.

An audit is an ordinary request: the same inputs by the same lane in the same form, paid from the gateway's own channel.
It runs beside the clients' requests, where a worker has room to spare, and concerns none of them. Who is convicted, two
others agreeing against it, is sold no more until it is pardoned. A worker that gives no answer convicts nobody. While
the gateway's own services are away audits wait; those that wait in a gateway that is killed are not made. Started by
`market.bootstrap`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import structlog

from contracts.futures import rest
from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import hex0x
from contracts.protocol.money import both
from contracts.protocol.pricing import price_up
from contracts.protocol.tensors import Tensor, decode_tensors
from market.errors import CapacityError, HouseShort, MarketError, OperationError, PaymentError
from market.inference.audit_model import Audit, AuditBook, Counted, Statement
from market.inference.audit_queue import AuditQueue, Chosen
from market.inference.model import Answer, InferenceRequest
from market.inference.placement import Placement
from market.payments.model import ParsedVoucher
from market.registry.offers import LiveOffer, LiveOffers
from market.telemetry import AUDITS, CONVICTED_WORKERS
from market.verification.audit_choice import SECRET_BYTES, commitment
from market.verification.audit_verdict import Judgement, Outcome, judge
from market.verification.output_diff import Difference, compare, size_of, tolerance_between

MOST_AT_ONCE = 8
MOST_TRIED = 3
TURN_SECONDS = 0.05
# After an audit could not be made for no fault of the auditor's.
REST_SECONDS = 1.0
# A worker without room is looked for again so often, and the third judge so long.
LOOKED_AT_IN_A_TURN = 16
THIRD_WAITS_SECONDS = 30.0
BOOK_SECONDS = 2.0
SECRET_SECONDS = 3_600.0
_COMPARED_APART_BYTES = 1 << 18
_SIZES_KEPT = 32
_OUTPUTS_KEPT = 4_096

Ask = Callable[[InferenceRequest, Chosen], Awaitable[Answer]]
Answered = tuple[list[Tensor], Mapping[str, Any]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Given:
    """One worker's answer to the audited request."""

    statement: Statement
    outputs: Answered
    provider: str
    size: int


class Auditor:
    """The audits of one gateway process. `referees` are workers that the gateway trusts to be the third."""

    def __init__(
        self,
        queue: AuditQueue,
        *,
        book: AuditBook,
        offers: LiveOffers,
        placement: Placement,
        ask: Ask,
        voucher: Callable[[], ParsedVoucher],
        referees: frozenset[bytes],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._book = book
        self._offers = offers
        self._placement = placement
        self._ask_way = ask
        self._voucher = voucher
        self._referees = referees
        self._clock = clock
        self._wall_clock = wall_clock
        self._running: set[asyncio.Task[None]] = set()
        self._convicted: frozenset[bytes] = frozenset()
        self._read_at = self._changed_at = -SECRET_SECONDS
        self._rests_until = 0.0
        self._unpaid = False
        self._sizes: dict[tuple[bytes, str], deque[float]] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                try:
                    await self.keep_up()
                    self.begin()
                except CodedError as error:
                    log.warning("audits-interrupted", code=error.code)
                except Exception:  # a surprise must not end the audits of all that follows
                    log.exception("audits-interrupted")
                await self._rest()
        finally:
            for task in self._running:
                task.cancel()

    async def _rest(self) -> None:
        """Wait for the next turn: a moment while requests wait, else until one does or the book is to be read."""
        if self._queue.waiting:
            await asyncio.sleep(TURN_SECONDS)
        else:
            await rest(self._queue.stirred, BOOK_SECONDS)

    async def keep_up(self) -> None:
        """Change the secret in time, write counts down and read who is convicted.

        Raises:
            DatabaseUnreachable: the book does not answer.
        """
        now = self._clock()
        if now - self._changed_at >= SECRET_SECONDS:
            # Nothing is chosen by a secret that is not written down.
            self._queue.use(None)
            secret = secrets.token_bytes(SECRET_BYTES)
            await self._book.begin_secret(secret, commitment(secret), self._wall_clock())
            self._queue.use(secret)
            self._changed_at = now
        if now - self._read_at >= BOOK_SECONDS:
            self._read_at = now
            await self._write_counts()
            workers = await self._book.workers()
            self._queue.know(workers)
            self._bar(frozenset(one.worker for one in workers.values() if one.convicted_at is not None))

    async def _write_counts(self) -> None:
        counted, self._queue.counted = self._queue.counted, Counted()
        if not counted.answered and not counted.agreed:
            return
        try:
            await self._book.count(counted)
        except BaseException:
            self._queue.counted.add(counted)
            raise

    def _bar(self, convicted: frozenset[bytes]) -> None:
        self._convicted = convicted
        CONVICTED_WORKERS.set(len(convicted))
        self._offers.bar(convicted)

    def begin(self) -> None:
        """Begin audits of what waits, as many as there is room for."""
        if self._clock() < self._rests_until:
            return
        for _ in range(min(LOOKED_AT_IN_A_TURN, len(self._queue.waiting))):
            if len(self._running) >= MOST_AT_ONCE:
                return
            chosen = self._queue.take()
            if chosen is None:
                return
            operator = chosen.statement.operator
            others = self._others(chosen)
            if not others:
                AUDITS.labels("no-auditor").inc()
                continue
            if not any(self._is_afforded(chosen, live) for live in others):
                self._is_unpaid("house-short", "Those who could audit ask more than fees leave.")
                AUDITS.labels("unpaid").inc()
                continue
            auditor = self._pick(chosen, {operator}, chosen.tried)
            if auditor is None:
                self._queue.put_back(chosen)
                continue
            task = asyncio.get_running_loop().create_task(self._audit(chosen, auditor))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    # --- one audit -----------------------------------------------------------------------------------------------

    def _others(self, chosen: Chosen) -> list[LiveOffer]:
        operator = chosen.statement.operator
        return [
            live
            for live in self._offers.offers(chosen.listing.model_id)
            if live.worker.operator != operator and live.offer.worker not in chosen.tried
        ]

    def _is_afforded(self, chosen: Chosen, live: LiveOffer) -> bool:
        price = price_up(live.offer.unit_price, chosen.units, units_per_price=chosen.manifest.unit.per_price)
        return price <= self._queue.purse.holds(chosen.listing.model_id)

    def _is_unpaid(self, code: str, detail: str) -> None:
        if not self._unpaid:
            self._unpaid = True
            log.warning("audits-unpaid", code=code, detail=detail)

    def _pick(self, chosen: Chosen, operators: set[bytes], tried: set[bytes]) -> LiveOffer | None:
        """Draw a worker with room to spare, of none of these operators, that asks no more than audits may cost."""
        spare = self._placement.spare(
            chosen.listing.model_id,
            lambda live: (
                live.worker.operator in operators or live.offer.worker in tried or not self._is_afforded(chosen, live)
            ),
        )
        return secrets.choice(spare) if spare else None

    async def _audit(self, chosen: Chosen, auditor: LiveOffer) -> None:
        outcome = "failed"
        try:
            second = await self._ask(chosen, auditor)
            if second is None:
                chosen.tried.add(auditor.offer.worker)
                if len(chosen.tried) < MOST_TRIED:
                    self._queue.put_back(chosen)
                    return
            else:
                outcome = await self._judge(chosen, second)
        except (HouseShort, PaymentError) as error:
            outcome = "unpaid"
            self._is_unpaid(error.code, error.detail)
        except (CapacityError, OperationError) as error:
            # Nobody strayed or failed: it is audited anew once that is over.
            log.info("audit-waits", code=error.code)
            self._rests_until = self._clock() + REST_SECONDS
            self._queue.put_back(chosen)
            return
        except CodedError as error:
            log.warning("audit-failed", code=error.code, detail=error.detail)
        except Exception:  # one strange answer must not end the audits of all others
            log.exception("audit-failed")
        AUDITS.labels(outcome).inc()

    async def _ask(self, chosen: Chosen, live: LiveOffer) -> _Given | None:
        """Ask a worker what the client asked; None if it gave no answer.

        Raises:
            HouseShort | PaymentError: the gateway's own channel does not pay for it, or it costs more than audits may.
            CapacityError | OperationError: it was not asked, or the gateway's own services failed.
        """
        tensors, parameters = decode_tensors(chosen.inputs)
        model_id, purse = chosen.listing.model_id, self._queue.purse
        price = price_up(live.offer.unit_price, chosen.units, units_per_price=chosen.manifest.unit.per_price)
        if price > purse.holds(model_id):
            raise HouseShort(f"An audit asks {both(price)}; fees leave {both(purse.holds(model_id))} for audits.")
        of_first = purse.take(model_id, price)
        left = price
        announcement = self._offers.announcement(live.offer.worker)
        request = InferenceRequest(
            model_ref=hex0x(model_id),
            tensors=tuple(tensors),
            voucher=self._voucher(),
            parameters=parameters,
            requested_outputs=chosen.asked_outputs,
            max_price=price,
            worker=live.offer.worker,
            received_at=self._wall_clock(),
            audited=False,
        )
        try:
            answer = await self._ask_way(request, chosen)
            left -= answer.receipt.worker_amount + answer.receipt.owner_amount
        except (PaymentError, CapacityError, OperationError):
            raise
        except MarketError as error:
            log.info("auditor-gave-no-answer", worker=live.offer.worker.hex(), code=error.code)
            return None
        finally:
            purse.give_back(model_id, left, of_first)
        self._unpaid = False
        return _Given(
            statement=Statement(live.worker.operator, answer.receipt, answer.worker_signature),
            outputs=(list(answer.tensors), answer.parameters),
            provider="" if announcement is None else announcement.provider,
            size=sum(len(one.data) for one in answer.tensors),
        )

    async def _judge(self, chosen: Chosen, second: _Given) -> Outcome:
        outputs = decode_tensors(chosen.outputs)
        given = [_Given(chosen.statement, outputs, chosen.provider, len(chosen.outputs)), second]
        usual = self._usual(chosen.listing.model_id, second)
        found = await _judged(chosen, given, usual)
        if found.outcome is Outcome.DISPUTED:
            third = await self._third(chosen, second)
            if third is not None:
                given.append(third)
                found = await _judged(chosen, given, usual)
        if found.outcome is Outcome.AGREED:
            agreed = self._queue.counted.agreed
            worker = chosen.statement.worker
            agreed[worker] = agreed.get(worker, 0) + 1
        else:
            await self._keep(chosen, given, found)
        return found.outcome

    def _usual(self, model_id: bytes, given: _Given) -> dict[str, float]:
        """Return how large each output usually is, by the middle of what auditors answered of late."""
        usual = {}
        for tensor in given.outputs[0]:
            key = (model_id, tensor.name)
            if key not in self._sizes and len(self._sizes) >= _OUTPUTS_KEPT:
                self._sizes.clear()
            sizes = self._sizes.setdefault(key, deque(maxlen=_SIZES_KEPT))
            sizes.append(size_of(tensor))
            usual[tensor.name] = median(sizes)
        return usual

    async def _third(self, chosen: Chosen, second: _Given) -> _Given | None:
        """Ask a referee, or else a worker of a third operator; waits a while for one with room; None: there is none."""
        parties = {chosen.statement.worker, second.statement.worker}
        operators = {chosen.statement.operator, second.statement.operator}
        tried: set[bytes] = set(parties)
        until = self._clock() + THIRD_WAITS_SECONDS
        while self._clock() < until and len(tried) < len(parties) + MOST_TRIED:
            offers = self._offers.offers(chosen.listing.model_id)
            strangers = {one.offer.worker for one in offers} - self._referees
            known = [one for one in offers if one.offer.worker not in tried]
            if not any(one.worker.operator not in operators or one.offer.worker in self._referees for one in known):
                return None
            live = self._pick(chosen, set(), tried | strangers) or self._pick(chosen, operators, tried)
            if live is None:
                await asyncio.sleep(TURN_SECONDS)
                continue
            tried.add(live.offer.worker)
            try:
                third = await self._ask(chosen, live)
            except CapacityError:
                tried.discard(live.offer.worker)
                await asyncio.sleep(TURN_SECONDS)
                continue
            if third is not None:
                return third
        return None

    async def _keep(self, chosen: Chosen, given: list[_Given], found: Judgement) -> None:
        against = None if found.against is None else given[found.against].statement.worker
        audit = Audit(
            at=self._wall_clock(),
            outcome=found.outcome,
            statements=tuple(one.statement for one in given),
            against=against,
            error=found.difference.error,
            tolerance=chosen.tolerance,
            detail=found.difference.detail,
            share=chosen.share,
            commitment=chosen.commitment,
        )
        number, convicted = await self._book.keep(audit)
        log.warning(
            "workers-answer-differently",
            audit=number,
            outcome=found.outcome.value,
            model=chosen.listing.name,
            detail=audit.detail,
            workers=[one.statement.worker.hex() for one in given],
        )
        if convicted and against is not None:
            log.warning("worker-convicted", worker=against.hex(), audit=number, model=chosen.listing.name)
            self._bar(self._convicted | {against})


async def _judged(chosen: Chosen, given: list[_Given], usual: Mapping[str, float]) -> Judgement:
    def apart(one: _Given, other: _Given) -> Difference:
        limit = tolerance_between(chosen.manifest, chosen.tolerance, (one.provider, other.provider))
        return compare(one.outputs, other.outputs, limit, usual)

    if sum(one.size for one in given) > _COMPARED_APART_BYTES:
        return await asyncio.to_thread(judge, given, apart)
    return judge(given, apart)
