"""One attempt of a request at one worker: send the job, wait as long as is wise, check the answer, judge the worker.

Decides what counts as the worker's fault, which feeds its circuit and its reliability, and whether another worker may
do better. Charges nothing. An answer that its signature does not cover is kept as evidence and never returned. Called
by the use case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from contracts.protocol.errors import Retry
from contracts.protocol.messages import Job, Result
from contracts.protocol.typed_data import Domain
from market.errors import (
    DeadlineExceeded,
    MarketError,
    OutOfMemory,
    OutOfTime,
    Overloaded,
    ReceiptMismatch,
    RequestError,
    WorkerFailed,
    WorkerFault,
    WorkerHangs,
)
from market.inference.activity import Activity
from market.inference.breaker import Breakers
from market.inference.load import WorkerLoad
from market.inference.ports import Dispatcher, WorkerGone
from market.inference.streaming import TokenFeed
from market.inference.timeline import Timeline
from market.payments.model import Evidence
from market.payments.ports import Ledger
from market.registry.offers import LiveOffer
from market.telemetry import stage
from market.verification.result_check import CheckedResult, Mismatch, check_result

# A worker without room for one more generation; says nothing against it.
CROWDED_OUT = "crowded-out"
# A worker that signed another answer to the request before, and must not sign a second one.
ANSWERED_OTHERWISE = "answered-otherwise"
JOB_TOO_LATE = "job-too-late"
_REQUEST_ERRORS = {cls.code: cls for cls in RequestError.__subclasses__()}

log = structlog.get_logger(__name__)


class Attempts:
    """The attempts of one gateway process, and what they teach of its workers."""

    def __init__(
        self,
        *,
        domain: Domain,
        dispatcher: Dispatcher,
        ledger: Ledger,
        load: WorkerLoad,
        breakers: Breakers,
        activity: Activity,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._domain = domain
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._load = load
        self._breakers = breakers
        self._activity = activity
        self._wall_clock = wall_clock
        self._clock = clock

    async def run(
        self,
        job: Job,
        live: LiveOffer,
        *,
        channel_id: bytes,
        client: bytes,
        generates: bool,
        feed: TokenFeed | None,
        others: bool,
        timeline: Timeline,
    ) -> CheckedResult | MarketError:
        """Ask one worker for a client. A returned error means another may do better; one that means no hope is raised.

        With `others` at hand a worker is not waited for until the deadline: one that hangs still gives signs of life.
        """
        asked = self._ask(job, live, channel_id, client, generates, feed, others, timeline)
        return await self._watched(asked, live, job)

    async def _watched(
        self, attempt: Awaitable[CheckedResult | MarketError], live: LiveOffer, job: Job
    ) -> CheckedResult | MarketError:
        """Await an attempt and count it for its worker; a request that the client got wrong does not count."""
        began = self.begin(live)
        try:
            outcome = await attempt
        except MarketError as error:
            self.count(live, began, job, error, raised=True)
            raise
        except BaseException:
            self._judge(live, began, fault=None)
            raise
        self.count(live, began, job, outcome if isinstance(outcome, MarketError) else None)
        return outcome

    def begin(self, live: LiveOffer) -> float:
        """Note that an attempt begins; returns when, for `count`."""
        return self._breakers.begun(live.offer.worker, live.offer.model_id, live.start)

    def count(
        self, live: LiveOffer, began: float, job: Job, failure: MarketError | None, *, raised: bool = False
    ) -> None:
        """Count an attempt that ended for its worker; `raised`: the failure gives no hope of another worker.

        What was too large for the worker speaks neither for nor against it, or anybody could have its circuit opened
        for nothing.
        """
        worker, model_id, size = live.offer.worker, live.offer.model_id, _size(job)
        if failure is None and not raised:
            self._load.answered(worker, model_id, size)
        elif failure is not None and self._was_too_large(worker, model_id, size, failure):
            self._judge(live, began, fault=None)
            return
        if raised:
            if failure is not None and not isinstance(failure, RequestError):
                self._activity.record(worker, model_id, self._clock() - began, failure.code)
            # An answer that says that nobody would do better may be the inputs' fault: it judges nobody.
            late = isinstance(failure, DeadlineExceeded) and not failure.blameless
            self._judge(live, began, fault=True if late else None)
            return
        self._activity.record(worker, model_id, self._clock() - began, None if failure is None else failure.code)
        self._judge(live, began, fault=_is_fault(failure), grave=isinstance(failure, ReceiptMismatch))

    def _was_too_large(self, worker: bytes, model_id: bytes, size: int, failure: MarketError) -> bool:
        """Tell whether a worker that answers this model failed by the inputs' size: it said so, or never had larger."""
        largest = self._load.largest(worker, model_id)
        if largest == 0.0 or not isinstance(failure, WorkerFault):
            return False
        return failure.too_large or (isinstance(failure, DeadlineExceeded | WorkerHangs) and size > largest)

    def _judge(self, live: LiveOffer, began: float, *, fault: bool | None, grave: bool = False) -> None:
        worker, model_id = live.offer.worker, live.offer.model_id
        if self._breakers.ended(worker, model_id, began=began, start=live.start, fault=fault, grave=grave):
            log.warning("circuit-opened", worker=worker.hex(), model=model_id.hex())
        if fault is not None:
            self._load.judge(worker, fault=fault)

    async def _ask(
        self,
        job: Job,
        live: LiveOffer,
        channel_id: bytes,
        client: bytes,
        generates: bool,
        feed: TokenFeed | None,
        others: bool,
        timeline: Timeline,
    ) -> CheckedResult | MarketError:
        worker = live.offer.worker
        beside = self._load.begin(worker, client)
        started = self._clock()
        seconds = None
        try:
            with stage("dispatch"):
                if generates:
                    on_partial = None if feed is None else feed.begin(job)
                    result = await self._dispatcher.run(job, worker, on_partial, long=True, client=client)
                elif others:
                    left = (job.deadline_at - self._wall_clock()) / 2
                    async with asyncio.timeout(self._load.patience_seconds(worker, job.model_id, _size(job), left)):
                        result = await self._dispatcher.run(job, worker, client=client)
                else:
                    result = await self._dispatcher.run(job, worker, client=client)
            seconds = self._clock() - started
        except WorkerGone as gone:
            return failure_of(gone)
        except TimeoutError:
            return WorkerHangs()
        except Overloaded as error:
            return error
        finally:
            self._load.end(worker, seconds, beside, client)
        timeline.returned_at = self._wall_clock()
        if not result.ok or result.outputs is None:
            return failure_of(result)
        timeline.serve(result.started_at, result.compute_ms / 1_000, result.signed_at)
        with stage("verify"):
            checked = check_result(job, result, worker, self._domain, channel_id=channel_id, now=self._wall_clock())
        if isinstance(checked, Mismatch):
            return await self.keep_evidence(worker, checked, result)
        contradiction = None if feed is None else feed.contradiction(checked.outputs)
        if contradiction is not None:
            return await self.keep_evidence(worker, Mismatch(contradiction, checked.receipt), result)
        return checked

    async def keep_evidence(self, worker: bytes, mismatch: Mismatch, result: Result) -> ReceiptMismatch:
        """Keep what a worker signed that does not hold; returns the failure it is."""
        log.warning("receipt-mismatch", worker=worker.hex(), reason=mismatch.reason)
        evidence = Evidence(
            kind="receipt-mismatch",
            worker=worker,
            receipt=mismatch.receipt,
            signature=result.signature,
            detail=mismatch.reason,
            recorded_at=self._wall_clock(),
        )
        await self._ledger.keep_evidence(evidence)
        return ReceiptMismatch(mismatch.reason)


