"""The whole paid path with a fault at any step: answered means charged once, failed means charged nothing or findable."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import DatabaseUnreachable, MarketError
from tests.support.money import CHANNEL_ID, World

FAULTS = [
    "none",
    "worker-gone",
    "worker-lies",
    "database-before",
    "database-after",
    "client-leaves",
    "client-leaves-in-charge",
    "restart",
]
steps = st.lists(
    st.tuples(
        st.sampled_from(FAULTS), st.one_of(st.none(), st.integers(0, 3)), st.integers(1, 3), st.integers(0, 2_000)
    ),
    max_size=25,
)


class Faulty:
    """Puts the wanted fault in the way of the next request."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fault = "none"
        self.record = world.ledger.record
        self.charging: asyncio.Event = asyncio.Event()
        world.ledger.record = self._record

    async def _record(self, charge):
        self.charging.set()
        if self.fault == "database-before":
            raise DatabaseUnreachable
        if self.fault == "client-leaves-in-charge":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        recorded = await self.record(charge)
        if self.fault == "database-after":
            raise DatabaseUnreachable
        return recorded


async def play(script) -> None:
    world = World(timeout=2.0)
    worker = await world.add_worker("w1", price=100)
    faulty = Faulty(world)
    answers = {}
    for fault, named, rows, pay in script:
        faulty.fault = fault
        faulty.charging = asyncio.Event()
        if fault == "restart":
            world.join()
            continue
        handler = world.dispatcher.handlers.pop(worker.key.address)
        if fault != "worker-gone":
            world.dispatcher.handlers[worker.key.address] = handler
        worker.tamper = (
            (lambda job, result: type(result)(job.request_id, "0", ok=True, outputs=b"?"))
            if fault == "worker-lies"
            else None
        )
        request = world.request(
            pay=pay, rows=rows, request_id=None if named is None else (named * 10 + rows).to_bytes(32, "big")
        )
        task = asyncio.create_task(world.service.infer(request))
        if fault == "client-leaves":
            await asyncio.sleep(0)
            task.cancel()
        if fault == "client-leaves-in-charge":
            charging = asyncio.create_task(faulty.charging.wait())
            await asyncio.wait([task, charging], return_when=asyncio.FIRST_COMPLETED)
            charging.cancel()
            task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        await world.service.close()
        world.dispatcher.handlers[worker.key.address] = worker
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, (MarketError, asyncio.CancelledError)), outcome
        else:
            key = (outcome.request_id, CHANNEL_ID)
            assert world.ledger.stored[key].receipt == outcome.receipt
            if named is not None:
                assert answers.setdefault(outcome.request_id, outcome.receipt) == outcome.receipt
        account = await world.account()
        durable = await world.ledger.account(CHANNEL_ID)
        charged = sum(one.receipt.price for one in world.ledger.stored.values())
        assert account.reserved == 0
        assert charged == (0 if durable is None else durable.charged)
        # After "durable but not told" the process learns of the charge with the next one, and never counts too much.
        assert account.charged <= charged
        assert len(world.ledger.stored) <= worker.served


@settings(max_examples=120, deadline=None)
@given(steps)
def test_no_fault_loses_or_doubles_money(script):
    asyncio.run(play(script))
