import dataclasses

import numpy as np
import onnxruntime
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.signing import is_signed_by, recover
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors, encode_tensors
from contracts.protocol.typed_data import Receipt, Voucher
from tests.support.worker import CHANNEL, DOMAIN, PAYER, WORKER, make_job
from workers import admission


def outputs_of(result):
    return decode_tensors(result.outputs)[0][0].to_numpy()


def reference(packaged, x):
    session = onnxruntime.InferenceSession(str(packaged.folder / "model.onnx"))
    return session.run(["y"], {"x": x})[0]


def test_outputs_are_onnxruntimes_and_the_receipt_is_signed_over_them(executor, packaged):
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("f4")
    job, blob = make_job(packaged.manifest, x)
    (result,), (work,) = executor.run([(job, blob)])
    assert result.ok
    np.testing.assert_allclose(outputs_of(result), reference(packaged, x), atol=1e-6)
    receipt = Receipt(
        job.request_id,
        CHANNEL.digest(DOMAIN),
        CHANNEL.payer,
        CHANNEL.gateway,
        job.seq,
        WORKER.address,
        job.model_id,
        job.input_hash,
        content_hash(result.outputs),
        job.price,
        job.worker_amount,
        job.owner_amount,
        job.cumulative,
        result.served_at,
    )
    assert work.receipt == receipt
    assert recover(receipt.digest(DOMAIN), result.signature) == WORKER.address
    assert result.output_hash == receipt.output_hash


def test_jobs_are_batched_and_each_gets_its_own_rows(executor, packaged):
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(n, 4)).astype("f4") for n in (1, 2, 5, 3, 1, 8, 1)]
    jobs = [make_job(packaged.manifest, x) for x in arrays]
    results, work = executor.run(jobs)
    assert [r.request_id for r in results] == [job.request_id for job, _ in jobs]
    assert len(work) == len(jobs)
    for result, x in zip(results, arrays, strict=True):
        np.testing.assert_allclose(outputs_of(result), reference(packaged, x), atol=1e-5)


def bad_price(job):
    return {"price": job.price - 1}


REFUSALS = {
    "too late": (lambda j: {"deadline_at": 1.0}, "job-too-late", "deadline_at"),
    "another model": (lambda j: {"model_id": b"?" * 32}, "job-refused", "model_id"),
    "input hash": (lambda j: {"input_hash": b"?" * 32}, "inputs-refused", "input_hash"),
    "price below offer": (bad_price, "job-refused", "price"),
    "fee above offer": (lambda j: {"fee_ppm": 70_000}, "job-refused", "fee_ppm"),
    "royalty not the chain's": (lambda j: {"royalty_ppm": 0}, "job-refused", "royalty_ppm"),
    "worker cheated": (lambda j: {"worker_amount": j.worker_amount - 1}, "job-refused", "worker_amount"),
    "owner cheated": (lambda j: {"owner_amount": j.owner_amount - 1}, "job-refused", "worker_amount"),
    "voucher too small": (lambda j: {"voucher_amount": j.cumulative - 1}, "job-refused", "voucher_amount"),
    "voucher forged": (lambda j: {"voucher_signature": WORKER.sign_digest(b"x" * 32)}, "job-refused", None),
    "voucher garbage": (lambda j: {"voucher_signature": b"short"}, "job-refused", "voucher_signature"),
    "another gateway": (
        lambda j: {"channel": dataclasses.replace(CHANNEL, gateway=bytes(20))},
        "job-refused",
        "gateway",
    ),
    "unknown output": (lambda j: {"outputs": ("z",)}, "inputs-refused", "outputs"),
}


