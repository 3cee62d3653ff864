"""The short lane over the memory adapters: what it needs of them, and a use case that tries it first."""

import asyncio
import math
from copy import copy

from contracts.protocol.errors import CodedError
from contracts.protocol.tensors import encode_tensors
from market.adapters.memory_reservations import MemoryReservations
from market.errors import WorkerHangs
from market.inference.model import Answer, InferenceRequest
from market.inference.plain_lanes import InstantPlainLane, SharedPlainLane
from tests.support.money import World


class Instant:
    """`submit`, `record_all` and `answer_all` by tasks over adapters that have the awaited forms only."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tasks = set()

    @property
    def reply_to(self) -> str:
        return self._world.dispatcher.reply_to

    def submit(self, job, worker, ended, *, client=None, leave_at=math.inf):
        seconds = None if leave_at == math.inf else leave_at - self._world.service.parts.wall_clock()

        async def run():
            try:
                async with asyncio.timeout(seconds):
                    outcome = await self._world.dispatcher.run(job, worker, client=client)
            except TimeoutError:
                outcome = WorkerHangs()
            except Exception as error:
                outcome = error
            ended(outcome)

        self._spawn(run())

    def record_all(self, charges, done):
        async def run():
            done(await asyncio.gather(*map(self._world.ledger.record, charges), return_exceptions=True))

        self._spawn(run())

    def answer_all(self, wanted, done):
        async def run():
            done(await asyncio.gather(*(self._world.ledger.answer(*one) for one in wanted), return_exceptions=True))

        self._spawn(run())

    def _spawn(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class ToldLater:
    """`SharedReservations` over those in memory: the same suite holds it and the ones in Redis."""

    def __init__(self, memory: MemoryReservations) -> None:
        self._memory = memory
        self.commit_now, self.release_now = memory.commit_now, memory.release_now

    def reserve_soon(self, claim, told):
        def tell():
            try:
                outcome = self._memory.reserve_now(claim)
            except Exception as error:
                outcome = error
            told(outcome)

        asyncio.get_running_loop().call_soon(tell)


def put_lane_before(world: World, *, shared: bool = False) -> None:
    """Let `world.service.infer` try the short lane first, as the gateway does; `world.took` counts what it took.

    `shared`: as a gateway of several processes does.
    """
    instant = Instant(world)
    # What it leaves to the use case must not come back to it.
    service = copy(world.service)
    if shared:
        told = ToldLater(world.reservations)
        lane = SharedPlainLane(service, dispatcher=instant, reservations=told, ledger=instant)
    else:
        lane = InstantPlainLane(service, dispatcher=instant, reservations=world.reservations, ledger=instant)
    world.lane, world.took = lane, 0
    infer, close = world.service.infer, world.service.close

    async def plain_first(request: InferenceRequest, feed=None) -> Answer:
        listing = world.registry.listing_by_name(request.model_ref)
        manifest = None if listing is None else world.offers.manifest(listing.model_id)
        if listing is None or manifest is None or feed is not None:
            return await infer(request, feed)
        future = asyncio.get_running_loop().create_future()

        def done(outcome):
            if not future.done():
                set_outcome = future.set_exception if isinstance(outcome, Exception) else future.set_result
                set_outcome(outcome)

        try:
            blob = encode_tensors(request.tensors, request.parameters)
        except CodedError:
            return await infer(request)
        if not lane.begin(request, listing, manifest, blob, done):
            return await infer(request)
        world.took += 1
        return await future

    async def close_both() -> None:
        await lane.close()
        await close()

    world.service.infer, world.service.close = plain_first, close_both
