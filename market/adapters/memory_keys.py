"""API keys in memory for unit tests: the rules of `payments.ports.KeyBook` without durability.

Held against the database's by the conformance suite; never used to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from market.adapters.memory_ledger import MemoryLedger
from market.payments.keys import ApiKey, KeyCount
from market.payments.model import ParsedVoucher


class MemoryKeyBook:
    """Implements `KeyBook`; what keys have spent is the ledger's."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.keys: dict[bytes, ApiKey] = {}

    async def add(self, key: ApiKey) -> ApiKey:
        """See `KeyBook.add`."""
        self.keys.setdefault(key.grant.key_hash, replace(key, spent=0, revoked_at=None))
        await self.fund(key.voucher, key.created_at)
        return self._now(self.keys[key.grant.key_hash])

    async def find(self, key_hash: bytes) -> ApiKey | None:
        """See `KeyBook.find`."""
        found = self.keys.get(key_hash)
        return None if found is None else self._now(found)

    async def of_channel(self, channel_id: bytes) -> Sequence[ApiKey]:
        """See `KeyBook.of_channel`."""
        mine = [self._now(key) for key in self.keys.values() if key.grant.channel_id == channel_id]
        return sorted(mine, key=lambda key: (key.created_at, key.grant.key_hash))

    async def count(self, channel_id: bytes, now: int) -> KeyCount:
        """See `KeyBook.count`."""
        mine = await self.of_channel(channel_id)
        still = [key for key in mine if key.is_open(now)]
        return KeyCount(len(mine), len(still), sum(key.grant.spending_limit - key.spent for key in still))

    async def revoke(self, key_hash: bytes, now: int) -> ApiKey | None:
        """See `KeyBook.revoke`."""
        found = self.keys.get(key_hash)
        if found is None:
            return None
        if found.revoked_at is None:
            self.keys[key_hash] = replace(found, revoked_at=now)
        return self._now(self.keys[key_hash])

    async def fund(self, voucher: ParsedVoucher, now: int) -> None:
        """See `KeyBook.fund`."""
        mine = [key.voucher for key in self.keys.values() if key.grant.channel_id == voucher.channel_id]
        voucher = max([voucher, *mine], key=lambda one: one.cumulative_amount)
        for key_hash, key in self.keys.items():
            lower = key.voucher.cumulative_amount < voucher.cumulative_amount
            if key.grant.channel_id == voucher.channel_id and lower and key.is_open(now):
                self.keys[key_hash] = replace(key, voucher=voucher)

    def _now(self, key: ApiKey) -> ApiKey:
        return replace(key, spent=self._ledger.spent.get(key.grant.key_hash, 0))
