"""Audits beside the paid path: nobody can tell them from requests, clients never notice, cheats are found."""

import asyncio
from dataclasses import fields, replace

import numpy as np
import pytest

from contracts.protocol.messages import Job
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.tensors import Tensor
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.errors import DatabaseUnreachable, NoCapacity, RedisUnreachable
from market.inference import audit_queue, audits
from market.inference.audit_queue import MOST_WAITING
from market.verification.audit_choice import AuditShares, commitment, is_chosen, threshold
from market.verification.audit_verdict import STRIKES, Outcome
from tests.support.audits import HOUSE_ID, Audited, join_workers
from tests.support.money import CHANNEL_ID, DOMAIN, World, manifest


def far(_x, y):
    return y * 1.02


def near(_x, y):
    return y * np.float32(1 + 1e-5)


@pytest.fixture
def engine(tmp_path):
    made = open_engine(f"sqlite:///{tmp_path}/audits.db")
    upgrade(made)
    yield made
    made.dispose()


async def market(engine, *, lane=False, shares=None, house=10**9, referees=frozenset(), world=None, **workers):
    made = Audited(
        engine, lane=lane, house=house, referees=referees, world=world, **({} if shares is None else {"shares": shares})
    )
    made.workers = await join_workers(made.world, **workers)
    await made.begin()
    return made


async def ask(made, count=1, **changes):
    answers = []
    for _ in range(count):
        answers.append(await made.world.service.infer(made.world.request(**changes)))
        await asyncio.sleep(0)
    return answers


@pytest.mark.parametrize("lane", [False, True])
async def test_a_cheat_is_convicted_by_two_others_and_sold_no_more(engine, lane):
    made = await market(engine, lane=lane, cheat=far, honest=None, other=None)
    await ask(made, 2)
    await made.settle()
    cheat = made.workers["cheat"].key.address
    (audit, *_) = await made.book.audits()
    assert (audit.outcome, audit.against, len(audit.statements)) == (Outcome.CONVICTED, cheat, 3)
    assert audit.error == pytest.approx(0.0196, rel=0.01)
    assert len({one.receipt.input_hash for one in audit.statements}) == 1
    assert len({one.operator for one in audit.statements}) == 3
    for one in audit.statements:
        assert is_receipt_signed_by(one.receipt.digest(DOMAIN), one.signature, one.worker, DOMAIN)
    standing = (await made.book.workers())[cheat]
    assert standing.conviction == min(one.number for one in await made.book.audits())
    # Whoever asks is served by others from now on, and nobody can ask for it by name.
    served = {answer.receipt.worker for answer in await ask(made, 5)}
    assert cheat not in served
    with pytest.raises(NoCapacity):
        await ask(made, worker=cheat)
    await made.world.offers.refresh()
    assert cheat not in {quote.worker for quote in made.world.service.quote("tiny")}


async def test_a_cheating_auditor_is_convicted_itself(engine):
    made = await market(engine, honest=None, cheat=far, other=None)
    for _ in range(20):
        await ask(made)
        await made.settle()
    workers = await made.book.workers()
    assert {one.worker for one in workers.values() if one.convicted_at} == {made.workers["cheat"].key.address}


async def test_honest_noise_convicts_nobody(engine):
    made = await market(engine, one=None, two=near, three=near)
    await ask(made, 30)
    await made.settle()
    assert await made.book.audits() == []
    await made.auditor.keep_up()
    made.auditor._read_at -= 10
    await made.auditor.keep_up()
    assert (await made.book.workers())[made.workers["one"].key.address].agreed == 30


async def test_without_a_third_there_is_a_dispute_and_no_conviction(engine):
    made = await market(engine, cheat=far, honest=None)
    await ask(made, 3)
    await made.settle()
    audits = await made.book.audits()
    assert [(one.outcome, one.against, len(one.statements)) for one in audits] == [(Outcome.DISPUTED, None, 2)] * 3
    assert not any(one.convicted_at for one in (await made.book.workers()).values())
    assert {answer.receipt.worker for answer in await ask(made)} == {made.workers["cheat"].key.address}


