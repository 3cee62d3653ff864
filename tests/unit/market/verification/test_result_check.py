import time
from dataclasses import replace

import numpy as np
import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.messages import Job, Result
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.verification.result_check import CLOCK_TOLERANCE_SECONDS, CheckedResult, Mismatch, check_result, receipt_of
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
