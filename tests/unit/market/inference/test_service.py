import asyncio
from dataclasses import replace

import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.manifest import FileEntry
from contracts.protocol.messages import Result
from contracts.protocol.signing import recover
from contracts.protocol.typed_data import Channel
from market.errors import (
    ChannelExiting,
    DeadlineExceeded,
    GatewaysChannel,
    InsufficientVoucher,
    NoCapacity,
    NoPayment,
    Overloaded,
    PriceAboveLimit,
    ReceiptMismatch,
    RequestIdReused,
    RequestInProgress,
    StaleVoucher,
    UnknownModel,
    WorkerFailed,
    WrongTensorShape,
)
from market.registry.model import ChannelRecord
from tests.support.money import CHANNEL_ID, DOMAIN, GATEWAY, OWNER, PAYER, World, tensor, voucher

pytestmark = pytest.mark.usefixtures("either_lane")

RID = b"\x77" * 32


async def settled(world: World) -> tuple[int, int]:
    await world.service.close()
    account = await world.account()
    return account.charged, account.reserved


async def test_answer_carries_outputs_and_a_receipt_of_both():
    world = World()
    worker = await world.add_worker("w1", price=100)
    answer = await world.service.infer(world.request(rows=3))
    assert np.array_equal(answer.tensors[0].to_numpy(), np.full((3, 4), 2, np.float32))
    assert (answer.charged, answer.cumulative) == (300, 300)
    digest = answer.receipt.digest(DOMAIN)
    assert recover(digest, answer.worker_signature) == worker.key.address
    assert recover(digest, answer.gateway_signature) == GATEWAY.address
    assert (answer.receipt.worker_amount, answer.receipt.owner_amount) == (255, 30)
    assert await settled(world) == (300, 0)
    assert await world.ledger.earned(OWNER) == 30
    papers = world.papers.take(worker.key.address)
    assert papers.countersigned == ((answer.request_id, answer.gateway_signature),)
    assert papers.credit_note.cumulative_amount == 255


async def test_cumulative_of_receipts_grows_with_the_channel():
    world = World()
    await world.add_worker("w1", price=100)
    answers = [await world.service.infer(world.request()) for _ in range(3)]
    assert [answer.receipt.cumulative for answer in answers] == [100, 200, 300]
    first, second, third = (answer.receipt.seq for answer in answers)
    assert (second, third) == (first + 1, first + 2)


@pytest.mark.parametrize("ref", ["nobody", "0x12", "0x" + "00" * 32])
async def test_unknown_model(ref):
    with pytest.raises(UnknownModel):
        await World().service.infer(World().request(model_ref=ref))


async def test_refused_before_any_work():
    world = World()
    worker = await world.add_worker("w1")
    with pytest.raises(NoPayment):
        await world.service.infer(world.request(pay=None))
    with pytest.raises(InsufficientVoucher) as caught:
        await world.service.infer(world.request(pay=99))
    assert caught.value.required == 100
    with pytest.raises(PriceAboveLimit):
        await world.service.infer(world.request(rows=2, max_price=199))
    with pytest.raises(NoCapacity):
        await world.service.infer(world.request(worker=b"\x55" * 20))
    assert worker.served == 0
    assert await settled(world) == (0, 0)


async def test_spent_voucher_is_stale():
    world = World()
    await world.add_worker("w1")
    await world.service.infer(world.request(pay=100))
    with pytest.raises(StaleVoucher) as caught:
        await world.service.infer(world.request(pay=100))
    assert caught.value.required == 200


