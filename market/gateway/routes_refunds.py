"""`POST /market/v1/channels/{id}/refund`: the gateway signs that a channel's free money may leave at once.

Decides form only; how much is free is `market.payments.refunds`' matter. The signature is useless to anybody but the
payer, to whom the escrow pays.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.money import MAX_UINT128
from contracts.protocol.signing import SIGNATURE_BYTES
from contracts.protocol.typed_data import Refund
from market.errors import InvalidRequest
from market.gateway import schemas
from market.gateway.lookup import hash_of, runtime

router = APIRouter(prefix="/market/v1", tags=["Market"])


@router.post("/channels/{channel_id}/refund", response_model=schemas.Refund)
async def refund(request: Request, channel_id: str, asked: schemas.RefundRequest) -> Any:
    """Sign a refund of money that is neither charged nor set aside; it cannot be spent any more from then on."""
    amount = int(asked.amount)
    if amount > MAX_UINT128:
        raise InvalidRequest("expected less than 2**128.", field="amount")
    try:
        signature = from_hex(asked.signature, SIGNATURE_BYTES, field="signature")
    except InvalidHex as error:
        raise InvalidRequest(error.detail, field=error.field, remedy=error.remedy) from error
    wanted = Refund(hash_of(channel_id, "channel_id"), asked.nonce, amount)
    signed = await runtime(request).refunds.sign(wanted, signature)
    return {
        "channelId": hex0x(wanted.channel_id),
        "nonce": wanted.nonce,
        "amount": str(wanted.amount),
        "signature": hex0x(signed.signature),
    }
