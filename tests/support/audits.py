"""A market in memory that audits: a house channel of its own, a real book, workers that cheat."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np

from contracts.protocol.messages import Result
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors, encode_tensors
from contracts.protocol.typed_data import Channel
from market.adapters.database.audit_book import DatabaseAuditBook
from market.bootstrap.audits import by_the_clients_way
from market.inference.audit_queue import AuditQueue
from market.inference.audits import Auditor
from market.registry.model import ChannelRecord
from market.verification.audit_choice import AuditShares
from market.verification.output_diff import DEFAULT_TOLERANCE
from market.verification.result_check import receipt_of
from tests.support.money import DOMAIN, GATEWAY, World, voucher

HOUSE = PrivateKey(b"\x77" * 32)
HOUSE_CHANNEL = Channel(HOUSE.address, GATEWAY.address, GATEWAY.address, 402)
HOUSE_ID = HOUSE_CHANNEL.digest(DOMAIN)
ALL = AuditShares(1.0, 1.0, 0)


class Audited:
    """A world whose requests are audited; `house` is what the gateway's own channel holds."""

    def __init__(self, engine, *, shares=ALL, house=10**9, referees=frozenset(), lane=False, world=None) -> None:
        self.world = world or World()
        self.queue = AuditQueue(shares, tolerance=DEFAULT_TOLERANCE, provider=lambda _: "cpu", clock=time.monotonic)
        self.world.audits = self.queue
        self.world.join()
        if lane:
            from tests.support.plain import put_lane_before

            put_lane_before(self.world)
        record = ChannelRecord(
            HOUSE_ID, HOUSE_CHANNEL.payer, HOUSE_CHANNEL.signer, HOUSE_CHANNEL.gateway, 402, house, 0
        )
        self.world.registry.open[HOUSE_ID] = record
        self.house = house
        self.book = DatabaseAuditBook(engine, GATEWAY.address)
        self.auditor = Auditor(
            self.queue,
            book=self.book,
            offers=self.world.offers,
            placement=self.world.service.parts.placement,
            ask=by_the_clients_way(self.world.service, self.world.lane) if lane else self._by_use_case,
            voucher=lambda: voucher(self.house, channel_id=HOUSE_ID, key=GATEWAY),
            referees=referees,
            clock=time.monotonic,
            wall_clock=time.time,
        )

    async def _by_use_case(self, request, chosen):
        return await self.world.service.infer(request)

    async def begin(self) -> None:
        await self.auditor.keep_up()

    async def settle(self, seconds: float = 5.0) -> None:
        """Audit until nothing waits or runs."""
        await asyncio.sleep(0)  # what was served is noted a turn later
        until = time.monotonic() + seconds
        while self.queue.waiting or self.auditor._running:
            self.auditor.begin()
            await asyncio.sleep(0.005)
            assert time.monotonic() < until, "audits do not come to an end"


def answering(change):
    """Return a tamper for `FakeWorker`: its outputs are `change(inputs, honest outputs)`, honestly signed."""

    def of(key):
        def tamper(job, result: Result) -> Result:
            inputs, _ = decode_tensors(job.inputs)
            honest, _ = decode_tensors(result.outputs)
            y = change(inputs[0].to_numpy(), honest[0].to_numpy())
            outputs = encode_tensors([Tensor.from_numpy("y", np.asarray(y))])
            other = replace(result, outputs=outputs, output_hash=content_hash(outputs))
            receipt = receipt_of(job, other, key.address, channel_id=job.channel.digest(DOMAIN))
            return replace(other, signature=key.sign_digest(receipt.digest(DOMAIN)))

        return tamper

    return of


async def join_workers(world: World, **tampers):
    """Add a worker of an operator of its own for each name; returns them by name."""
    made = {}
    for i, (name, change) in enumerate(tampers.items()):
        worker = await world.add_worker(name, price=100 + i, operator=bytes([0x60 + i]) * 20)
        if change is not None:
            worker.tamper = answering(change)(worker.key)
        made[name] = worker
    return made