async def test_parallel_replays_of_one_voucher_make_one_job():
    world = World()
    worker = await world.add_worker("w1", pause=0.01)
    done = await asyncio.gather(
        *(world.service.infer(world.request(pay=100)) for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(one, Exception) for one in done) == 1
    assert worker.served == 1
    assert await settled(world) == (100, 0)


async def test_fails_over_to_another_worker_at_another_price():
    world = World()
    cheap = await world.add_worker("cheap", price=100)
    cheap.tamper = lambda job, result: Result(
        job.request_id, job.attempt, ok=False, code="out-of-memory", retry=Retry.OTHER_WORKER, detail="no room"
    )
    dear = await world.add_worker("dear", price=150)
    answer = await world.service.infer(world.request())
    assert (cheap.served, dear.served, answer.charged) == (1, 1, 150)
    assert await settled(world) == (150, 0)


async def test_worker_that_is_gone_is_passed_over():
    world = World()
    gone = await world.add_worker("gone", price=1)
    await world.add_worker("w2", price=100)
    del world.dispatcher.handlers[gone.key.address]
    assert (await world.service.infer(world.request())).charged == 100


async def test_without_another_worker_the_failure_is_told_and_nothing_charged():
    world = World()
    worker = await world.add_worker("w1")
    del world.dispatcher.handlers[worker.key.address]
    with pytest.raises(WorkerFailed):
        await world.service.infer(world.request())
    assert await settled(world) == (0, 0)


async def test_full_worker_is_passed_over_and_told_if_all_are_full():
    world = World()
    full = await world.add_worker("full")

    async def refuse(job):
        raise Overloaded

    world.dispatcher.handlers[full.key.address] = refuse
    with pytest.raises(Overloaded):
        await world.service.infer(world.request())
    await world.add_worker("w2", price=200)
    assert (await world.service.infer(world.request())).charged == 200


async def test_fault_of_the_request_is_not_tried_elsewhere():
    world = World()
    first = await world.add_worker("w1", price=1)
    second = await world.add_worker("w2", price=2)
    first.tamper = lambda job, result: Result(
        job.request_id, job.attempt, ok=False, code="tensor-shape", retry=Retry.NEVER, detail="x is too long", field="x"
    )
    with pytest.raises(WrongTensorShape) as caught:
        await world.service.infer(world.request())
    assert caught.value.field == "x"
    assert second.served == 0
    assert await settled(world) == (0, 0)


def forge_output(job, result):
    return replace(result, outputs=(result.outputs or b"")[:-1] + b"\x01")


def forge_signature(job, result):
    return replace(result, signature=GATEWAY.sign_digest(b"\x01" * 32))


def forge_time(job, result):
    return replace(result, served_at=1)


def lose_hash(job, result):
    return replace(result, output_hash=b"")


@pytest.mark.parametrize("tamper", [forge_output, forge_signature, forge_time, lose_hash])
async def test_result_that_contradicts_its_signature_is_kept_as_evidence(tamper):
    world = World()
    worker = await world.add_worker("w1", tamper=tamper)
    with pytest.raises(ReceiptMismatch):
        await world.service.infer(world.request())
    assert await settled(world) == (0, 0)
    assert [one.worker for one in world.ledger.evidence] == [worker.key.address]
    assert len(world.ledger.evidence[0].receipt.to_bytes()) == type(world.ledger.evidence[0].receipt).WIRE_BYTES


async def test_mismatch_at_one_worker_is_served_by_the_next():
    world = World()
    await world.add_worker("liar", price=1, tamper=forge_output)
    await world.add_worker("honest", price=2)
    assert (await world.service.infer(world.request())).charged == 2


async def test_deadline_releases():
    world = World(timeout=0.05)
    await world.add_worker("slow", pause=5)
    with pytest.raises(DeadlineExceeded):
        await world.service.infer(world.request())
    assert await settled(world) == (0, 0)


async def test_client_gone_during_work_releases():
    world = World()
    worker = await world.add_worker("w1", gate=asyncio.Event())
    # Not plain: the short lanes do not watch their clients.
    traced = world.request(trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    task = asyncio.create_task(world.service.infer(traced))
    while not worker.served:
        await asyncio.sleep(0)
    assert await settled(world) == (0, 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.service.close()
    assert await settled(world) == (0, 0)


async def test_client_gone_during_the_charge_still_charges():
    world = World()
    await world.add_worker("w1")
    entered, go_on = asyncio.Event(), asyncio.Event()
    record = world.ledger.record

    async def slow_record(charge):
        entered.set()
        await go_on.wait()
        return await record(charge)

    world.ledger.record = slow_record
    task = asyncio.create_task(world.service.infer(world.request()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await world.service.close()
    assert await settled(world) == (100, 0)
    assert world.papers.waiting()


async def test_repeated_request_id_is_answered_once_charged():
    world = World()
    worker = await world.add_worker("w1")
    first = await world.service.infer(world.request(request_id=RID))
    again = await world.service.infer(world.request(request_id=RID))
    assert again.repeated
    assert not first.repeated
    assert again.receipt == first.receipt
    assert np.array_equal(again.tensors[0].to_numpy(), first.tensors[0].to_numpy())
    assert again.cumulative == 100
    world.join()
    after_restart = await world.service.infer(world.request(request_id=RID))
    assert after_restart.receipt == first.receipt
    assert worker.served == 1
    with pytest.raises(RequestIdReused):
        await world.service.infer(world.request(request_id=RID, tensors=(tensor(2),)))
    assert (await world.service.infer(world.request(request_id=RID, requested_outputs=("y",)))).repeated
    with pytest.raises(RequestIdReused, match="without the output z"):
        await world.service.infer(world.request(request_id=RID, requested_outputs=("y", "z")))
    await world.ledger.sweep(2**40)
    with pytest.raises(RequestIdReused):
        await world.service.infer(world.request(request_id=RID))
    assert await settled(world) == (100, 0)


async def test_a_request_that_came_to_nothing_and_is_asked_again_by_its_id_is_a_job_of_its_own():
    """A node runs each job once, and a worker ends what its gateway called off: neither may be taken for the new one."""
    world = World()
    worker = await world.add_worker("w1")
    seen = []

    def fail_at_first(job, result):
        seen.append((job.request_id, job.attempt))
        return replace(result, ok=False, code="execution-failed", retry=Retry.LATER) if len(seen) == 1 else result

    worker.tamper = fail_at_first
    with pytest.raises(WorkerFailed):
        await world.service.infer(world.request(request_id=RID))
    assert (await world.service.infer(world.request(request_id=RID))).charged == 100
    world.join()
    assert len(set(seen)) == 2
    assert {request_id for request_id, _ in seen} == {RID}
    assert await settled(world) == (100, 0)


async def test_request_id_in_progress_and_found_right_after():
    world = World()
    worker = await world.add_worker("w1", gate=asyncio.Event())
    task = asyncio.create_task(world.service.infer(world.request(request_id=RID)))
    while not worker.served:
        await asyncio.sleep(0)
    with pytest.raises(RequestInProgress):
        await world.service.infer(world.request(request_id=RID))
    worker.gate.set()
    first = await task
    # The look-up before the reservation may miss a charge made meanwhile: the reservation notices.
    answer, calls = world.ledger.answer, []

    async def late_answer(channel_id, request_id):
        calls.append(request_id)
        return None if len(calls) == 1 else await answer(channel_id, request_id)

    world.ledger.answer = late_answer
    again = await world.service.infer(world.request(request_id=RID))
    assert again.repeated
    assert again.receipt == first.receipt
    assert worker.served == 1


async def test_charge_is_rebuilt_from_the_ledger_after_a_restart():
    world = World()
    await world.add_worker("w1")
    await world.service.infer(world.request(pay=200))
    world.join()
    answer = await world.service.infer(world.request(pay=200))
    assert answer.receipt.cumulative == 200
    with pytest.raises(StaleVoucher):
        await world.service.infer(world.request(pay=200))


async def test_quotes_are_sorted_by_price():
    world = World()
    await world.add_worker("dear", price=200)
    await world.add_worker("cheap", price=100)
    assert [quote.unit_price for quote in world.service.quote("tiny")] == [100, 200]


async def test_window_of_concurrent_requests_under_one_voucher():
    world = World()
    await world.add_worker("w1", pause=0.001)
    done = await asyncio.gather(
        *(world.service.infer(world.request(pay=5_000)) for _ in range(60)), return_exceptions=True
    )
    served = [one for one in done if not isinstance(one, Exception)]
    assert len(served) == 50
    assert sorted(one.cumulative for one in served) == [100 * i for i in range(1, 51)]
    assert all(one.receipt.cumulative <= one.cumulative for one in served)
    assert await settled(world) == (5_000, 0)


async def test_smaller_voucher_rides_on_the_best_one():
    world = World()
    await world.add_worker("w1")
    await world.service.infer(world.request(pay=1_000))
    answer = await world.service.infer(world.request(voucher=voucher(50)))
    assert answer.cumulative == 200
    assert world.ledger.accounts[CHANNEL_ID].ceiling == 1_000


@pytest.mark.parametrize("amount", [10**9, 100])
async def test_nobody_else_spends_the_gateways_own_channel(amount):
    world = World()
    worker = await world.add_worker("w1")
    house = Channel(PAYER.address, GATEWAY.address, GATEWAY.address, 402)
    house_id = house.digest(DOMAIN)
    record = ChannelRecord(house_id, house.payer, house.signer, house.gateway, 402, 10**9, 0)
    world.registry.open[house_id] = record
    # Its newest voucher as every worker sees it, and an older one as it stands on chain.
    newest, shown = (voucher(each, channel_id=house_id, key=GATEWAY) for each in (10**9, amount))
    by_x402 = world.request(pay=None, voucher=newest, payer=b"\x44" * 20)
    await world.service.infer(by_x402)
    await world.service.infer(world.request(pay=None, voucher=newest, audited=False))
    with pytest.raises(GatewaysChannel) as refused:
        await world.service.infer(world.request(pay=None, voucher=shown))
    assert (refused.value.field, worker.served) == ("Market-Voucher", 2)


async def test_a_refund_while_a_worker_fails_is_not_spent_at_a_dearer_one():
    world = World()
    world.open_channel(deposited=1_000)
    cheap = await world.add_worker("cheap", price=100, gate=asyncio.Event())
    cheap.tamper = lambda job, result: Result(
        job.request_id, job.attempt, ok=False, code="out-of-memory", retry=Retry.OTHER_WORKER, detail="no room"
    )
    dear = await world.add_worker("dear", price=900)
    asked = asyncio.create_task(world.service.infer(world.request()))
    while not cheap.served:
        await asyncio.sleep(0)
    assert (await world.account()).reserved == 100
    world.open_channel(deposited=1_000, exit_at=1, exit_amount=900)  # as a signed refund of what is free counts
    cheap.gate.set()
    with pytest.raises(ChannelExiting):
        await asked
    assert dear.served == 0
    assert await settled(world) == (0, 0)


async def test_a_refund_while_a_request_id_is_looked_up_is_seen():
    world = World()
    world.open_channel(deposited=1_000)
    worker = await world.add_worker("w1", price=500)
    answer = world.ledger.answer

    async def meanwhile(channel_id, request_id):
        world.open_channel(deposited=1_000, exit_at=1, exit_amount=900)
        return await answer(channel_id, request_id)

    world.ledger.answer = meanwhile
    with pytest.raises(ChannelExiting):
        await world.service.infer(world.request(request_id=RID))
    assert worker.served == 0
    assert await settled(world) == (0, 0)


async def test_a_request_id_is_answered_again_after_its_models_name_has_moved_to_a_newer_version():
    world = World()
    old = await world.add_worker("w1")
    first = await world.service.infer(world.request(request_id=RID))
    before, world.model = world.listing, replace(world.model, files={"model.onnx": FileEntry(b"\x02" * 32, 10)})
    newer = replace(before, model_id=world.model.model_id)
    superseded = replace(before, superseded_by=newer.model_id)
    world.registry.by_id = {newer.model_id: newer, before.model_id: superseded}
    new = await world.add_worker("w2")
    again = await world.service.infer(world.request(request_id=RID))
    assert (again.repeated, again.receipt) == (True, first.receipt)
    with pytest.raises(RequestIdReused):
        await world.service.infer(world.request(request_id=RID, rows=2))
    with pytest.raises(RequestIdReused):
        await world.service.infer(world.request(request_id=RID, model_ref="0x" + newer.model_id.hex()))
    fresh = await world.service.infer(world.request(request_id=b"\x78" * 32))
    assert fresh.receipt.model_id == newer.model_id
    assert (old.served, new.served) == (1, 1)
    assert await settled(world) == (200, 0)
