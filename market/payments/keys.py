"""API keys: what one may do, and whether it may do this. Pure: no clock, no I/O, no cryptography.

An API key lets its holder spend from somebody's channel, up to a limit of its own. Decides expiry, revocation and
allowed models; the spending itself is counted with the channel's money, see `channels` and the ledger. Called by
`capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from market.errors import KeyExpired, KeyModel, KeyRevoked
from market.payments.model import KeySpending, ParsedVoucher

MAX_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Grant:
    """What the channel's signer allowed: the signed `KeyGrant` in words; `expires_at` 0 means never, no models all."""

    key_hash: bytes
    channel_id: bytes
    name: str
    models: tuple[str, ...]
    spending_limit: int
    expires_at: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it stands; `voucher` is the best one given for the keys of its channel. Times are unix seconds."""

    grant: Grant
    signer: bytes
    voucher: ParsedVoucher
    spent: int
    created_at: int
    revoked_at: int | None = None

    @property
    def spending(self) -> KeySpending:
        """What reservations and ledger count by."""
        return KeySpending(self.grant.key_hash, self.grant.spending_limit)

    def is_open(self, now: float) -> bool:
        """Tell whether the key can still spend anything."""
        return self.revoked_at is None and not self.has_expired(now)

    def has_expired(self, now: float) -> bool:
        """Tell whether the key's time is over."""
        return 0 < self.grant.expires_at <= now

    def check(self, model_names: Iterable[str], now: float) -> None:
        """Return if the key may be used now for a model that goes by any of these names.

        Raises:
            KeyRevoked, KeyExpired, KeyModel: it may not.
        """
        if self.revoked_at is not None:
            raise KeyRevoked
        if self.has_expired(now):
            raise KeyExpired
        allowed = self.grant.models
        if allowed and not any(name in allowed for name in model_names):
            raise KeyModel(field="model")


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many keys a channel has had, how many of them are open, and what these may still spend, in atomic units."""

    made: int
    open: int
    allowance: int
