"""Metered and streamed requests through the use case: what is sent is charged, and nothing else."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.messages import Result
from contracts.protocol.metering import ceiling_units
from contracts.protocol.tensors import Tensor, encode_tensors
from market.errors import DeadlineExceeded, InsufficientVoucher, ReceiptMismatch, RequestIdReused, WorkerFailed
from market.inference.model import Answer, Partial
from market.inference.streaming import MAX_UNREAD_TOKENS
from tests.support.generation import PROMPT_TOKENS, add_generator, chat_manifest, prompt, texts, words
from tests.support.money import CHANNEL_ID, World

RID = b"\x77" * 32
PRICE = 10


def chat_world(timeout: float = 5.0, **options) -> World:
    world = World(model=chat_manifest(**options), timeout=timeout)
    world.service._limits = type(world.service._limits)(50_000, timeout, timeout)
    return world


async def settled(world: World) -> tuple[int, int]:
    await world.service.close()
    account = await world.account()
    return account.charged, account.reserved


async def read(world: World, request, *, leave_after: int | None = None) -> list[Partial | Answer]:
    found = []
    async with aclosing(world.service.stream(request)) as stream:
        async for item in stream:
            if leave_after is not None and len(found) == leave_after:
                break
            found.append(item)
    return found


async def test_what_was_served_is_charged_and_the_rest_of_the_ceiling_released():
    world = chat_world()
    worker = await add_generator(world, "w1", length=3)
    request = prompt()
    ceiling = ceiling_units(world.model, request.tensors, request.parameters) * PRICE
    with pytest.raises(InsufficientVoucher) as short:
        await world.service.infer(prompt(pay=ceiling - 1))
    assert short.value.required == ceiling
    answer = await world.service.infer(prompt(pay=ceiling))
    price = (PROMPT_TOKENS + 3) * PRICE
    assert (answer.charged, answer.cumulative, answer.receipt.cumulative) == (price, price, price)
    assert answer.receipt.worker_amount == price * 85 // 100
    assert await settled(world) == (price, 0)
    assert worker.served == 1


async def test_the_rest_can_be_spent_by_the_next_request_at_once():
    world = chat_world()
    await add_generator(world, "w1", length=3)
    request = prompt()
    ceiling = ceiling_units(world.model, request.tensors, request.parameters) * PRICE
    spent = 0
    for _ in range(5):
        spent = (await world.service.infer(prompt(pay=spent + ceiling))).cumulative


async def test_receipts_of_requests_side_by_side_never_state_more_than_was_charged():
    world = chat_world()
    await add_generator(world, "w1", length=3, pause=0.001)
    answers = await asyncio.gather(*(world.service.infer(prompt()) for _ in range(20)))
    total = 20 * (PROMPT_TOKENS + 3) * PRICE
    assert max(answer.cumulative for answer in answers) == total
    assert all(answer.receipt.cumulative <= answer.cumulative for answer in answers)
    assert len({answer.receipt.seq for answer in answers}) == 20
    assert await settled(world) == (total, 0)
    assert (await world.service.infer(prompt())).receipt.cumulative == total + (PROMPT_TOKENS + 3) * PRICE


async def test_the_pieces_make_the_answer():
    world = chat_world()
    await add_generator(world, "w1", length=4)
    *pieces, answer = await read(world, prompt())
    assert b"".join(piece.text for piece in pieces) == words(4).encode()
    assert sum(piece.tokens for piece in pieces) == 4
    assert {piece.request_id for piece in pieces} == {answer.request_id}
    assert answer.charged == (PROMPT_TOKENS + 4) * PRICE
    assert await settled(world) == (answer.charged, 0)


@pytest.mark.parametrize("taken", [1, 3, 7])
async def test_a_reader_that_leaves_is_charged_for_what_it_took(taken):
    world = chat_world()
    worker = await add_generator(world, "w1", length=1_000, pause=0.002)
    found = await read(world, prompt(parameters={"max_tokens": 500}), leave_after=taken)
    assert len(found) == taken
    charged, reserved = await settled(world)
    # The piece in the hands of the reader when it left was not sent for good.
    assert (charged, reserved) == ((PROMPT_TOKENS + taken) * PRICE, 0)
    assert worker.stopped_at == taken
    [stored] = world.ledger.stored.values()
    assert stored.receipt.price == charged


async def test_a_reader_that_leaves_before_the_first_piece_pays_nothing():
    world = chat_world()
    worker = await add_generator(world, "w1", length=1_000, pause=0.2)
    task = asyncio.create_task(read(world, prompt()))
    while not worker.served:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await settled(world) == (0, 0)
    assert list(world.dispatcher.stops.values()) == [0]


async def test_a_reader_that_does_not_read_is_not_written_for_without_end():
    world = chat_world()
    worker = await add_generator(world, "w1", length=100_000)
    stream = world.service.stream(prompt(parameters={"max_tokens": 1_900}))
    first = await anext(stream)
    while worker.stopped_at is None:
        await asyncio.sleep(0.001)
    assert worker.stopped_at == 1
    rest = [item async for item in stream]
    assert [type(item) for item in (first, *rest)] == [Partial, Answer]
    assert rest[-1].charged == (PROMPT_TOKENS + 1) * PRICE
    assert MAX_UNREAD_TOKENS < 1_900
    assert await settled(world) == (rest[-1].charged, 0)


async def test_near_the_deadline_the_stream_ends_with_what_there_is():
    world = chat_world(timeout=3.0)
    await add_generator(world, "w1", length=100_000, pause=0.005)
    *pieces, answer = await read(world, prompt(parameters={"max_tokens": 1_900}))
    assert answer.charged == (PROMPT_TOKENS + len(pieces)) * PRICE
    text = next(tensor for tensor in answer.tensors if tensor.name == "text")
    assert text.to_numpy()[0] == words(len(pieces)).encode()
    assert await settled(world) == (answer.charged, 0)


async def test_a_worker_that_dies_in_mid_stream_is_not_replaced_nor_paid():
    world = chat_world(timeout=0.4)
    await add_generator(world, "dies", price=1, die_after=2)
    other = await add_generator(world, "other", price=2)
    pieces = []
    with pytest.raises(DeadlineExceeded):
        async for item in world.service.stream(prompt()):
            pieces.append(item)  # noqa: PERF401 - what came before the failure counts
    assert len(pieces) == 2
    assert other.served == 0
    assert await settled(world) == (0, 0)


async def test_a_worker_that_fails_before_the_first_piece_is_replaced():
    world = chat_world()
    broken = Result(b"", "0", ok=False, code="execution-failed", retry=Retry.OTHER_WORKER, detail="out of memory")
    failing = await add_generator(world, "failing", price=1, fail=broken)
    await add_generator(world, "other", price=2, length=2)
    *pieces, answer = await read(world, prompt())
    assert (len(pieces), failing.served) == (2, 1)
    assert answer.charged == (PROMPT_TOKENS + 2) * 2


@pytest.mark.parametrize(
    "lie",
    [
        {"final_text": "something else"},
        {"pieces": lambda _: b"rubbish"},
        {"pieces": lambda _: encode_tensors([texts("text", "w0 ")])},
        {"pieces": lambda n: encode_tensors([texts("text", "x" * 100_000), texts("tokens", "1")])},
    ],
)
async def test_a_worker_that_streams_one_thing_and_signs_another_is_not_paid(lie):
    world = chat_world()
    await add_generator(world, "liar", length=3, **lie)
    with pytest.raises(ReceiptMismatch):
        await read(world, prompt())
    assert await settled(world) == (0, 0)
    assert bool(world.ledger.evidence) == ("final_text" in lie), "what is not signed is no evidence"


async def test_a_flood_of_pieces_is_cut_off():
    world = chat_world()
    many = encode_tensors([texts("text", "x"), Tensor.from_numpy("tokens", np.array([10**6], np.int64))])
    await add_generator(world, "flood", length=3, pieces=lambda _: many)
    with pytest.raises(ReceiptMismatch):
        await read(world, prompt())
    assert await settled(world) == (0, 0)


async def test_a_repeated_stream_is_answered_whole_and_charged_once():
    world = chat_world()
    worker = await add_generator(world, "w1", length=3)
    *_, first = await read(world, prompt(request_id=RID))
    [again] = await read(world, prompt(request_id=RID))
    assert again.repeated
    assert again.receipt == first.receipt
    assert worker.served == 1
    with pytest.raises(RequestIdReused):
        await read(world, prompt("another", request_id=RID))
    assert await settled(world) == (first.charged, 0)


async def test_a_fault_of_the_worker_is_told_and_nothing_charged():
    world = chat_world()
    broken = Result(b"", "0", ok=False, code="execution-failed", retry=Retry.NEVER, detail="no")
    await add_generator(world, "failing", fail=broken)
    with pytest.raises(WorkerFailed):
        await read(world, prompt())
    assert await settled(world) == (0, 0)
    assert CHANNEL_ID not in world.ledger.accounts
