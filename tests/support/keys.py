"""API keys for tests: granted by the channel's signer of `tests.support.money`, with a voucher behind them."""

from __future__ import annotations

from contracts.protocol.capability import key_hash, new_key, terms_hash
from contracts.protocol.hashing import sha256
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import KeyGrant
from market.payments.keys import ApiKey, Grant
from market.payments.model import ParsedVoucher
from tests.support.money import CHANNEL_ID, DOMAIN, SIGNER, voucher


def grant_of(
    secret: str | None = None,
    *,
    limit: int = 1_000,
    name: str = "a program",
    models: tuple[str, ...] = (),
    expires_at: int = 0,
    channel_id: bytes = CHANNEL_ID,
    signer: PrivateKey = SIGNER,
) -> Grant:
    """A signed grant for a key."""
    hashed = key_hash(secret or new_key())
    signed = KeyGrant(channel_id, hashed, limit, expires_at, terms_hash(name, models))
    return Grant(hashed, channel_id, name, models, limit, expires_at, signer.sign_digest(signed.digest(DOMAIN)))


def api_key(number: int, *, limit: int = 1_000, ceiling: int = 10_000, created_at: int = 0, **grant: object) -> ApiKey:
    """A key as a book takes it, without real signatures."""
    given = {"channel_id": CHANNEL_ID, "name": f"key {number}", "models": (), "expires_at": 0, **grant}
    made = Grant(key_hash=sha256(bytes([number])), spending_limit=limit, signature=b"\x05" * 65, **given)
    paper = ParsedVoucher(made.channel_id, ceiling, ceiling.to_bytes(65, "big"))
    return ApiKey(made, SIGNER.address, paper, 0, created_at)


__all__ = ["api_key", "grant_of", "voucher"]
