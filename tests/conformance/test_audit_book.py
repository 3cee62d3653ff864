"""One suite for the book of audits on both databases."""

from dataclasses import replace
from math import inf

import pytest

from market.adapters.database.audit_book import IN_USE_SECONDS, DatabaseAuditBook
from market.inference.audit_model import Audit, AuditSecret, Counted, Statement, WorkerAudits
from market.verification.audit_verdict import Outcome
from tests.support.money import GATEWAY, charge

A, B, C = (bytes([i]) * 20 for i in (1, 2, 3))


@pytest.fixture
def book(engine):
    return DatabaseAuditBook(engine, GATEWAY.address)


def audit(outcome=Outcome.CONVICTED, against=A, workers=(A, B, C), at=100.0, **changes) -> Audit:
    """An audit of a request that no other moment and no other party's audit has."""
    first = int(at) * 100 + (0 if against is None else against[0] * 10)
    statements = tuple(
        Statement(bytes([9]) * 20, replace(charge(10, 100, request=first + i).receipt, worker=worker), b"\5" * 97)
        for i, worker in enumerate(workers)
    )
    made = Audit(at, outcome, statements, against, 0.5, 1e-3, "y: 5.00e-01 apart", 0.02, b"\6" * 32)
    return replace(made, **changes)


async def test_an_audit_is_kept_as_it_was(book):
    number, convicted = await book.keep(audit())
    assert convicted
    assert await book.find(number) == audit(number=number)
    second, _ = await book.keep(audit(Outcome.DISPUTED, None, (A, B), error=inf))
    assert await book.find(second) == audit(Outcome.DISPUTED, None, (A, B), error=inf, number=second)
    assert await book.find(second + 1) is None
    assert [one.number for one in await book.audits()] == [second, number]
    assert [one.number for one in await book.audits(C)] == [number]
    assert [one.number for one in await book.audits(A, before=second)] == [number]
    assert [one.number for one in await book.audits(limit=1)] == [second]


async def test_the_first_conviction_stands(book):
    first, _ = await book.keep(audit())
    await book.keep(audit(at=200.0))
    assert await book.workers() == {A: WorkerAudits(A, 0, 0, 100.0, first, None)}


async def test_a_request_is_held_against_a_worker_once(book):
    """The database wrote, and could not say so: the audit is made again, with another auditor maybe."""
    number, _ = await book.keep(audit(Outcome.STRIKE, at=1.0))
    for workers in ((A, B, C), (A, C, B)):
        assert await book.keep(audit(Outcome.STRIKE, workers=workers, at=1.0)) == (number, False)
    assert len(await book.audits()) == 1
    assert not (await book.keep(audit(Outcome.STRIKE, at=2.0)))[1]
    assert (await book.keep(audit(Outcome.STRIKE, at=3.0)))[1], "the third"


async def test_a_dispute_is_against_nobody(book):
    _, convicted = await book.keep(audit(Outcome.DISPUTED, None))
    assert not convicted
    assert await book.workers() == {}


async def test_strikes_add_up_until_a_pardon(book):
    said = [(await book.keep(audit(Outcome.STRIKE, at=float(i))))[1] for i in range(1, 4)]
    await book.keep(audit(Outcome.STRIKE, B, at=3.0))
    assert said == [False, False, True]
    assert {one.worker for one in (await book.workers()).values() if one.convicted_at} == {A}
    assert await book.pardon(A, 10.0)
    assert not await book.pardon(A, 11.0)
    assert not await book.pardon(C, 11.0)
    assert (await book.workers())[A] == WorkerAudits(A, 0, 0, None, None, 10.0)
    said = [(await book.keep(audit(Outcome.STRIKE, at=float(i))))[1] for i in range(11, 14)]
    assert said == [False, False, True]


async def test_counts_add_up_and_a_pardon_makes_new(book):
    await book.count(Counted({A: 2, B: 1}, {A: 1}))
    await book.count(Counted({A: 3}, {C: 4}))
    assert {w: (one.answered, one.agreed) for w, one in (await book.workers()).items()} == {
        A: (5, 1),
        B: (1, 0),
        C: (0, 4),
    }
    await book.keep(audit())
    assert (await book.workers())[A].answered == 5
    await book.pardon(A, 10.0)
    assert ((await book.workers())[A].answered, (await book.workers())[A].agreed) == (0, 0)


async def test_a_secret_is_shown_once_it_is_out_of_use(book):
    await book.begin_secret(b"s" * 32, b"c" * 32, 1_000.0)
    await book.begin_secret(b"t" * 32, b"d" * 32, 5_000.0)
    now = 1_001.0 + IN_USE_SECONDS
    assert await book.secrets(now) == [AuditSecret(b"d" * 32, 5_000.0), AuditSecret(b"c" * 32, 1_000.0, b"s" * 32)]
    assert await book.secrets(now, limit=1) == [AuditSecret(b"d" * 32, 5_000.0)]


async def test_gateways_on_one_database_keep_books_of_their_own(book, engine):
    other = DatabaseAuditBook(engine, b"\x0a" * 20)
    number, _ = await book.keep(audit())
    await book.count(Counted({A: 1}))
    await book.begin_secret(b"s" * 32, b"c" * 32, 1.0)
    assert (await other.find(number), await other.audits(), await other.workers(), await other.secrets(1e9)) == (
        None,
        [],
        {},
        [],
    )
    assert not await other.pardon(A, 1.0)
    assert (await other.keep(audit()))[1]


async def test_a_strike_in_a_thousand_convicts_nobody(book):
    await book.count(Counted({}, {A: 1_000, B: 100}))
    said = {w: [(await book.keep(audit(Outcome.STRIKE, w, at=float(i))))[1] for i in range(1, 5)] for w in (A, B)}
    assert said == {A: [False] * 4, B: [False, False, True, True]}
