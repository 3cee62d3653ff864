"""Checks one result: the outputs are what the worker hashed, and the hash is what it signed.

Pure. Decides whether a receipt may be charged; what does not hold is named, so that it can be kept as evidence. Must
never accept a receipt whose signer is not the worker that was asked. Called by `market.inference.service`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from contracts.protocol.commitments import MerkleTree
from contracts.protocol.errors import ProtocolError, SignatureError
from contracts.protocol.messages import Job, Result
from contracts.protocol.money import split_price
from contracts.protocol.pricing import price_up
from contracts.protocol.receipts import is_receipt_signed_by, tree_signed_by
from contracts.protocol.signing import SIGNATURE_BYTES
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors
from contracts.protocol.typed_data import Domain, Receipt
from contracts.protocol.values import value_class

# Clocks of workers and gateway may differ by this much.
CLOCK_TOLERANCE_SECONDS = 300


@value_class(frozen=True, slots=True)
class CheckedResult:
    """A result that holds: the receipt to charge, its digest and signature, the outputs encoded and decoded.

    `tree` is that of all the receipts that were checked together with it under one signature.
    """

    receipt: Receipt
    digest: bytes
    worker_signature: bytes
    blob: bytes
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    tree: MerkleTree | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A result that does not hold: what is wrong, and the receipt that its signature was held against."""

    reason: str
    receipt: Receipt


class Returned(NamedTuple):
    """A successful result, the job it answers, the worker that was asked, and the channel that pays."""

    job: Job
    result: Result
    worker: bytes
    channel_id: bytes


def check_result(
    job: Job, result: Result, worker: bytes, domain: Domain, *, channel_id: bytes, now: float
) -> CheckedResult | Mismatch:
    """Hold a successful result against the job it answers; `now` is unix seconds."""
    (checked,) = check_results([Returned(job, result, worker, channel_id)], domain, now=now)
    return checked


def check_results(returned: Sequence[Returned], domain: Domain, *, now: float) -> list[CheckedResult | Mismatch]:
    """Hold successful results against their jobs; those that a worker signed together are checked together."""
    receipts = [receipt_of(job, result, worker, channel_id=channel) for job, result, worker, channel in returned]
    digests = [receipt.digest(domain) for receipt in receipts]
    batches: dict[tuple[bytes, bytes], list[int]] = {}
    for index, one in enumerate(returned):
        if len(one.result.signature) > SIGNATURE_BYTES:
            batches.setdefault((one.worker, one.result.signature[:SIGNATURE_BYTES]), []).append(index)
    trees: dict[int, MerkleTree] = {}
    for (worker, _), members in batches.items():
        if len(members) > 1:
            signatures = [returned[index].result.signature for index in members]
            try:
                tree = tree_signed_by([digests[index] for index in members], signatures, worker, domain)
            except SignatureError:
                continue  # each by itself, then: one of them is at fault, or the others come later
            trees.update(dict.fromkeys(members, tree))
    return [
        _check(one, receipts[index], digests[index], trees.get(index), domain, now)
        for index, one in enumerate(returned)
    ]


def _check(
    one: Returned, receipt: Receipt, digest: bytes, tree: MerkleTree | None, domain: Domain, now: float
) -> CheckedResult | Mismatch:
    job, result, worker, _ = one
    if job.unit_price and not 1 <= result.units <= job.units:
        return Mismatch(f"{result.units} units served where 1 to {job.units} were asked.", receipt)
    if len(result.output_hash) != 32 or result.outputs is None or content_hash(result.outputs) != result.output_hash:
        return Mismatch("The outputs are not those of the output hash.", receipt)
    if abs(result.served_at - now) > CLOCK_TOLERANCE_SECONDS:
        return Mismatch(f"The receipt's time is {result.served_at - now:.0f} s off.", receipt)
    if tree is None and not is_receipt_signed_by(digest, result.signature, worker, domain):
        return Mismatch("The receipt is not signed by the worker that was asked.", receipt)
    try:
        outputs, parameters = decode_tensors(result.outputs)
    except ProtocolError as error:
        return Mismatch(f"The outputs cannot be decoded: {error.detail}", receipt)
    return CheckedResult(receipt, digest, result.signature, result.outputs, tuple(outputs), parameters, tree)


def receipt_of(job: Job, result: Result, worker: bytes, *, channel_id: bytes) -> Receipt:
    """Return the receipt that a worker must have signed for this result.

    Where the job's price is a ceiling (`unit_price` above 0) the price is that of the units served.
    """
    price, worker_amount, owner_amount = job.price, job.worker_amount, job.owner_amount
    if job.unit_price and 1 <= result.units < job.units:
        price = price_up(job.unit_price, result.units, units_per_price=job.units_per_price)
        split = split_price(price, job.royalty_ppm, job.fee_ppm)
        worker_amount, owner_amount = split.worker_amount, split.owner_amount
    return Receipt(
        request_id=job.request_id,
        channel_id=channel_id,
        payer=job.channel.payer,
        gateway=job.channel.gateway,
        seq=job.seq,
        worker=worker,
        model_id=job.model_id,
        input_hash=job.input_hash,
        output_hash=result.output_hash if len(result.output_hash) == 32 else bytes(32),
        price=price,
        worker_amount=worker_amount,
        owner_amount=owner_amount,
        cumulative=job.cumulative - (job.price - price),
        served_at=max(0, result.served_at),
    )