@pytest.mark.parametrize(("change", "code", "field"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_job_is_refused_and_harms_no_neighbour(executor, packaged, change, code, field):
    good, blob = make_job(packaged.manifest)
    bad = dataclasses.replace(good, **change(good))
    results, work = executor.run([(good, blob), (bad, blob), (good, blob)])
    assert [r.ok for r in results] == [True, False, True]
    assert results[1].code == code
    assert results[1].signature == b""
    assert len(work) == 2
    if field is not None:
        assert results[1].field == field


def with_voucher(job, amount, signer=PAYER, **changes):
    signature = signer.sign_digest(Voucher(CHANNEL.digest(DOMAIN), amount).digest(DOMAIN))
    return dataclasses.replace(job, voucher_amount=amount, voucher_signature=signature, **changes)


def test_of_a_pack_only_the_highest_voucher_is_looked_at_and_kept(executor, packaged, monkeypatch):
    looked = []
    monkeypatch.setattr(admission, "is_signed_by", lambda *a: looked.append(a) or is_signed_by(*a))
    job, blob = make_job(packaged.manifest)
    jobs = [with_voucher(job, job.cumulative + i, request_id=bytes([i]) * 32) for i in (1, 3, 2)]
    results, work = executor.run([(one, blob) for one in jobs])
    assert all(result.ok for result in results)
    assert len(looked) == 1
    assert {(one.voucher_amount, one.voucher_signature) for one in work} == {
        (jobs[1].voucher_amount, jobs[1].voucher_signature)
    }


@pytest.mark.parametrize("amount", [1 << 128, -1])
def test_a_voucher_of_an_amount_that_is_none_harms_no_neighbour(executor, packaged, amount):
    good, blob = make_job(packaged.manifest)
    bad = dataclasses.replace(good, voucher_amount=amount, request_id=b"b" * 32)
    results, work = executor.run([(good, blob), (bad, blob)])
    assert [result.ok for result in results] == [True, False]
    assert len(work) == 1


def test_a_forged_highest_voucher_does_not_cover_those_below_it(executor, packaged):
    job, blob = make_job(packaged.manifest)
    forged = with_voucher(job, job.cumulative + 9, signer=WORKER, request_id=b"f" * 32)
    good = with_voucher(job, job.cumulative + 1)
    results, work = executor.run([(good, blob), (forged, blob)])
    assert [result.ok for result in results] == [True, False]
    assert results[1].field == "voucher_signature"
    assert [one.voucher_amount for one in work] == [good.voucher_amount]


def test_what_a_higher_voucher_covers_is_paid_by_that_one(executor, packaged):
    job, blob = make_job(packaged.manifest)
    higher = with_voucher(job, job.cumulative + 5)
    executor.run([(higher, blob)])
    lower = with_voucher(job, job.cumulative + 1, signer=WORKER, request_id=b"l" * 32)
    (result,), (work,) = executor.run([(lower, blob)])
    assert result.ok
    assert (work.voucher_amount, work.voucher_signature) == (higher.voucher_amount, higher.voucher_signature)


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ([Tensor.from_numpy("z", np.ones((1, 4), "f4"))], "inputs"),
        ([Tensor.from_numpy("x", np.ones((1, 5), "f4"))], "x"),
        ([Tensor.from_numpy("x", np.ones((4,), "f4"))], "x"),
        ([Tensor.from_numpy("x", np.ones((0, 4), "f4"))], "x"),
        ([Tensor.from_numpy("x", np.ones((1, 4), "f8"))], "x"),
        ([], "inputs"),
    ],
)
def test_wrong_tensors_are_refused_for_good(executor, packaged, tensors, field):
    job, blob = make_job(packaged.manifest, tensors)
    (result,), work = executor.run([(job, blob)])
    assert (result.code, result.field, result.retry) == ("inputs-refused", field, Retry.NEVER)
    assert not work


def test_a_deposit_that_does_not_cover_the_job_is_refused(executor, packaged, chain):
    job, blob = make_job(packaged.manifest)
    chain.deposited = job.cumulative - 1
    (result,), _ = executor.run([(job, blob)])
    assert (result.code, result.field) == ("job-refused", "channel")


def test_without_the_chain_nothing_is_computed(executor, packaged, chain):
    chain.away = True
    (result,), _ = executor.run([make_job(packaged.manifest)])
    assert (result.code, result.retry) == ("chain-away", Retry.OTHER_WORKER)


def test_inputs_that_are_gone_may_be_sent_again(executor, packaged):
    job, _ = make_job(packaged.manifest)
    (result,), _ = executor.run([(job, None)])
    assert (result.code, result.retry) == ("inputs-gone", Retry.SAME)


def test_only_the_outputs_asked_for_are_signed(executor, packaged):
    job, blob = make_job(packaged.manifest, outputs=("y",))
    (result,), _ = executor.run([(job, blob)])
    tensors, _ = decode_tensors(result.outputs)
    assert [t.name for t in tensors] == ["y"]
    assert result.output_hash == content_hash(encode_tensors(tensors))


def test_slow_batches_are_told_early_and_once(executor, packaged, monkeypatch):
    jobs = [make_job(packaged.manifest, np.full((3, 4), n, "f4"), request_id=bytes([n]) * 32) for n in range(1, 8)]
    told = []
    monkeypatch.setattr("workers.execution.EARLY_SECONDS", 0.0)
    results, work = executor.run(jobs, early=lambda served, kept: told.append((list(served), list(kept))))
    assert all(result.ok for result in results)
    early = [result.request_id for served, _ in told for _, result in served]
    assert early
    kept = [one.receipt.request_id for _, group in told for one in group]
    assert early == kept
    assert sorted(kept + [one.receipt.request_id for one in work]) == [job.request_id for job, _ in jobs]
    monkeypatch.setattr("workers.execution.EARLY_SECONDS", 60.0)
    told.clear()
    _, work = executor.run(jobs, early=lambda served, kept: told.append(served))
    assert (told, len(work)) == ([], 7)


def test_a_fault_of_the_workers_own_takes_no_neighbour_with_it(executor, packaged, monkeypatch):
    good, blob = make_job(packaged.manifest)
    bad = dataclasses.replace(good, request_id=b"!" * 32)
    check = executor._admission.check

    def stumble(job, inputs):
        if job is bad:
            raise ZeroDivisionError
        return check(job, inputs)

    monkeypatch.setattr(executor._admission, "check", stumble)
    results, work = executor.run([(bad, blob), (good, blob)])
    assert [(r.ok, r.code) for r in results] == [(False, "execution-failed"), (True, "")]
    assert len(work) == 1
