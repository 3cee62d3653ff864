"""Reservations inside one process: exact and fast, for a gateway that runs as a single process.

Several processes need `redis_reservations`; with this one each would see only its own reservations, and the ledger
would refuse the excess only after the work was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from market.payments.channels import ChannelAccount, KeyTotal, seq_gap
from market.payments.model import Account, Claim, Reservation
from market.payments.ports import Ledger

IDLE_CHANNELS_KEPT = 100_000


class MemoryReservations:
    """Implements `market.payments.ports.Reservations`; state is rebuilt from the ledger on first use of a channel."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._accounts: dict[bytes, ChannelAccount] = {}

    async def reserve(self, claim: Claim) -> Reservation:
        """See `Reservations.reserve`."""
        account = self._accounts.get(claim.channel_id) or await self._load(claim.channel_id)
        while claim.key is not None and claim.key.key_hash not in account.keys:
            spent = await self._ledger.key_spent(claim.key.key_hash)
            # The channel may have been forgotten and loaded anew during the wait.
            account = self._accounts.get(claim.channel_id) or await self._load(claim.channel_id)
            account.keys.setdefault(claim.key.key_hash, KeyTotal(spent))
        return account.reserve(claim, self._clock())

    def reserve_now(self, claim: Claim) -> Reservation | None:
        """See `InstantReservations.reserve_now`."""
        account = self._accounts.get(claim.channel_id)
        if account is None or (claim.key is not None and claim.key.key_hash not in account.keys):
            return None
        return account.reserve(claim, self._clock())

    def commit_now(self, reservation: Reservation, charged: int, key_spent: int = 0) -> bool:
        """See `ClosesReservations.commit_now`."""
        account = self._accounts.get(reservation.channel_id)
        if account is None:
            return False
        key = None if reservation.key is None else reservation.key.key_hash
        return account.commit(
            reservation.request_id, reservation.token, charged, self._clock(), key=key, key_spent=key_spent
        )

    async def commit(self, reservation: Reservation, charged: int, key_spent: int = 0) -> bool:
        """See `Reservations.commit`."""
        return self.commit_now(reservation, charged, key_spent)

    def release_now(self, reservation: Reservation) -> bool:
        """See `ClosesReservations.release_now`."""
        account = self._accounts.get(reservation.channel_id)
        if account is None:
            return False
        return account.release(reservation.request_id, reservation.token, self._clock())

    async def release(self, reservation: Reservation) -> bool:
        """See `Reservations.release`."""
        return self.release_now(reservation)

    async def account(self, channel_id: bytes) -> Account:
        """See `Reservations.account`."""
        account = self._accounts.get(channel_id) or await self._load(channel_id)
        account.expire(self._clock())
        return account.view()

    async def _load(self, channel_id: bytes) -> ChannelAccount:
        durable = await self._ledger.account(channel_id)
        # Another request may have loaded and used it during the wait.
        account = self._accounts.setdefault(channel_id, ChannelAccount.rebuilt(durable, seq_gap()))
        if len(self._accounts) > IDLE_CHANNELS_KEPT:
            self._forget_one_idle()
        return account

    def _forget_one_idle(self) -> None:
        for channel_id, account in self._accounts.items():
            if not account.holds:
                del self._accounts[channel_id]
                return
