"""From an answer to a result: outputs encoded, the receipt over the hashes of what came in and went out, signed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from typing import TypeAlias, TypeVar

import structlog

from contracts.protocol.errors import CodedError, Retry, TensorError
from contracts.protocol.messages import Job, Result
from contracts.protocol.metering import served_terms
from contracts.protocol.receipts import sign_receipts
from contracts.protocol.sealed import TENSOR
from contracts.protocol.sealing import seal_answer
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from contracts.protocol.typed_data import Domain, Receipt
from contracts.protocol.values import value_class
from workers import telemetry
from workers.admission import Admitted
from workers.errors import ExecutionFailed
from workers.models.pipelines.base import Answer
from workers.papers import SignedWork

log = structlog.get_logger(__name__)


ANSWERED_BYTES = 32 << 20
_KEY_BYTES = 300
CodedErrorT = TypeVar("CodedErrorT", bound=CodedError)
_Asked: TypeAlias = tuple[bytes, bytes, bytes, tuple[str, ...]]


@value_class(frozen=True, slots=True)
class Unsigned:
    """A served job before its receipt is signed; `seconds` is what its batch took since `started_at`, unix seconds."""

    job: Job
    blob: bytes
    receipt: Receipt
    units: int
    seconds: float
    started_at: float = 0.0


def receipt_for(
    admitted: Admitted,
    outputs: bytes,
    *,
    key: PrivateKey,
    units: int = 0,
    clock: Callable[[], float] = time.time,
) -> Receipt:
    """Return the receipt of a served job, to be signed with others; `outputs` is the canonical blob.

    `units` is what was served, at most the job's, where the job's price is a ceiling.
    """
    job = admitted.job
    terms = served_terms(job, units)
    return Receipt(
        request_id=job.request_id,
        channel_id=admitted.channel_id,
        payer=job.channel.payer,
        gateway=job.channel.gateway,
        seq=job.seq,
        worker=key.address,
        model_id=job.model_id,
        input_hash=job.input_hash,
        output_hash=content_hash(outputs),
        price=terms.price,
        worker_amount=terms.worker_amount,
        owner_amount=terms.owner_amount,
        cumulative=terms.cumulative,
        served_at=int(clock()),
    )


class Answered:
    """The newest answers, by what was asked: who asks again by the same request id is given the same one.

    Sampling, and even the company in a batch, makes another answer of the same inputs, and a second one must not be
    signed. Used by several threads.
    """

    def __init__(self, most_bytes: int = ANSWERED_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[_Asked, tuple[bytes, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, job: Job, blob: bytes, units: int) -> None:
        """Remember an answer, its canonical blob and what it took; a large one is not worth the room."""
        if len(blob) > self._most // 16:
            return
        with self._lock:
            key = _asked(job)
            if key not in self._kept:
                self._kept[key] = blob, units
                self._bytes += len(blob) + _KEY_BYTES
            while self._bytes > self._most:
                _, (gone, _) = self._kept.popitem(last=False)
                self._bytes -= len(gone) + _KEY_BYTES

    def get(self, job: Job) -> tuple[bytes, int] | None:
        """Return the answer that was given, None if it is not known."""
        return self._kept.get(_asked(job)) if self._kept else None


class Signer:
    """Turns answers into results with a signed receipt."""

    def __init__(self, *, key: PrivateKey, domain: Domain) -> None:
        self._key = key
        self._domain = domain
        self._answered = Answered()

    def again(self, admitted: Admitted) -> Unsigned | None:
        """Return the answer to a request that was answered before, under a receipt of its own."""
        known = self._answered.get(admitted.job)
        if known is None:
            return None
        blob, units = known
        receipt = receipt_for(admitted, blob, key=self._key, units=units)
        return Unsigned(admitted.job, blob, receipt, units, 0.0, time.time())

    def seal(self, admitted: Admitted, answer: Answer, seconds: float) -> Unsigned | ExecutionFailed:
        """Encode the outputs of a served job and write its receipt, to be signed with others."""
        job = admitted.job
        wanted = job.outputs or tuple(answer.outputs)
        try:
            blob = encode_tensors([Tensor.from_numpy(name, answer.outputs[name]) for name in wanted])
            if admitted.answer_key:
                blob = encode_tensors([seal_answer(admitted.answer_key, job.model_id, blob)])
        except TensorError as error:
            return ExecutionFailed(error.detail, field=error.field)
        # A tokenizer may make more of a text than its bytes let expect; that is not the payer's business.
        units = min(max(answer.units, 1), admitted.ceiling) if job.unit_price else 0
        receipt = receipt_for(admitted, blob, key=self._key, units=units)
        self._answered.put(job, blob, units)
        return Unsigned(job, blob, receipt, units, seconds, time.time() - seconds)

    def sign(self, unsigned: Sequence[Unsigned]) -> list[tuple[Result, SignedWork]]:
        """Return the results of served jobs and what goes into the journal, in order; one signature for all."""
        digests = [one.receipt.digest(self._domain) for one in unsigned]
        signed = []
        signatures = sign_receipts(self._key, digests, self._domain)
        signed_at = time.time()
        for one, signature in zip(unsigned, signatures, strict=True):
            job, receipt = one.job, one.receipt
            result = Result(
                request_id=job.request_id,
                attempt=job.attempt,
                ok=True,
                outputs=one.blob,
                output_hash=receipt.output_hash,
                served_at=receipt.served_at,
                signature=signature,
                compute_ms=one.seconds * 1_000,
                units=one.units,
                started_at=one.started_at,
                signed_at=signed_at,
            )
            telemetry.tell_trace(job.request_id, one.started_at, one.seconds, signed_at)
            work = SignedWork(receipt, signature, job.channel, job.voucher_amount, job.voucher_signature)
            signed.append((result, work))
        telemetry.EARNED.inc(sum(one.receipt.worker_amount for one in unsigned))
        return signed


def _asked(job: Job) -> _Asked:
    return job.request_id, job.model_id, job.input_hash, tuple(job.outputs)


def veiled(admitted: Admitted, error: CodedErrorT) -> CodedErrorT:
    """Return a failure as the gateway may hear of it: of sealed inputs nothing but its code."""
    if not admitted.answer_key:
        return error
    log.info("sealed-job-failed", request=admitted.job.request_id.hex(), code=error.code)
    bare = copy(error)
    bare.detail, bare.field = "what is wrong with sealed inputs is not told in the open.", TENSOR
    return bare


def failed(job: Job, error: CodedError) -> Result:
    """Return a failure as data."""
    log.info("job-failed", request=job.request_id.hex(), code=error.code, detail=error.detail)
    return Result(
        request_id=job.request_id,
        attempt=job.attempt,
        ok=False,
        code=error.code,
        retry=Retry(error.retry),
        detail=error.detail,
        field=error.field,
    )
