"""A worker serves what was sealed to it, seals the answer, and tells the gateway nothing of what is inside."""

import numpy as np
import pytest

from contracts.protocol.money import split_price
from contracts.protocol.sealed import TENSOR, UNITS, key_of
from contracts.protocol.sealing import WorkersKey, open_answer, seal_request
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors
from tests.support.worker import DOMAIN, FEE, GATEWAY, PAYER, ROYALTY, UNIT_PRICE, WORKER, make_job
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models.sessions import SessionCache

KEY = WorkersKey(WORKER)
PUBLIC = key_of(KEY.signed(DOMAIN), WORKER.address, DOMAIN)
X = np.arange(8, dtype="f4").reshape(2, 4)


@pytest.fixture
def sealing_executor(packaged, chain):
    served = {packaged.model_id: Served(packaged, UNIT_PRICE)}
    admission = Admission(
        domain=DOMAIN,
        gateways=frozenset({GATEWAY.address}),
        served=served,
        max_fee_ppm=60_000,
        chain=chain,
        sealing=KEY,
        clock=lambda: 2e9,
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    return Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)


def sealed_job(packaged, x=X, *, units=2, public=PUBLIC, **changes):
    tensors = x if isinstance(x, list) else [Tensor.from_numpy("x", x)]
    asked = seal_request(public, packaged.model_id, tensors, {}, units=units)
    price = UNIT_PRICE * units
    split = split_price(price, ROYALTY, FEE)
    money = {
        "units": units,
        "price": price,
        "cumulative": price,
        "worker_amount": split.worker_amount,
        "owner_amount": split.owner_amount,
    }
    job, blob = make_job(packaged.manifest, list(asked.tensors), parameters=asked.parameters, **(money | changes))
    return asked, job, blob


def test_it_is_answered_as_in_the_open_and_only_its_client_reads_the_answer(sealing_executor, executor, packaged):
    asked, job, blob = sealed_job(packaged)
    open_job, open_blob = make_job(packaged.manifest, X)
    (result, beside), work = sealing_executor.run([(job, blob), (open_job, open_blob)])
    assert result.ok, result.detail
    (wire,), _ = decode_tensors(result.outputs)
    assert (wire.name, wire.datatype) == (TENSOR, "UINT8")
    (output,), _ = open_answer(asked.answer_key, packaged.model_id, [wire])
    (alike,), _ = decode_tensors(beside.outputs)
    np.testing.assert_allclose(output.to_numpy(), alike.to_numpy(), atol=1e-6)
    assert bytes(output.data) not in bytes(wire.data)
    assert work[0].receipt.input_hash == content_hash(blob)
    assert work[0].receipt.output_hash == content_hash(result.outputs)
    assert work[0].receipt.price == 2 * UNIT_PRICE


def test_asked_twice_it_answers_the_very_same(sealing_executor, packaged):
    _, job, blob = sealed_job(packaged)
    (first,), _ = sealing_executor.run([(job, blob)])
    (second,), _ = sealing_executor.run([(job, blob)])
    assert first.outputs == second.outputs


def test_more_units_than_were_said_are_refused(sealing_executor, packaged):
    _, job, blob = sealed_job(packaged, units=1)
    (result,), work = sealing_executor.run([(job, blob)])
    assert (result.code, result.field, work) == ("inputs-refused", UNITS, [])


def test_fewer_units_than_were_said_are_the_clients_affair(sealing_executor, packaged):
    _, job, blob = sealed_job(packaged, units=5)
    (result,), (work,) = sealing_executor.run([(job, blob)])
    assert result.ok
    assert work.receipt.price == 5 * UNIT_PRICE


def test_what_was_sealed_to_another_is_refused(sealing_executor, packaged):
    other = WorkersKey(PAYER).signed(DOMAIN)[:32]
    _, job, blob = sealed_job(packaged, public=other)
    (result,), work = sealing_executor.run([(job, blob)])
    assert (result.code, result.field, work) == ("inputs-refused", TENSOR, [])
    assert "another worker" in result.detail


def test_a_price_below_the_offer_is_refused_before_it_is_opened(sealing_executor, packaged):
    other = WorkersKey(PAYER).signed(DOMAIN)[:32]
    _, job, blob = sealed_job(packaged, public=other, price=UNIT_PRICE)
    (result,), _ = sealing_executor.run([(job, blob)])
    assert result.code == "job-refused"


def test_what_is_wrong_inside_is_not_told_in_the_open(sealing_executor, packaged):
    secret = Tensor.from_numpy("my-secret-name", np.ones((2, 4), "f4"))
    _, job, blob = sealed_job(packaged, [secret])
    (result,), work = sealing_executor.run([(job, blob)])
    assert (result.code, result.field, work) == ("inputs-refused", TENSOR, [])
    assert "my-secret-name" not in result.detail


def test_a_worker_without_a_key_says_so(executor, packaged):
    _, job, blob = sealed_job(packaged)
    (result,), work = executor.run([(job, blob)])
    assert (result.code, result.field, work) == ("inputs-refused", TENSOR, [])