def _size(job: Job) -> int:
    """Return of how many bytes a job's inputs are; here they are always with it."""
    return len(job.inputs or b"")


def _is_fault(failure: MarketError | None) -> bool | None:
    """Tell whether an attempt's outcome speaks against its worker; None if it says nothing."""
    if isinstance(failure, Overloaded) or (isinstance(failure, WorkerFault) and failure.blameless):
        return None
    return failure is not None


def failure_of(outcome: Result | Exception) -> MarketError:
    """Return the failure of an attempt without a usable result, if another worker may do better.

    Raises:
        RequestError: the request itself is at fault, by the code of the market's own errors.
        WorkerFailed: the worker says that nobody else would do better.
        MarketError: the failure of a lane that gives no hope.
    """
    if isinstance(outcome, WorkerGone):
        return WorkerFailed("The worker stopped giving signs of life.")
    if isinstance(outcome, Exception):
        raise outcome
    return WorkerFailed("The outputs got lost on their way.") if outcome.ok else _worker_error(outcome)


def _worker_error(result: Result) -> MarketError:
    if result.code == CROWDED_OUT:
        return Overloaded(result.detail)
    if result.code == OutOfTime.code:
        return OutOfTime(f"The worker is not fast enough: {result.detail}")
    if result.code == OutOfMemory.code:
        return OutOfMemory(f"The worker's memory does not suffice: {result.detail}")
    if result.code == JOB_TOO_LATE:
        late = DeadlineExceeded(result.detail)
        late.blameless = True
        raise late
    failure = WorkerFailed(f"{result.code or 'no code'}: {result.detail}", field=result.field)
    failure.blameless = result.code == ANSWERED_OTHERWISE
    if result.retry in (Retry.OTHER_WORKER, Retry.LATER):
        return failure
    kind = _REQUEST_ERRORS.get(result.code)
    raise failure if kind is None else kind(result.detail, field=result.field)