async def test_a_market_of_one_operator_is_not_audited(engine):
    made = Audited(engine)
    await made.world.add_worker("a")
    await made.world.add_worker("b")
    await made.begin()
    await ask(made, 3)
    await made.settle()
    assert await made.book.audits() == []
    assert len(made.world.dispatcher.jobs) == 3


async def test_a_referee_judges_even_if_its_operator_is_a_party(engine):
    made = await market(engine, cheat=far, honest=None)
    referee = await made.world.add_worker("referee", price=500, operator=b"\x60" * 20)
    made.auditor._referees = frozenset({referee.key.address})
    await ask(made)
    await made.settle()
    (audit,) = await made.book.audits()
    assert audit.against == made.workers["cheat"].key.address
    assert audit.statements[2].worker == referee.key.address


@pytest.mark.parametrize("lane", [False, True])
async def test_an_audit_looks_like_a_clients_request(engine, lane):
    made = await market(engine, lane=lane, one=None, two=None)
    await ask(made, 3)
    await made.settle()
    one, two = (made.workers[name].key.address for name in ("one", "two"))
    jobs = made.world.dispatcher.jobs
    client = [job for worker, job in jobs if worker == one][-1]
    audit = [job for worker, job in jobs if worker == two][-1]
    assert (audit.channel.digest(DOMAIN), client.channel.digest(DOMAIN)) == (HOUSE_ID, CHANNEL_ID)
    # What must be a job's own is of the same form; what the offer and the payer say is theirs; all else is the same.
    own = {"request_id", "attempt", "seq", "deadline_at", "voucher_signature"}
    payers = {"channel", "cumulative", "voucher_amount"}
    priced = {"price", "worker_amount", "owner_amount"}
    for field in fields(Job):
        ours, theirs = getattr(client, field.name), getattr(audit, field.name)
        assert type(ours) is type(theirs), field.name
        if field.name not in own | payers | priced:
            assert ours == theirs, field.name
    assert audit.price == 101 * audit.units
    assert len(audit.request_id) == len(client.request_id)
    assert len(audit.voucher_signature) == len(client.voucher_signature)
    assert len(audit.attempt) == len(client.attempt)
    assert (audit.attempt == client.attempt) is lane, "the short lane's have none of their own"
    # An audit is not audited in its turn.
    assert len(jobs) == 6


async def test_the_auditor_is_paid_from_the_gateways_own_channel(engine):
    made = await market(engine, one=None, two=None)
    await ask(made, 4)
    await made.settle()
    house = await made.world.reservations.account(HOUSE_ID)
    client = await made.world.reservations.account(CHANNEL_ID)
    assert (house.charged, house.reserved) == (4 * 101, 0)
    assert (client.charged, client.reserved) == (400, 0)
    assert await made.world.ledger.earned(b"\x61" * 20) > 0


async def test_no_money_means_no_audit_and_nothing_else(engine):
    made = await market(engine, house=50, cheat=far, honest=None, other=None)
    answers = await ask(made, 5)
    await made.settle()
    assert {answer.receipt.worker for answer in answers} == {made.workers["cheat"].key.address}
    assert (await made.world.reservations.account(HOUSE_ID)).charged == 0
    assert await made.book.audits() == []


