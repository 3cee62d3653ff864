"""Cooperative refunds: the gateway signs that a channel's free money may leave at once.

Decides how much is free: what is neither charged nor set aside nor on its way out. A signed refund can be submitted at
any later time, so its amount is kept from being spent from before it is signed until the chain has paid it. Called by
the gateway's API.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from contracts.protocol.money import both
from contracts.protocol.signing import PrivateKey, is_signed_by
from contracts.protocol.typed_data import Domain, Refund
from market.errors import ChannelNotFound, RefundNotFree, RefundNotSigned, RefundOutOfStep, WrongGateway
from market.payments.ports import Channels, Reservations


class RefundPromises(Protocol):
    """The refunds that are signed, or about to be, kept for good."""

    def outstanding(self, channel_id: bytes, nonce: int) -> int:
        """Return what is promised under the channel's current number, atomic units; reads memory only."""
        ...

    def signed(self, channel_id: bytes, nonce: int) -> int:
        """Return what of that was signed; reads memory only."""
        ...

    def keep(self, channel_id: bytes, nonce: int, amount: int) -> None:
        """Make a promise durable and visible; the higher of two under one number stays."""
        ...

    def sign(self, channel_id: bytes, nonce: int, amount: int) -> bool:
        """Write down that so much of a promise is signed; False, and nothing done, if it was taken back meanwhile."""
        ...

    def take_back(self, channel_id: bytes, nonce: int, amount: int) -> None:
        """Lower a promise to `amount`, what was promised before it, but never below what is signed."""
        ...

    def refresh(self) -> None:
        """See what other processes promised."""
        ...


@dataclass(frozen=True, slots=True)
class SignedRefund:
    """A refund the payer may submit to the escrow."""

    refund: Refund
    signature: bytes


class RefundDesk:
    """Signs refunds; one per gateway process.

    `visible_after_seconds` is how long until every other process of this gateway sees a promise; 0 where there is none.
    """

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        channels: Channels,
        reservations: Reservations,
        promises: RefundPromises,
        visible_after_seconds: float,
    ) -> None:
        self._key = key
        self._domain = domain
        self._channels = channels
        self._reservations = reservations
        self._promises = promises
        self._visible_after_seconds = visible_after_seconds
        # One for each channel: somebody else's refund waits for no other.
        self._signing: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def sign(self, refund: Refund, asked_by: bytes) -> SignedRefund:
        """Sign a refund that the channel's payer or signer asked for by signing it first.

        Raises:
            ChannelNotFound, WrongGateway: as named.
            RefundNotSigned: the request is neither the payer's nor the signer's.
            RefundOutOfStep: the number is not the channel's next.
            RefundNotFree: not so much is free; nothing is promised.
        """
        facts = self._channels.facts(refund.channel_id)
        if facts is None:
            raise ChannelNotFound(field="channel_id")
        if facts.channel.gateway != self._key.address:
            raise WrongGateway(field="channel_id")
        digest = refund.digest(self._domain)
        if not any(is_signed_by(digest, asked_by, who) for who in (facts.channel.signer, facts.channel.payer)):
            raise RefundNotSigned(field="signature")
        turn = self._signing.setdefault(refund.channel_id, asyncio.Lock())
        async with turn:
            await self._promise(refund)
        return SignedRefund(refund, self._key.sign_digest(digest))

    async def _promise(self, refund: Refund) -> None:
        channel_id, nonce, amount = refund.channel_id, refund.nonce, refund.amount
        before = self._promises.outstanding(channel_id, nonce)
        await self._check(refund, before)
        if amount <= self._promises.signed(channel_id, nonce):
            return
        await asyncio.to_thread(self._promises.keep, channel_id, nonce, amount)
        try:
            # From here nobody can set this money aside; what was set aside meanwhile is counted now.
            await asyncio.sleep(self._visible_after_seconds)
            await self._check(refund, amount)
            if not await asyncio.to_thread(self._promises.sign, channel_id, nonce, amount):
                raise RefundOutOfStep("another refund of this number was refused meanwhile.", field="nonce")
        except BaseException:
            await asyncio.to_thread(self._promises.take_back, channel_id, nonce, before)
            raise

    async def _check(self, refund: Refund, promised: int) -> None:
        """Check number and amount; `promised` is what is kept back for this refund already."""
        facts = self._channels.facts(refund.channel_id)
        if facts is None:
            raise ChannelNotFound(field="channel_id")
        if refund.nonce != facts.refund_nonce:
            raise RefundOutOfStep(f"{refund.nonce} given, {facts.refund_nonce} is next.", field="nonce")
        account = await self._reservations.account(refund.channel_id)
        free = facts.deposited - facts.exiting + promised - account.charged - account.reserved
        if refund.amount > free or refund.amount == 0:
            raise RefundNotFree(f"{both(max(0, free))} is free, {both(refund.amount)} asked.", field="amount")
