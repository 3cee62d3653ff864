"""The shapes of API key requests and answers, for OpenAPI."""

from __future__ import annotations

from pydantic import Field

from contracts.protocol.capability import MAX_MODELS, MAX_NAME_CHARACTERS
from market.gateway.schemas import Schema

_AMOUNT = r"^[0-9]{1,19}$"
_SIGNATURE = Field(description="65 bytes, 0x-hex, of the channel's signer.", max_length=132)
_HASH = Field(description="32 bytes, 0x-hex.", max_length=66)
_EXPIRES = Field(0, description="Unix seconds; 0: never.", ge=0, lt=2**53)


class Voucher(Schema):
    """A signed ceiling of the channel: what the gateway may take from it in all."""

    cumulative_amount: str = Field(pattern=_AMOUNT, description="Atomic token units as a decimal string.")
    signature: str = _SIGNATURE


class NewKey(Schema):
    """A grant: `signature` is over KeyGrant(channelId, keyHash, spendingLimit, expiresAt, termsHash).

    termsHash is the Keccak-256 of the name and the models, one a line.
    """

    channel_id: str = _HASH
    key_hash: str = Field(description="SHA-256 of the key's text, 0x-hex; the key itself stays where it was made.")
    name: str = Field("", max_length=MAX_NAME_CHARACTERS)
    models: list[str] = Field(default_factory=list, max_length=MAX_MODELS, description="Names or 0x ids; empty: all.")
    spending_limit: str = Field(pattern=_AMOUNT, description="Atomic token units as a decimal string.")
    expires_at: int = _EXPIRES
    signature: str = _SIGNATURE
    voucher: Voucher


class Funding(Voucher):
    """A voucher for all keys of a channel."""

    channel_id: str = _HASH


class Funded(Schema):
    """The voucher that was given; a higher one given before stays."""

    channel_id: str
    cumulative_amount: str


class Key(Schema):
    """A key as it stands; amounts in atomic token units as decimal strings, times in unix seconds."""

    key_hash: str
    channel_id: str
    name: str
    models: list[str]
    spending_limit: str
    spent: str
    expires_at: int
    created_at: int
    revoked_at: int | None
    signature: str