async def test_audits_cost_no_more_than_the_gateway_earned(engine, monkeypatch):
    """Who asks a cheap worker of his own and has a dear one beside it would be paid by the gateway for each audit."""
    monkeypatch.setattr(audit_queue, "FIRST_PURSE", 250)
    made = await market(engine, one=None)
    dear = await made.world.add_worker("dear", price=10_000, operator=b"\x70" * 20)
    await ask(made, 4)
    await made.settle()
    assert (dear.served, (await made.world.reservations.account(HOUSE_ID)).charged) == (0, 0)
    fees = 4 * (100 - 85 - 10)
    model_id = made.world.model.model_id
    assert made.queue.purse.holds(model_id) == 250 + fees
    fair = await made.world.add_worker("fair", price=110, operator=b"\x71" * 20)
    made.world.registry.records.pop(dear.key.address)
    await made.world.offers.refresh()
    await ask(made, 4)
    await made.settle()
    house = await made.world.reservations.account(HOUSE_ID)
    assert (fair.served, house.charged, house.reserved) == (2, 220, 0)
    assert made.queue.purse.holds(model_id) == 250 + 2 * fees - 2 * (93 + 11), (
        "what is the gateway's own of an audit's price comes back"
    )


async def test_what_one_model_earned_pays_for_no_audits_of_another(engine, monkeypatch):
    """Else who lists a model and has two workers of two operators is paid what the gateway earns on all others."""
    monkeypatch.setattr(audit_queue, "FIRST_PURSE", 0)
    made = await market(engine, one=None, two=None)
    made.queue.purse.earn(b"\x09" * 32, 10**9)
    await ask(made, 4)
    await made.settle()
    assert (await made.world.reservations.account(HOUSE_ID)).charged == 0
    made.queue.purse.earn(made.world.model.model_id, 10_000)
    await ask(made, 4)
    await made.settle()
    assert (await made.world.reservations.account(HOUSE_ID)).charged == 4 * 101
    assert made.queue.purse.holds(b"\x09" * 32) == 10**9


async def test_an_auditor_that_asks_too_much_is_not_drawn(engine, monkeypatch):
    """A cheat's friend at a price that nobody pays would have most audits left out."""
    monkeypatch.setattr(audit_queue, "FIRST_PURSE", 5_000)
    made = await market(engine, one=None, two=None)
    for number in range(5):
        await made.world.add_worker(f"dear {number}", price=10_000, operator=bytes([0x70 + number]) * 20)
    await ask(made, 8)
    await made.settle()
    assert (await made.world.reservations.account(HOUSE_ID)).charged == 8 * 101


def test_a_purse_gives_back_to_where_it_took_from():
    purse = audit_queue.Purse(100)
    purse.earn(b"a", 30)
    assert purse.take(b"a", 50) == 20
    assert (purse.first, purse.holds(b"a"), purse.holds(b"b")) == (80, 80, 80)
    purse.give_back(b"a", 25, 20)
    assert (purse.first, purse.holds(b"a"), purse.holds(b"b")) == (100, 105, 100)


async def test_auditors_that_fail_convict_nobody(engine, monkeypatch):
    made = await market(engine, world=World(timeout=0.2), one=None, dead=None, silent=None, liar=None)
    dead, silent, liar = (made.workers[name] for name in ("dead", "silent", "liar"))
    del made.world.dispatcher.handlers[dead.key.address]
    silent.gate = asyncio.Event()
    liar.tamper = lambda _job, result: replace(result, signature=b"\x01" * 65)
    await ask(made, 4)
    await made.settle(20)
    assert await made.book.audits() == []
    assert not any(one.convicted_at for one in (await made.book.workers()).values())
    assert {answer.receipt.worker for answer in await ask(made)} == {made.workers["one"].key.address}


async def test_a_third_that_fails_is_replaced_and_without_one_nobody_is_convicted(engine):
    made = await market(engine, world=World(timeout=0.2), cheat=far, honest=None, dead=None)
    del made.world.dispatcher.handlers[made.workers["dead"].key.address]
    await ask(made, 3)
    await made.settle(20)
    assert {one.outcome for one in await made.book.audits()} == {Outcome.DISPUTED}


