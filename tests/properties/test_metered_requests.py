"""Metered requests of one channel side by side, plain and streamed, read or left: the money is right at every point."""

import asyncio
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import MarketError
from market.inference.model import Answer, Partial
from tests.support.generation import PROMPT_TOKENS, add_generator, chat_manifest, prompt
from tests.support.money import CHANNEL_ID, World

PRICE = 10
WAYS = st.sampled_from(["plain", "stream", "leave", "cancel", "lie"])
requests = st.lists(st.tuples(WAYS, st.integers(1, 12), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=12)


class Watch:
    """Records every durable charge with the channel's total after it."""

    def __init__(self, world: World) -> None:
        self.record = world.ledger.record
        world.ledger.record = self
        self.seen = []

    async def __call__(self, charge):
        recorded = await self.record(charge)
        self.seen.append((charge.receipt, recorded.charged))
        return recorded


async def play(script, ceiling: int) -> None:
    world = World(model=chat_manifest(), timeout=5.0)
    worker = await add_generator(world, "w1", length=8)
    liar = await add_generator(world, "liar", price=PRICE + 1, length=8, final_text="?")
    watch = Watch(world)
    outcomes: list[tuple[str, int, object]] = []

    async def one(way: str, limit: int, taken: int, delay: int) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        address = liar.key.address if way == "lie" else worker.key.address
        request = prompt(pay=ceiling, parameters={"max_tokens": limit}, worker=address)
        try:
            if way == "plain":
                outcomes.append((way, limit, await world.service.infer(request)))
                return
            got: list[Partial | Answer] = []
            async with aclosing(world.service.stream(request)) as stream:
                async for item in stream:
                    if way == "leave" and len(got) == taken:
                        break
                    got.append(item)
            outcomes.append((way, limit, got))
        except MarketError as error:
            outcomes.append(("refused", limit, error))

    tasks = [asyncio.create_task(one(*row)) for row in script]
    for (way, _, taken, _), task in zip(script, tasks, strict=True):
        if way == "cancel":
            for _ in range(taken):
                await asyncio.sleep(0)
            task.cancel()
    for done in await asyncio.gather(*tasks, return_exceptions=True):
        assert done is None or isinstance(done, asyncio.CancelledError), done
    await world.service.close()

    account = await world.account()
    durable = await world.ledger.account(CHANNEL_ID)
    charged = 0 if durable is None else durable.charged
    assert account.reserved == 0
    assert account.charged == charged <= ceiling
    assert charged == sum(receipt.price for receipt, _ in watch.seen)
    for receipt, total in watch.seen:
        assert receipt.cumulative <= total, "a receipt states only what was charged"
        assert receipt.price % PRICE == 0
        assert receipt.worker_amount + receipt.owner_amount <= receipt.price
    assert len({receipt.seq for receipt, _ in watch.seen}) == len(watch.seen)
    for way, limit, outcome in outcomes:
        answers = (
            [outcome] if way == "plain" else [o for o in outcome if isinstance(o, Answer)] if way == "stream" else []
        )
        for answer in answers:
            assert answer.charged == (PROMPT_TOKENS + min(limit, 8)) * PRICE


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(500, 20_000))
def test_metered_money_is_right_at_every_point(script, ceiling):
    asyncio.run(play(script, ceiling))
