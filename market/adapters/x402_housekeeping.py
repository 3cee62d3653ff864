"""What the x402 door leaves to do: fund the house channel, claim what channels were charged, finish what a crash left.

Decides when, never how much anybody owes. Runs in the gateway process, which is the one sender of the house account.
Each step is tried again at the next beat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum
from market.adapters.house_channel import HouseChannel
from market.payments.ports import Ledger
from market.payments.x402_channels import PayerChannel
from market.payments.x402_model import EXACT, Authorization, PaymentRefused
from market.payments.x402_ports import SettlementPending, X402Desk
from market.telemetry import CLAIMABLE_UNITS, MISSING_UNITS

BEAT_SECONDS = 2.0
FUND_SECONDS = 10.0
LOOK_SECONDS = 30.0
# Of the channels that owe too little for a claim, so many are looked at with each: a look is a call of the node.
SMALL_LOOKS = 100

log = structlog.get_logger(__name__)


class Housekeeping:
    """The loop behind one gateway's x402 door."""

    def __init__(
        self,
        desk: X402Desk,
        *,
        house: HouseChannel,
        ledger: Ledger,
        claim_interval_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._desk = desk
        self._facilitator = desk.facilitator
        self._book = desk.book
        self._house = house
        self._ledger = ledger
        self._claim_interval_seconds = claim_interval_seconds
        self._clock = clock
        self._claimed_at = clock()
        self._looked_at = clock()
        self._funded_at = 0.0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            for step in (self.fund, self.tidy, self.watch):
                try:
                    await step()
                except (CodedError, PaymentRefused, SettlementPending) as error:
                    log.warning("x402-housekeeping", step=step.__name__, error=str(error))
                except Exception:  # the loop must outlive a surprise of the SDK
                    log.exception("x402-housekeeping", step=step.__name__)
            await asyncio.sleep(BEAT_SECONDS)

    async def fund(self) -> None:
        """Keep the house channel funded."""
        if self._clock() - self._funded_at < FUND_SECONDS:
            return
        self._funded_at = self._clock()
        account = await self._ledger.account(self._house.channel_id)
        await asyncio.to_thread(self._house.fund, 0 if account is None else account.charged)

    async def tidy(self) -> None:
        """Close what crashed requests held; settle again, and refund again, what was left undecided."""
        now = self._clock()
        # One thread reads it all: to wake it for each would cost more than to read that there is nothing.
        lost, undecided, unsent = await asyncio.to_thread(self._left_undone, now)
        for request_id in lost:
            await self._close(request_id, lost_by=now)
        for request_id in list(self._desk.unfinished):
            await self._close(request_id)
            self._desk.unfinished.discard(request_id)
        for authorization, payload in undecided:
            await self._apart(self._decide, authorization, payload)
        for request_id, payer, amount in unsent:
            await self._apart(self._pay_back, request_id, payer, amount)

    async def watch(self) -> None:
        """Look at the channels' state on chain; claim on time, and at once when a payer starts to leave."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS or now - self._claimed_at >= self._claim_interval_seconds:
            self._looked_at = now
            await asyncio.to_thread(self._watch, now - self._claimed_at >= self._claim_interval_seconds)

    # --- parts --------------------------------------------------------------------------------------------------

    def _left_undone(
        self, now: float
    ) -> tuple[Sequence[bytes], Sequence[tuple[Authorization, str]], Sequence[tuple[bytes, bytes, int]]]:
        return self._book.lost(now), self._book.undecided(now), self._book.unsent_refunds()

    async def _close(self, request_id: bytes, lost_by: float | None = None) -> None:
        """Charge what was served before its process died, or its book was away; give back what was not."""
        served = await self._ledger.receipt(request_id, self._house.channel_id)
        if served is None:
            await asyncio.to_thread(self._book.release, request_id, lost_by=lost_by)
        else:
            await asyncio.to_thread(self._book.charge, request_id, served.receipt.price, now=self._clock())

    async def _apart(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do one payer's piece of work: what fails is tried at the next beat and holds nobody else up."""
        try:
            await asyncio.to_thread(work, *arguments)
        except (CodedError, SettlementPending) as error:
            log.warning("x402-left-undone", work=work.__name__.strip("_"), error=str(error))

    def _decide(self, authorization: Authorization, payload: str) -> None:
        offer = self._offer(authorization.value)
        payment = {"x402Version": 2, "accepted": offer, "payload": orjson.loads(payload)}
        try:
            settled = self._facilitator.settle(payment, offer)
        except PaymentRefused:
            self._book.abandon(authorization)
        else:
            self._book.bought(authorization, settled.transaction)

    def _pay_back(self, request_id: bytes, payer: bytes, amount: int) -> None:
        self._book.refunded(request_id, self._facilitator.pay(refund_purpose(request_id), payer, amount))

    def _watch(self, claim: bool) -> None:
        owing = [channel for channel in self._book.channels() if channel.charged > channel.total_claimed]
        CLAIMABLE_UNITS.set(sum(channel.owed for channel in owing))
        small = [channel for channel in owing if channel.owed < self._desk.least_claim]
        looked_at = [channel for channel in owing if channel.owed >= self._desk.least_claim]
        if claim:
            looked_at += sorted(small, key=lambda channel: channel.synced_at)[:SMALL_LOOKS]
        seen = [self._see(channel) for channel in looked_at]
        leaving = [channel for channel in seen if channel.withdraw_requested_at]
        if claim:
            self._claimed_at = self._clock()
        self._claim(seen if claim else leaving)

    def _claim(self, channels: list[PayerChannel]) -> int:
        claimed = self._facilitator.claim(channels, self._desk.least_claim)
        for channel in claimed:
            self._see(channel)
        if claimed:
            log.info("x402-channels-claimed", channels=len(claimed))
        return len(claimed)

    def _see(self, channel: PayerChannel) -> PayerChannel:
        """Look at a channel, write down what the chain says, and say what its payer took out before it was claimed."""
        seen = self._facilitator.look(channel)
        self._book.see_channel(seen)
        lost = seen.missing - channel.missing
        if lost > 0:
            MISSING_UNITS.inc(lost)
            log.warning("x402-taken-out-unclaimed", channel=channel.channel_id.hex(), units=lost)
        return seen

    def _offer(self, amount: int) -> dict[str, Any]:
        return {
            "scheme": EXACT,
            "network": self._desk.merchant.network,
            "asset": checksum(self._desk.merchant.token),
            "amount": str(amount),
            "payTo": checksum(self._desk.merchant.receiver),
            "maxTimeoutSeconds": 0,
            "extra": {"name": self._desk.token_name, "version": self._desk.token_version},
        }


def refund_purpose(request_id: bytes) -> str:
    """Name the one transaction of a refund."""
    return f"x402:refund:{request_id.hex()}"
