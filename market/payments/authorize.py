"""Decides whether a voucher pays for a request, and sets the money aside before any work is done.

Steps: the channel is on chain and pays this gateway, the voucher is its signer's, and
`charged + reserved + price ≤ min(voucher, deposit − exiting, settled + exposure cap)`. Charges nothing. Called by
`market.inference.service`.
"""

from __future__ import annotations

from contracts.protocol.money import both
from contracts.protocol.randomness import Draws
from contracts.protocol.typed_data import Domain
from market.errors import (
    ChannelExiting,
    ExposureLimit,
    GatewaysChannel,
    InsufficientDeposit,
    InsufficientVoucher,
    KeyUnfunded,
    PaymentError,
    StaleVoucher,
    UnknownChannel,
    WrongGateway,
)
from market.payments.model import Account, ChannelFacts, Claim, KeySpending, ParsedVoucher, Reservation
from market.payments.ports import Channels, OverLimit, Reservations
from market.payments.vouchers import VoucherVerifier

_TOKENS = Draws(8)


class Authorizer:
    """Turns a voucher and a price into a reservation."""

    def __init__(
        self,
        *,
        domain: Domain,
        gateway: bytes,
        channels: Channels,
        reservations: Reservations,
        exposure_cap: int,
    ) -> None:
        self._gateway = gateway
        self._channels = channels
        self._reservations = reservations
        self._exposure_cap = exposure_cap
        self._vouchers = VoucherVerifier(domain)

    def check(self, voucher: ParsedVoucher, *, own: bool = False, by_key: bool = False) -> ChannelFacts:
        """Return the channel's facts if the voucher is genuine, pays this gateway, and is sent by who may spend it.

        Workers see a voucher, and a settlement shows it to everybody. So a channel that says so is spent from only by
        who shows `ChannelAccess`, or asks by an API key (`by_key`); and the gateway's own channel, each voucher of
        which is over all that it holds, only by the gateway itself (`own`).

        Raises:
            UnknownChannel, WrongGateway, InvalidSignature: as named.
            AccessNeeded: the voucher alone does not do.
            GatewaysChannel: somebody else sends a voucher of the gateway's own channel.
        """
        facts = self._facts(voucher.channel_id)
        channel = facts.channel
        if channel.gateway != self._gateway:
            raise WrongGateway(field="Market-Voucher")
        if channel.signer == self._gateway and not own:
            raise GatewaysChannel(field="Market-Voucher")
        self._vouchers.verify(voucher, channel.signer)
        if channel.needs_access and not (by_key or own):
            self._vouchers.verify_access(voucher, channel.signer)
        return facts

    async def reserve(
        self,
        voucher: ParsedVoucher,
        *,
        price: int,
        request_id: bytes,
        ttl_seconds: float,
        remember: bool,
        key: KeySpending | None = None,
    ) -> Reservation:
        """Set `price` aside on a checked channel for at most `ttl_seconds`; with `key` within its limit, too.

        Raises:
            RequestInProgress, AlreadyCharged: the request id is known.
            StaleVoucher, InsufficientVoucher, InsufficientDeposit, ChannelExiting, ExposureLimit: as named; `required`
                tells the total that would be needed.
            KeyLimit, KeyUnfunded: the key may not spend so much, or the owner's voucher does not cover its keys.
        """
        while True:
            facts = self._facts(voucher.channel_id)
            claim = self.claim(
                voucher, price=price, request_id=request_id, ttl_seconds=ttl_seconds, remember=remember, key=key
            )
            try:
                reservation = await self._reservations.reserve(claim)
            except OverLimit as refusal:
                raise self._shortage(facts, refusal.account, price) from None
            except (StaleVoucher, InsufficientVoucher) as short:
                if key is None:
                    raise
                # Nothing that the key's holder could sign.
                raise KeyUnfunded(required=short.required) from short
            if not self.is_outdated(claim):
                return reservation
            await self._reservations.release(reservation)

    def claim(
        self,
        voucher: ParsedVoucher,
        *,
        price: int,
        request_id: bytes,
        ttl_seconds: float,
        remember: bool = False,
        key: KeySpending | None = None,
    ) -> Claim:
        """Return what `reserve` asks the reservations for, by what the chain and refunds leave of the channel now.

        Raises:
            UnknownChannel: the chain does not show the channel any more.
        """
        return Claim(
            voucher.channel_id,
            request_id,
            _TOKENS.take(),
            price,
            self._limit(self._facts(voucher.channel_id)),
            voucher.cumulative_amount,
            voucher.signature,
            ttl_seconds,
            remember,
            key,
        )

    def is_outdated(self, claim: Claim) -> bool:
        """Tell whether less may be spent of a channel than when a claim was made: what was granted by it must go back.

        A refund is promised first and counts what is set aside then; so one of the two always sees the other.
        """
        facts = self._channels.facts(claim.channel_id)
        return facts is None or self._limit(facts) < claim.limit

    def _facts(self, channel_id: bytes) -> ChannelFacts:
        facts = self._channels.facts(channel_id)
        if facts is None:
            raise UnknownChannel(field="Market-Voucher")
        return facts

    def _limit(self, facts: ChannelFacts) -> int:
        if facts.channel.signer == self._gateway:
            return facts.spendable  # the gateway's own channel: it lends to nobody but itself
        return min(facts.spendable, facts.settled + self._exposure_cap)

    async def account(self, channel_id: bytes) -> Account:
        """Return a channel's running state."""
        return await self._reservations.account(channel_id)

    def _shortage(self, facts: ChannelFacts, account: Account, price: int) -> PaymentError:
        required = account.charged + account.reserved + price
        if required > facts.deposited:
            return InsufficientDeposit(
                f"The channel holds {both(facts.deposited)} in all and would need {both(required)}.",
                remedy=f"Deposit at least {both(required - facts.deposited)} more and wait for the confirmations.",
                required=required,
            )
        if required > facts.spendable:
            return ChannelExiting(
                f"{both(facts.exiting)} of the deposit of {both(facts.deposited)} is leaving; this request needs "
                f"{both(required)}.",
                required=required,
            )
        return ExposureLimit(
            f"{account.charged + account.reserved - facts.settled} is unsettled; this gateway lends up to "
            f"{self._exposure_cap}.",
            required=required,
        )
