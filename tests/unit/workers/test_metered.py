"""Jobs priced by what they turn out to take: admission holds the ceiling, the receipt says what was served."""

import dataclasses

import numpy as np
import pytest

from contracts.protocol.metering import ceiling_units
from contracts.protocol.money import split_price
from contracts.protocol.pricing import Unit
from contracts.protocol.signing import recover
from contracts.protocol.tensors import Tensor, decode_tensors
from tests.support import models
from tests.support.worker import DOMAIN, FEE, GATEWAY, ROYALTY, WORKER, FakeChain, make_job
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models.sessions import SessionCache

UNIT_PRICE = 7


@pytest.fixture
def package(tmp_path):
    return models.fetched(tmp_path / "source", models.embedding_package(tmp_path / "source"))


@pytest.fixture
def executor(package):
    served = {package.model_id: Served(package, UNIT_PRICE)}
    admission = Admission(
        domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=FEE, chain=FakeChain()
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    return Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)


def metered(package, *items, unit_price=UNIT_PRICE, spare=0, **changes):
    tensors = [Tensor.from_numpy("text", np.array(items, dtype=object))]
    units = ceiling_units(package.manifest, tensors, {}) + spare
    price = units * unit_price
    split = split_price(price, ROYALTY, FEE)
    terms = {
        "units": units,
        "unit_price": unit_price,
        "price": price,
        "worker_amount": split.worker_amount,
        "owner_amount": split.owner_amount,
        "cumulative": 5_000,
        "voucher_amount": 5_000,
    }
    return make_job(package.manifest, tensors, **(terms | changes))


def test_what_was_served_is_charged_and_the_rest_comes_off_the_channel(executor, package):
    job, blob = metered(package, "the cat sat", "a")
    (result,), (work,) = executor.run([(job, blob)])
    served = 5 + 3  # each with [CLS] and [SEP]
    assert result.ok
    assert result.units == served < job.units
    split = split_price(served * UNIT_PRICE, ROYALTY, FEE)
    receipt = work.receipt
    assert (receipt.price, receipt.worker_amount, receipt.owner_amount) == (served * UNIT_PRICE, *split[:2])
    assert receipt.cumulative == 5_000 - (job.price - served * UNIT_PRICE)
    assert recover(receipt.digest(DOMAIN), result.signature) == WORKER.address
    outputs = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(result.outputs)[0]}
    assert outputs["tokens"].tolist() == [5, 3]
    assert outputs["embedding"].shape == (2, models.HIDDEN)


def test_more_tokens_than_bytes_are_not_charged(executor, package):
    job, blob = metered(package, "!")  # three tokens, and one byte with two around it
    (result,), _ = executor.run([(job, blob)])
    assert result.units == job.units == 3


def test_a_price_for_the_ceiling_without_a_unit_price_is_taken_whole(executor, package):
    job, blob = metered(package, "the cat sat", unit_price=UNIT_PRICE)
    job = dataclasses.replace(job, unit_price=0)
    (result,), (work,) = executor.run([(job, blob)])
    assert result.units == 0
    assert work.receipt.price == job.price


REFUSALS = {
    "units below the ceiling": (lambda j: {"units": j.units - 1}, "units"),
    "price below the ceiling's": (lambda j: {"price": j.price - 1}, "price"),
    "unit price below the offer": (lambda j: {"unit_price": UNIT_PRICE - 1}, "unit_price"),
    "unit price the price does not cover": (lambda j: {"unit_price": UNIT_PRICE + 1}, "units"),
}


@pytest.mark.parametrize(("change", "field"), REFUSALS.values(), ids=REFUSALS.keys())
def test_terms_that_would_not_pay_what_is_served_are_refused(executor, package, change, field):
    job, blob = metered(package, "the cat sat")
    job = dataclasses.replace(job, **change(job))
    (result,), work = executor.run([(job, blob)])
    assert (result.code, result.field, work) == ("job-refused", field, [])


@pytest.fixture
def by_the_million(tmp_path):
    manifest = models.embedding_package(tmp_path / "source", unit=Unit.MILLION_TOKENS)
    return models.fetched(tmp_path / "source", manifest)


def test_a_price_for_a_million_is_charged_for_what_was_served(by_the_million):
    price = 500_000
    served = {by_the_million.model_id: Served(by_the_million, price)}
    admission = Admission(
        domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=FEE, chain=FakeChain()
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    running = Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)

    def asked(**changes):
        job, blob = metered(by_the_million, "the cat sat", "a", unit_price=price, **changes)
        ceiling = -(-job.units * price // 1_000_000)
        split = split_price(ceiling, ROYALTY, FEE)
        terms = {"price": ceiling, "worker_amount": split.worker_amount, "owner_amount": split.owner_amount}
        return dataclasses.replace(job, **{"units_per_price": 1_000_000, **terms, **changes}), blob

    (result,), (work,) = running.run([asked()])
    assert (result.units, work.receipt.price) == (8, 4)
    for wrong in (1, 0, -1, 999_999, 2_000_000):
        (result,), found = running.run([asked(units_per_price=wrong)])
        assert (result.code, result.field, found) == ("job-refused", "units_per_price", [])
    (result,), found = running.run([asked(price=1)])
    assert (result.code, result.field, found) == ("job-refused", "price", [])


def test_a_unit_price_for_a_model_that_is_not_metered_is_refused(tmp_path):
    folder = tmp_path / "source"
    package = models.fetched(folder, models.image_classifier_package(folder))
    served = {package.model_id: Served(package, UNIT_PRICE)}
    admission = Admission(
        domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=FEE, chain=FakeChain()
    )
    job, blob = make_job(package.manifest, [Tensor.from_numpy("image", np.array([b"x"], dtype=object))], unit_price=7)
    with pytest.raises(Exception, match="known beforehand") as error:
        admission.check(job, blob)
    assert error.value.field == "unit_price"


def test_a_bad_text_costs_nothing_and_harms_no_neighbour(executor, package):
    good, bad = metered(package, "the cat"), metered(package, b"\xff")
    results, work = executor.run([good, bad, good])
    assert [result.ok for result in results] == [True, False, True]
    assert (results[1].code, results[1].field, results[1].units) == ("inputs-refused", "text", 0)
    assert len(work) == 2


def test_a_fault_of_the_worker_itself_is_data_too(executor, package, monkeypatch):
    monkeypatch.setattr("workers.models.pipelines.text_embedding.TextEmbeddingPipeline.finish", lambda *_: 1 / 0)
    results, work = executor.run([metered(package, "the cat"), metered(package, "a")])
    assert [result.code for result in results] == ["execution-failed"] * 2
    assert not work
