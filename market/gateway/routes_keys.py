"""API keys over HTTP: made, listed and ended by the signature of the channel's signer.

Decides form only. A key is never in a request to these routes except as its own bearer, and never in an answer: the
signer makes it and sends its hash. What a key may do is `market.payments.keys`' matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.money import MAX_UINT128
from contracts.protocol.signing import SIGNATURE_BYTES
from market.aside import looking
from market.errors import InvalidRequest
from market.gateway import schemas_keys as schemas
from market.gateway.headers import bearer_of
from market.gateway.lookup import hash_of, runtime
from market.gateway.written import as_json
from market.payments.keys import ApiKey, Grant
from market.payments.model import ParsedVoucher

router = APIRouter(prefix="/market/v1/keys", tags=["API keys"])
_KEYS = TypeAdapter(list[schemas.Key])

_Signature = Annotated[str | None, Header(alias="Market-Key-Signature", description="Of the channel's signer, 0x-hex.")]


@router.post("", response_model=schemas.Key, status_code=201)
async def create(request: Request, body: schemas.NewKey) -> Any:
    """Take a key that the channel's signer granted: `KeyGrant` and a voucher over all its keys, both signed.

    The same grant again is the same key, and may bring a better voucher.
    """
    channel_id = hash_of(body.channel_id, "channelId")
    grant = Grant(
        key_hash=hash_of(body.key_hash, "keyHash"),
        channel_id=channel_id,
        name=body.name,
        models=tuple(body.models),
        spending_limit=_amount(body.spending_limit, "spendingLimit"),
        expires_at=body.expires_at,
        signature=_signature(body.signature, "signature"),
    )
    return _key(await runtime(request).capabilities.create(grant, _voucher(channel_id, body.voucher)))


@router.get("", response_model=list[schemas.Key])
async def listing(
    request: Request,
    channel: str | None = None,
    issued_at: Annotated[int, Query(alias="issuedAt", ge=0)] = 0,
    signature: _Signature = None,
) -> Any:
    """List a channel's keys for its signer, by a signed `KeyListing`; or, by bearer, the one key that asks."""
    capabilities = runtime(request).capabilities
    bearer = bearer_of(request.headers)
    if bearer is not None:
        return [_key(await capabilities.identify(bearer))]
    if channel is None:
        raise InvalidRequest("name the channel, or send a key.", field="channel")
    found = await capabilities.keys_of(hash_of(channel, "channel"), issued_at, _signature(signature or "", "signature"))
    # There may be thousands, which nobody pays for.
    return Response(await looking(_written, found), media_type="application/json")


@router.delete("/{key_hash}", response_model=schemas.Key)
async def revoke(request: Request, key_hash: str, signature: _Signature = None) -> Any:
    """End a key at once, by a signed `KeyRevocation` or by the key itself as bearer.

    Other processes of the gateway see it within a second; requests under way are still charged.
    """
    signed = None if signature is None else _signature(signature, "Market-Key-Signature")
    ended = await runtime(request).capabilities.revoke(
        hash_of(key_hash, "key_hash"), signed, bearer_of(request.headers)
    )
    return _key(ended)


@router.put("/voucher", response_model=schemas.Funded)
async def fund(request: Request, body: schemas.Funding) -> Any:
    """Keep a higher voucher of the channel's signer for all keys of the channel."""
    voucher = _voucher(hash_of(body.channel_id, "channelId"), body)
    await runtime(request).capabilities.fund(voucher)
    return {"channel_id": hex0x(voucher.channel_id), "cumulative_amount": str(voucher.cumulative_amount)}


def _written(keys: Sequence[ApiKey]) -> bytes:
    return as_json(_KEYS, [_key(key) for key in keys])


def _key(key: ApiKey) -> dict[str, Any]:
    grant = key.grant
    return {
        "key_hash": hex0x(grant.key_hash),
        "channel_id": hex0x(grant.channel_id),
        "name": grant.name,
        "models": list(grant.models),
        "spending_limit": str(grant.spending_limit),
        "spent": str(key.spent),
        "expires_at": grant.expires_at,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "signature": hex0x(grant.signature),
    }


def _voucher(channel_id: bytes, body: schemas.Voucher) -> ParsedVoucher:
    amount = _amount(body.cumulative_amount, "cumulativeAmount")
    return ParsedVoucher(channel_id, amount, _signature(body.signature, "voucher"))


def _signature(text: str, field: str) -> bytes:
    try:
        return from_hex(text, SIGNATURE_BYTES, field=field)
    except InvalidHex as error:
        raise InvalidRequest(error.detail, field=field, remedy=error.remedy) from error


def _amount(text: str, field: str) -> int:
    value = int(text)
    if value > MAX_UINT128 or value >= 1 << 63:
        raise InvalidRequest("expected less than 2**63.", field=field)
    return value
