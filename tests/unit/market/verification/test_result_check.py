import time
from dataclasses import replace

import numpy as np
import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.messages import Job, Result
from contracts.protocol.receipts import sign_receipts
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.verification.result_check import (
    CLOCK_TOLERANCE_SECONDS,
    CheckedResult,
    Mismatch,
    Returned,
    check_result,
    check_results,
    receipt_of,
)
from tests.support.money import CHANNEL, CHANNEL_ID, DOMAIN, SIGNER

WORKER = PrivateKey(sha256(b"w"))
NOW = time.time()
OUTPUTS = encode_tensors([Tensor.from_numpy("y", np.ones(3, np.float32))])
JOB = Job(
    request_id=b"\x01" * 32,
    attempt="0",
    channel=CHANNEL,
    seq=4,
    model_id=b"\x02" * 32,
    units=10,
    price=1_001,
    worker_amount=850,
    owner_amount=100,
    royalty_ppm=100_000,
    fee_ppm=50_000,
    cumulative=5_000,
    voucher_amount=9_000,
    voucher_signature=b"s" * 65,
    deadline_at=NOW + 10,
    input_hash=b"\x03" * 32,
    inputs=b"",
    inputs_ref=None,
    outputs=(),
    reply_to="r",
)


def signed(job: Job = JOB, **changes) -> Result:
    result = Result(
        job.request_id, "0", ok=True, outputs=OUTPUTS, output_hash=content_hash(OUTPUTS), served_at=int(NOW)
    )
    result = replace(result, **changes)
    receipt = receipt_of(job, result, WORKER.address, channel_id=CHANNEL_ID)
    return replace(result, signature=WORKER.sign_digest(receipt.digest(DOMAIN)))


def check(result: Result, job: Job = JOB):
    return check_result(job, result, WORKER.address, DOMAIN, channel_id=CHANNEL_ID, now=NOW)


def test_sound_result():
    checked = check(signed())
    assert isinstance(checked, CheckedResult)
    assert (checked.receipt.price, checked.receipt.cumulative) == (1_001, 5_000)
    assert checked.outputs[0].name == "y"


@pytest.mark.parametrize(
    "changed",
    [
        {"request_id": b"\x09" * 32},
        {"seq": 5},
        {"model_id": b"\x09" * 32},
        {"price": 1_002},
        {"worker_amount": 851},
        {"owner_amount": 101},
        {"cumulative": 5_001},
        {"input_hash": b"\x09" * 32},
    ],
)
def test_receipt_over_any_other_job_does_not_hold(changed):
    assert isinstance(check(signed(), replace(JOB, **changed)), Mismatch)


@pytest.mark.parametrize("shift", [-CLOCK_TOLERANCE_SECONDS - 2, CLOCK_TOLERANCE_SECONDS + 2])
def test_receipt_of_another_time_does_not_hold(shift):
    assert isinstance(check(signed(served_at=int(NOW) + shift)), Mismatch)


def test_undecodable_outputs_are_a_mismatch_though_signed():
    rubbish = b"rubbish"
    assert isinstance(check(signed(outputs=rubbish, output_hash=content_hash(rubbish))), Mismatch)


def test_another_signer():
    result = signed()
    receipt = receipt_of(JOB, result, WORKER.address, channel_id=CHANNEL_ID)
    assert isinstance(check(replace(result, signature=SIGNER.sign_digest(receipt.digest(DOMAIN)))), Mismatch)


METERED = replace(JOB, unit_price=100, units=10, price=1_000, worker_amount=850, owner_amount=100)


@pytest.mark.parametrize(("units", "price"), [(1, 100), (7, 700), (10, 1_000)])
def test_metered_job_costs_what_was_served(units, price):
    checked = check(signed(METERED, units=units), METERED)
    assert isinstance(checked, CheckedResult)
    receipt = checked.receipt
    assert (receipt.price, receipt.cumulative) == (price, 5_000 - (1_000 - price))
    assert (receipt.worker_amount, receipt.owner_amount) == (price * 85 // 100, price // 10)


@pytest.mark.parametrize("units", [0, 11, -1])
def test_metered_job_with_impossible_units(units):
    assert isinstance(check(signed(METERED, units=units), METERED), Mismatch)


def together(count: int) -> list[Returned]:
    """Return results that a worker signed as one batch."""
    jobs = [replace(JOB, request_id=bytes([n]) * 32, seq=n) for n in range(count)]
    results = [signed(job) for job in jobs]
    digests = [
        receipt_of(job, result, WORKER.address, channel_id=CHANNEL_ID).digest(DOMAIN)
        for job, result in zip(jobs, results, strict=True)
    ]
    signatures = sign_receipts(WORKER, digests, DOMAIN)
    return [
        Returned(job, replace(result, signature=signature), WORKER.address, CHANNEL_ID)
        for job, result, signature in zip(jobs, results, signatures, strict=True)
    ]


@pytest.mark.parametrize("count", [2, 3, 8, 13])
def test_what_was_signed_together_is_checked_together(count):
    checks = check_results(together(count), DOMAIN, now=NOW)
    assert all(isinstance(one, CheckedResult) for one in checks)
    assert len({id(one.tree) for one in checks}) == 1
    assert checks[0].tree.size == count


def test_a_part_of_a_batch_holds_by_itself_and_nobody_has_its_tree():
    checks = check_results(together(8)[:5], DOMAIN, now=NOW)
    assert [one.tree for one in checks] == [None] * 5


def test_one_that_does_not_hold_harms_no_neighbour_and_the_batch_is_not_taken_as_one():
    batch = together(6)
    other = encode_tensors([Tensor.from_numpy("y", np.zeros(3, np.float32))])
    forged = replace(batch[2].result, outputs=other, output_hash=content_hash(other))
    batch[2] = batch[2]._replace(result=forged)
    checks = check_results(batch, DOMAIN, now=NOW)
    assert [isinstance(one, CheckedResult) for one in checks] == [True, True, False, True, True, True]
    assert all(one.tree is None for one in checks if isinstance(one, CheckedResult))


def test_a_batch_signed_by_another_does_not_hold():
    batch = [one._replace(worker=b"\x99" * 20) for one in together(4)]
    assert all(isinstance(one, Mismatch) for one in check_results(batch, DOMAIN, now=NOW))
