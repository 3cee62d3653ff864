"""What the database tells of the past is what was charged, in whole steps, and says where it does not reach."""

from dataclasses import replace

import pytest

from market.adapters.database import statistics
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.statistics import DatabaseStatistics
from tests.support.databases import SERVERS, open_database
from tests.support.money import GATEWAY, charge

WORKER_PAYEE, OWNER_PAYEE = b"\x07" * 20, b"\x08" * 20
HOUR = 3_600


@pytest.fixture(params=SERVERS)
async def past(request, tmp_path, monkeypatch):
    engine = open_database(request.param, tmp_path)
    ledger = DatabaseLedger(engine, GATEWAY.address)
    for number, served_at in enumerate((HOUR, HOUR + 5, 3 * HOUR + 10), start=1):
        made = charge(100, 1_000, request=number, seq=number)
        await ledger.record(replace(made, receipt=replace(made.receipt, served_at=served_at)))
    yield DatabaseStatistics(engine, GATEWAY.address)
    ledger.close()
    engine.dispose()


def test_charges_are_summed_by_step_and_model(past):
    found = past.past({"operator": WORKER_PAYEE}, since=0, step_seconds=HOUR)
    assert [(one.at, one.requests, one.price) for one in found.buckets] == [(HOUR, 2, 200), (3 * HOUR, 1, 100)]
    assert sum(one.worker_amount for one in found.buckets) == 240
    assert (found.complete, found.since) == (True, 0)
    assert past.past({"operator": WORKER_PAYEE}, since=2 * HOUR, step_seconds=HOUR).buckets[0].at == 3 * HOUR


def test_only_matching_receipts_count(past):
    model_id = charge(1, 1, request=1).receipt.model_id
    assert len(past.past({"owner": OWNER_PAYEE, "model_id": model_id}, since=0, step_seconds=HOUR).buckets) == 2
    assert past.past({"owner": WORKER_PAYEE}, since=0, step_seconds=HOUR).buckets == ()
    assert past.past({"model_id": b"\x01" * 32}, since=0, step_seconds=HOUR).buckets == ()
    assert past.past({}, since=0, step_seconds=HOUR).buckets[0].requests == 2


def test_it_says_how_far_back_it_looked(past, monkeypatch):
    monkeypatch.setattr(statistics, "LOOKED_AT", 2)
    found = past.past({}, since=0, step_seconds=60)
    assert (found.complete, found.since) == (False, HOUR + 5)
    assert sum(one.requests for one in found.buckets) == 2


def test_the_backlog_is_counted_and_batches_come_from_the_book(past):
    assert (past.backlog().receipts, past.backlog().value) == (3, 300)
    assert past.batches() == {}
