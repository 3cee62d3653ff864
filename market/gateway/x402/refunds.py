"""Giving money back: the unclaimed rest of an x402 channel, and credit that was bought and not used.

Decides how much: never what was charged, never twice. Called by the x402 routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from contracts.protocol.hexes import checksum
from market.errors import PaymentUndecided
from market.gateway.x402 import terms
from market.gateway.x402.background import to_the_end
from market.gateway.x402.door import seen
from market.gateway.x402.payloads import only_channel, payment_of, read_channel
from market.gateway.x402.sign_in import SignedIn
from market.gateway.x402.wire import PAYMENT_RESPONSE, encode, read_payment
from market.payments.x402_channels import ChannelOutOfStep, PayerChannel, check_voucher
from market.payments.x402_model import BATCH, PaymentRefused, Settled, identity, least_refund
from market.payments.x402_ports import SettlementPending, X402Desk

REFUND_SECONDS = 180.0
_INVALID = "invalid_batch_settlement_evm_"


async def refund(desk: X402Desk, price: int, header: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Close or shrink a channel for a payer who signed what it was charged; returns body and headers.

    Raises:
        PaymentRefused: it is no refund request, or not a good one.
        RequestInProgress: a request of the channel is in flight.
        PaymentUndecided: the transaction is not confirmed yet.
    """
    paid = read_payment(header)
    if paid.scheme != BATCH:
        raise PaymentRefused(_INVALID + "payload_type", "POST pays for inference; GET takes refunds only.")
    payload = only_channel(paid.payload, ("refund",))
    config, voucher = read_channel(payload)
    check_voucher(config, voucher, desk.merchant)
    book = desk.book
    known = await asyncio.to_thread(book.channel, voucher.channel_id)
    if known is None:
        raise PaymentRefused(_INVALID + "missing_channel")
    if voucher.max_claimable != known.charged:
        raise ChannelOutOfStep(known)
    offer = terms.accepts(desk, price)[0]
    channel = seen(known, await asyncio.to_thread(desk.facilitator.verify, payment_of(offer, payload), offer))
    amount = _amount(payload, channel, desk.pack)
    request_id = identity("refund", channel.channel_id, channel.refund_nonce.to_bytes(32, "big"))
    now = time.time()
    await asyncio.to_thread(
        book.hold_channel, request_id, channel, 0, now=now, until=now + REFUND_SECONDS, serves=False
    )
    await _check_earned(desk, request_id, channel)
    settled, after = await to_the_end(_send(desk, request_id, channel, amount))
    extra = {"channelState": after.state_to_wire()}
    response = {
        "success": True,
        "payer": checksum(config.payer),
        "transaction": settled.transaction,
        "network": desk.merchant.network,
        "amount": settled.amount,
        "extra": extra,
    }
    body = {"message": "Refunded", "channelId": extra["channelState"]["channelId"], "amount": settled.amount}
    return body, {PAYMENT_RESPONSE: encode(response)}


async def _send(desk: X402Desk, request_id: bytes, channel: PayerChannel, amount: int) -> tuple[Settled, PayerChannel]:
    book = desk.book
    try:
        settled = await asyncio.to_thread(desk.facilitator.refund, channel, amount)
        # Written down before the chain is asked again, which may be away: what is gone is not to be spent.
        channel = replace(channel, balance=max(0, channel.balance - amount), refund_nonce=channel.refund_nonce + 1)
        await asyncio.to_thread(book.see_channel, channel)
        after = await asyncio.to_thread(desk.facilitator.look, channel)
        await asyncio.to_thread(book.see_channel, after)
        await asyncio.to_thread(book.charge, request_id, 0, now=time.time())
    except SettlementPending as pending:
        # The channel stays taken until its time is over: what it holds is not known.
        raise PaymentUndecided(f"{pending.transaction} is not confirmed yet.") from pending
    except BaseException:
        await asyncio.to_thread(book.release, request_id)
        raise
    return settled, after


async def _check_earned(desk: X402Desk, request_id: bytes, channel: PayerChannel) -> None:
    """Return if the payer was charged enough for another transaction at our gas; its first refund is always made.

    Raises:
        PaymentRefused: it was not; the channel is free again.
    """
    try:
        before, charged, taken = await asyncio.to_thread(desk.book.channels_of, channel.config.payer)
        # Others of this payer that are taken may be refunds just now, and count; this one is written down as it was.
        refunds = before + taken - 1
        needed = refunds * desk.least_claim
        if charged < needed:
            raise PaymentRefused(
                _INVALID + "refund_amount_invalid",
                f"After {refunds} refunds another is made once your channels were charged {needed}, not {charged}; "
                "a withdrawal of your own needs nobody.",
            )
    except BaseException:
        await asyncio.to_thread(desk.book.release, request_id)
        raise


def _amount(payload: Mapping[str, Any], channel: PayerChannel, pack: int) -> int:
    rest = channel.balance - max(channel.charged, channel.total_claimed)
    if rest <= 0:
        raise PaymentRefused(_INVALID + "refund_no_balance")
    wanted = payload.get("amount")
    if wanted is None:
        return rest
    text = str(wanted)
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
        raise PaymentRefused(_INVALID + "refund_amount_invalid")
    if int(text) > rest:
        raise PaymentRefused(_INVALID + "refund_no_balance", f"{rest} can be refunded.")
    least = least_refund(rest, pack)
    if int(text) < least:
        raise PaymentRefused(
            _INVALID + "refund_amount_invalid",
            f"{text} is not worth its transaction: ask for {least} or more of {rest}, or name no amount for all.",
        )
    return int(text)


async def refund_credit(desk: X402Desk, proof: SignedIn) -> tuple[int, str] | None:
    """Send all unused credit back; returns (amount, transaction), None if there is none."""
    begun = await asyncio.to_thread(desk.book.begin_refund, proof.request_id, proof.address, now=time.time())
    if begun is None:
        return None
    amount, transaction = begun
    if transaction:
        return amount, transaction
    return amount, await to_the_end(_pay_back(desk, proof, amount))


async def _pay_back(desk: X402Desk, proof: SignedIn, amount: int) -> str:
    purpose = f"x402:refund:{proof.request_id.hex()}"
    transaction = await asyncio.to_thread(desk.facilitator.pay, purpose, proof.address, amount)
    await asyncio.to_thread(desk.book.refunded, proof.request_id, transaction)
    return transaction