@pytest.mark.parametrize(
    "refusal", [RedisUnreachable("away"), NoCapacity("rests"), DatabaseUnreachable("away")], ids=lambda one: one.code
)
@pytest.mark.parametrize("asked", ["second", "third"])
async def test_an_audit_that_cannot_be_made_now_is_made_later(engine, monkeypatch, refusal, asked):
    """The gateway's own services are away for a while: nobody counts as an auditor that failed, and nothing is lost."""
    monkeypatch.setattr(audits, "REST_SECONDS", 0.05)
    made = await market(engine, cheat=far, honest=None, other=None)
    ask_way, times = made.auditor._ask_way, 0

    async def away(request, chosen):
        nonlocal times
        times += 1
        if (asked == "third") < times < 7:
            raise refusal
        return await ask_way(request, chosen)

    monkeypatch.setattr(made.auditor, "_ask_way", away)
    await ask(made)
    await made.settle(20)
    (audit,) = await made.book.audits()
    assert (audit.outcome, audit.against) == (Outcome.CONVICTED, made.workers["cheat"].key.address)


async def test_a_finding_outlives_a_database_that_goes_before_it_is_written(engine, monkeypatch):
    monkeypatch.setattr(audits, "REST_SECONDS", 0.05)
    made = await market(engine, cheat=far, honest=None, other=None)
    keep, times = made.book.keep, 0

    async def away(audit):
        nonlocal times
        times += 1
        if times < 4:
            raise DatabaseUnreachable
        return await keep(audit)

    monkeypatch.setattr(made.book, "keep", away)
    await ask(made)
    await made.settle(20)
    assert [one.outcome for one in await made.book.audits()] == [Outcome.CONVICTED]


async def test_clients_wait_for_no_audit(engine):
    made = await market(engine, one=None, slow=None, other=None)
    for name in ("slow", "other"):
        made.workers[name].gate = asyncio.Event()
    made.auditor.begin()
    loop = asyncio.create_task(made.auditor.run())
    answers = await asyncio.wait_for(asyncio.gather(*(ask(made) for _ in range(50))), 5)
    assert len(answers) == 50
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_an_idle_auditor_is_woken_by_what_is_chosen(engine, monkeypatch):
    monkeypatch.setattr(audits, "BOOK_SECONDS", 30.0)
    made = await market(engine, one=None, two=None)
    loop = asyncio.create_task(made.auditor.run())
    await asyncio.sleep(0.1)
    await ask(made)
    async with asyncio.timeout(5):
        while not made.queue.counted.agreed:
            await asyncio.sleep(0.01)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_what_does_not_fit_is_dropped(engine):
    made = await market(engine, one=None, two=None)
    await asyncio.gather(*(ask(made) for _ in range(MOST_WAITING + 20)))
    await asyncio.sleep(0)
    assert len(made.queue.waiting) == MOST_WAITING
    await made.settle(20)


async def test_what_nobody_else_can_read_is_not_audited(engine):
    made = await market(engine, one=None, two=None)
    sealed = Tensor("sealed", "UINT8", (3,), b"abc")
    await made.world.service.infer(made.world.request(tensors=(sealed,), parameters={"sealed_units": 1}))
    await ask(made)
    await asyncio.sleep(0)
    assert len(made.queue.waiting) == 1, "the open one"
    await made.settle()


async def test_a_busy_auditor_is_left_alone_until_it_has_room(engine, monkeypatch):
    made = await market(engine, one=None, two=None)
    busy = {made.workers["two"].key.address}
    load = made.world.service.parts.load
    monkeypatch.setattr(load, "queue_seconds", lambda worker: 1.0 if worker in busy else 0.0)
    await ask(made, 3)
    for _ in range(5):
        made.auditor.begin()
        await asyncio.sleep(0.01)
    assert (made.workers["two"].served, len(made.queue.waiting)) == (0, 3)
    busy.clear()
    await made.settle()
    assert made.workers["two"].served == 3


async def test_nothing_is_chosen_before_the_secret_is_written_down(engine, monkeypatch):
    made = await market(engine, one=None, two=None)

    async def away(*_):
        raise DatabaseUnreachable

    monkeypatch.setattr(made.book, "begin_secret", away)
    made.auditor._changed_at -= 10_000
    with pytest.raises(DatabaseUnreachable):
        await made.auditor.keep_up()
    await ask(made, 3)
    assert not made.queue.waiting
    monkeypatch.undo()
    await made.auditor.keep_up()
    await ask(made)
    assert len(made.queue.waiting) == 1


async def test_the_choice_can_be_checked_once_the_secret_is_out(engine):
    shares = AuditShares(0.5, 0.5, 0)
    made = await market(engine, shares=shares, cheat=far, honest=None)
    answers = await ask(made, 40)
    await made.settle()
    chosen = {audit.statements[0].receipt.request_id for audit in await made.book.audits()}
    (hidden,) = await made.book.secrets(0)
    assert hidden.secret is None
    (shown,) = await made.book.secrets(hidden.began_at + 3 * 3_600)
    assert commitment(shown.secret) == hidden.commitment == (await made.book.audits())[0].commitment
    checked = {a.request_id for a in answers if is_chosen(shown.secret, a.request_id, threshold(0.5))}
    assert checked == chosen


async def test_a_new_worker_is_audited_more_often_and_that_outlives_the_process(engine):
    shares = AuditShares(0.0, 1.0, 5)
    made = await market(engine, shares=shares, one=None, two=None)
    await ask(made, 3)
    await made.settle()
    made.auditor._read_at -= 10
    await made.auditor.keep_up()
    again = Audited(engine, shares=shares)
    await join_workers(again.world, one=None, two=None)
    await again.begin()
    await ask(again, 10)
    assert len(again.queue.waiting) == 2


async def test_values_on_an_edge_convict_at_the_third_time_only(engine):
    def other_label(_x, y):
        return y.astype("i8") + 1

    def label(_x, y):
        return y.astype("i8")

    made = await market(engine, edgy=other_label, one=label, two=label)
    edgy = made.workers["edgy"].key.address
    for strike in range(1, STRIKES + 1):
        await ask(made)
        await made.settle()
        assert len(await made.book.audits(edgy)) == strike
        assert ((await made.book.workers())[edgy].convicted_at is not None) is (strike == STRIKES)


async def test_who_is_pardoned_begins_anew(engine):
    made = await market(engine, cheat=far, honest=None, other=None)
    cheat = made.workers["cheat"]
    await ask(made)
    await made.settle()
    assert not await made.book.pardon(made.workers["honest"].key.address, 1e10)
    assert await made.book.pardon(cheat.key.address, 1e10)
    cheat.tamper = None
    made.auditor._read_at -= 10
    await made.auditor.keep_up()
    (answer,) = await ask(made)
    assert answer.receipt.worker == cheat.key.address
    assert len(await made.book.audits(cheat.key.address)) == 1, "what was is not forgotten"


async def test_slight_differences_convict_at_the_third_time(engine):
    made = await market(engine, cheat=lambda _x, y: y * 1.002, one=None, two=None)
    for strike in range(1, 4):
        await ask(made)
        await made.settle()
        workers = await made.book.workers()
        assert (workers[made.workers["cheat"].key.address].convicted_at is not None) is (strike == 3)


@pytest.mark.parametrize("options", [{"audit_tolerance": 0}, {"variants": ["half.onnx"]}, {"audit_tolerance": 0.5}])
async def test_what_a_model_says_of_itself_counts(engine, options):
    world = World(model=replace(manifest(), options=options))
    made = await market(engine, world=world, cheat=far, honest=None, other=None)
    await ask(made, 3)
    await made.settle()
    assert await made.book.audits() == []
    assert made.workers["honest"].served + made.workers["other"].served == (
        3 if options == {"audit_tolerance": 0.5} else 0
    )
