"""One request paid by x402: check the payment, set its money aside, serve from the house channel, charge, answer.

Decides the order: what a payer signed is reserved before anything is sent or served, money on chain counts once it is
confirmed, and nothing is charged that was not served. A payment is one job: its identity is the request id, so that a
repetition is answered from the ledger. A fault of ours is never answered with 402. Called by `market.gateway.serving`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog

from contracts.protocol.hexes import checksum
from contracts.protocol.money import both
from contracts.protocol.receipts import pack_receipt
from market.errors import (
    ChainUnreachable,
    CreditSpent,
    HouseShort,
    MarketError,
    PaymentError,
    PaymentUndecided,
    RequestIdReused,
    RequestInProgress,
)
from market.gateway.x402 import sign_in, terms
from market.gateway.x402.background import apart, on_chain, to_the_end
from market.gateway.x402.payloads import (
    check_worthwhile,
    only_authorization,
    only_channel,
    payment_of,
    read_channel,
)
from market.gateway.x402.wire import (
    CREDIT,
    PAYMENT_RESPONSE,
    V1_RESPONSE,
    ReadPayment,
    X402Headers,
    encode,
    read_payment,
)
from market.inference.model import Answer
from market.payments.model import ParsedVoucher
from market.payments.x402_channels import (
    ChannelConfig,
    ChannelOutOfStep,
    PayerChannel,
    PayerVoucher,
    check_covered,
    check_stays,
    check_unclaimed,
    check_voucher,
    continues,
)
from market.payments.x402_model import (
    BATCH,
    EXACT,
    SIGN_IN,
    Authorization,
    CreditShort,
    Payment,
    PaymentRefused,
    Settled,
    identity,
)
from market.payments.x402_ports import Book, SettlementPending, X402Desk

# What the chain said of a channel is believed this long; a payer who starts to leave needs far longer.
FRESH_SECONDS = 60.0
SETTLE_SECONDS = 180.0
# Longer than a deposit's confirmations and the longest generation together: a hold that ends while its request is still
# served is given back, and the work was for nothing. What a dead process held is closed when the next one starts.
SERVE_SECONDS = SETTLE_SECONDS + 240.0
# A channel that is left is claimed from within half a minute, and the claim is confirmed within a minute more.
CLAIM_SECONDS = 120.0

# By the house's voucher: request id, the most it may cost, who pays the house.
Infer = Callable[[ParsedVoucher, bytes, int, bytes], Awaitable[Answer]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Paid:
    """A served request and what the answer's headers say of its payment."""

    answer: Answer
    headers: Mapping[str, str]


class Door:
    """Serves one request; `infer` runs it on a voucher of the house, under a request id, for at most a price.

    `inputs` returns the hash of the request, which an authorization stays bound to.
    `price` is what the cheapest worker asks, and so what the client is asked. Credit pays up to `ceiling`, should that
    worker fail and another take over; a voucher of a channel is over exactly `price`.
    """

    def __init__(
        self, desk: X402Desk, headers: X402Headers, price: int, ceiling: int, infer: Infer, inputs: Callable[[], bytes]
    ) -> None:
        self._desk = desk
        self._headers = headers
        self._price = price
        self._ceiling = ceiling
        self._infer = infer
        self._inputs = inputs

    async def again(self) -> Paid:
        """Answer a payment that was charged once more, where nothing can be bought now.

        Raises:
            PaymentRefused: it is none such.
        """
        if self._headers.payment is not None:
            return await self._again(read_payment(self._headers.payment))
        proof = self._signed_in()
        if await apart(self._desk.book.charged, proof.request_id) is None:
            raise PaymentRefused("invalid_payload", "It paid for nothing yet.")
        return await self._from_credit(proof.request_id, proof.address, SIGN_IN, None)

    async def serve(self) -> Paid:
        """Serve the request.

        Raises:
            PaymentRefused | CreditSpent: the payment is not good, or not enough.
            PaymentUndecided: its transaction is not confirmed yet.
            MarketError: see the inference service; nothing is charged.
        """
        desk = self._desk
        if self._headers.payment is None:
            proof = self._signed_in()
            return await self._from_credit(proof.request_id, proof.address, SIGN_IN, None)
        paid = read_payment(self._headers.payment)
        try:
            offer = terms.matching(desk, self._price, paid)
        except PaymentRefused as refused:
            try:
                return await self._again(paid)
            except PaymentRefused:
                raise refused from None
        if offer["scheme"] == EXACT:
            return await self._exact(payment_of(offer, only_authorization(paid.payload)), offer)
        return await self._batch(payment_of(offer, only_channel(paid.payload, ("voucher", "deposit"))), offer)

    def _signed_in(self) -> sign_in.SignedIn:
        assert self._headers.sign_in is not None, "the caller looks first"
        merchant, origin = self._desk.merchant, self._desk.origin
        return sign_in.verify(self._headers.sign_in, origin=origin, network=merchant.network, now=time.time())

    async def _again(self, paid: ReadPayment) -> Paid:
        """Answer a payment that was charged once more, whatever is asked by now.

        Raises:
            PaymentRefused: it is none such.
        """
        desk = self._desk
        if paid.scheme == BATCH:
            config, voucher = read_channel(only_channel(paid.payload, ("voucher", "deposit")))
            check_voucher(config, voucher, desk.merchant)
            return await self._repeated(await apart(desk.book.channel, voucher.channel_id), voucher)
        payload = only_authorization(paid.payload)
        authorization = Authorization.from_wire(payload, desk.merchant.chain_id, desk.merchant.token)
        if await apart(desk.book.charged, authorization.request_id) is None:
            raise PaymentRefused("invalid_payload", "It paid for nothing yet.")
        return await self._exact(payment_of({}, payload), {})

    # --- a credit pack, and its use -----------------------------------------------------------------------------

    async def _exact(self, payment: Mapping[str, Any], offer: Mapping[str, Any]) -> Paid:
        desk = self._desk
        authorization = Authorization.from_wire(payment["payload"], desk.merchant.chain_id, desk.merchant.token)
        known, inputs = await apart(desk.book.authorization, authorization), await apart(self._inputs)
        if known is None:
            try:
                await on_chain(desk.facilitator.verify, payment, offer)
            except SettlementPending as pending:
                raise self._undecided(pending) from pending
            transaction = await to_the_end(self._buy(authorization, inputs, payment, offer))
        else:
            transaction = known.transaction
            if known.signature != authorization.signature:
                raise PaymentRefused("invalid_exact_evm_payload_signature")
            if known.inputs != inputs:
                # It stands on chain: whoever read it there must neither spend its credit nor be told an answer.
                raise RequestIdReused(field="PAYMENT-SIGNATURE", remedy="Sign in to use the credit that it bought.")
        settled = Settled(transaction, checksum(authorization.payer), str(authorization.value))
        return await self._from_credit(authorization.request_id, authorization.payer, EXACT, settled)

    async def _buy(
        self, authorization: Authorization, inputs: bytes, payment: Mapping[str, Any], offer: Mapping[str, Any]
    ) -> str:
        """Settle and give the credit; goes on when the client is gone, since its money is."""
        book, now = self._desk.book, time.time()
        text = orjson.dumps(payment["payload"]).decode()
        if not await apart(book.begin, authorization, text, inputs, now=now, until=now + SETTLE_SECONDS):
            raise RequestInProgress("This authorization is being settled.", field="PAYMENT-SIGNATURE")
        try:
            settled = await on_chain(self._desk.facilitator.settle, payment, offer)
        except PaymentRefused:
            await apart(book.abandon, authorization)
            raise
        except SettlementPending as pending:
            await apart(book.let_go, authorization)
            raise self._undecided(pending) from pending
        except ChainUnreachable:
            await apart(book.let_go, authorization)
            raise
        await apart(book.bought, authorization, settled.transaction)
        log.info("x402-pack-bought", value=authorization.value)
        return settled.transaction

    async def _from_credit(self, request_id: bytes, payer: bytes, scheme: str, settled: Settled | None) -> Paid:
        book = self._desk.book
        held, limit = await self._hold(request_id, payer, scheme)
        try:
            answer = await self._served(request_id, held, limit, payer)
        except MarketError as error:
            if settled is not None:
                # The pack is bought even though this request failed: the client must know that it has credit.
                error.headers = self._response(settled, None)
            raise
        credit = await apart(book.credit, payer)
        headers = {CREDIT: str(credit.available), "Cache-Control": "no-store"}
        return Paid(answer, headers if settled is None else headers | self._response(settled, answer))

    async def _hold(self, request_id: bytes, payer: bytes, scheme: str) -> tuple[Payment, int]:
        """Set credit aside for the dearest worker that may have to serve, at least for the cheapest; returns how much.

        Raises:
            CreditSpent: there is not enough.
        """
        book, now = self._desk.book, time.time()
        limits = [self._price]
        if self._ceiling > self._price:
            free = (await apart(book.credit, payer)).available
            limits.insert(0, min(self._ceiling, max(self._price, free)))
        for limit in limits:
            try:
                held = await apart(
                    book.hold_credit, request_id, payer, scheme, limit, now=now, until=now + SERVE_SECONDS
                )
            except CreditShort:
                continue  # other requests of this payer were faster
            return held, limit
        credit = await apart(book.credit, payer)
        raise CreditSpent(f"{both(credit.available)} of credit is left; this request costs {both(self._price)}.")

    # --- a channel ----------------------------------------------------------------------------------------------

    async def _batch(self, payment: Mapping[str, Any], offer: Mapping[str, Any]) -> Paid:
        desk, payload = self._desk, payment["payload"]
        config, voucher = read_channel(payload)
        check_voucher(config, voucher, desk.merchant)
        known = await apart(desk.book.channel, voucher.channel_id)
        try:
            base = continues(known, voucher, self._price)
        except ChannelOutOfStep:
            return await self._repeated(known, voucher)
        request_id = identity(
            BATCH, voucher.channel_id, base.to_bytes(32, "big"), voucher.max_claimable.to_bytes(32, "big")
        )
        channel, deposits = await self._checked(payment, offer, known, config, voucher, base)
        channel = replace(channel, signed_max=voucher.max_claimable, signature=voucher.signature)
        now = time.time()
        held = await apart(desk.book.hold_channel, request_id, channel, self._price, now=now, until=now + SERVE_SECONDS)
        deposited: Settled | None = None
        if deposits and held is Payment.HELD:
            deposited = await to_the_end(self._deposit(request_id, channel, payment, offer))
        try:
            answer = await self._served(request_id, held, self._price, config.payer)
        except MarketError as error:
            if deposited is not None:
                # The deposit is made and nothing of it is charged.
                after = await apart(desk.book.channel, voucher.channel_id)
                error.headers = self._channel_response(after or channel, 0, deposited, None)
            raise
        after = await apart(desk.book.channel, voucher.channel_id)
        charged = await apart(desk.book.charged, request_id)
        return Paid(answer, self._channel_response(after or channel, charged or 0, deposited, answer))

    async def _checked(
        self,
        payment: Mapping[str, Any],
        offer: Mapping[str, Any],
        known: PayerChannel | None,
        config: ChannelConfig,
        voucher: PayerVoucher,
        base: int,
    ) -> tuple[PayerChannel, bool]:
        """Return the channel as the chain has it, and whether this payment deposits into it first."""
        deposits = payment["payload"].get("type") == "deposit"
        fresh = known is not None and time.time() - known.synced_at < FRESH_SECONDS and not known.withdraw_requested_at
        if known is not None and fresh and not deposits:
            check_covered(voucher, balance=known.balance, total_claimed=known.total_claimed)
            return known, False
        verify = self._desk.facilitator.verify
        if deposits:
            before = known or PayerChannel(voucher.channel_id, config)
            before = await on_chain(self._desk.facilitator.look, before)
            if before.balance >= voucher.max_claimable:
                # Not needed, and so not made: each is a transaction at our gas.
                payment = {**payment, "payload": {**payment["payload"], "type": "voucher"}}
                deposits = False
            else:
                check_worthwhile(payment["payload"], self._desk.pack)
        try:
            facts = await on_chain(verify, payment, offer)
        except PaymentRefused as refused:
            if not deposits:
                raise
            # The deposit may be made already: by a request that then failed, or a process that died.
            plain = {**payment, "payload": {**payment["payload"], "type": "voucher"}}
            try:
                facts, deposits = await on_chain(verify, plain, offer), False
            except PaymentRefused:
                raise refused from None
        channel = known or PayerChannel(voucher.channel_id, config, charged=base)
        channel = seen(channel, facts)
        check_unclaimed(channel)
        check_stays(channel, time.time() + SERVE_SECONDS + CLAIM_SECONDS)
        return channel, deposits

    async def _deposit(
        self, request_id: bytes, channel: PayerChannel, payment: Mapping[str, Any], offer: Mapping[str, Any]
    ) -> Settled:
        """Make the deposit and wait for its confirmations, before anything is served on it."""
        book = self._desk.book
        try:
            settled = await on_chain(self._desk.facilitator.settle, payment, offer)
        except SettlementPending as pending:
            await apart(book.release, request_id)
            raise self._undecided(pending) from pending
        except BaseException:
            await apart(book.release, request_id)
            raise
        await apart(book.see_channel, seen(channel, settled.extra.get("channelState", {})))
        log.info("x402-channel-funded", amount=settled.amount)
        return settled

    async def _repeated(self, known: PayerChannel | None, voucher: PayerVoucher) -> Paid:
        """Answer the newest charged voucher of a channel again; any other is out of step."""
        same = known is not None and (known.signature, known.signed_max) == (voucher.signature, voucher.max_claimable)
        if known is None or known.last_request is None or not same:
            raise ChannelOutOfStep(known)
        charged = await apart(self._desk.book.charged, known.last_request)
        if not charged:
            # It came to nothing, or was none: a job that is served now would be paid onward and charged to nobody.
            raise ChannelOutOfStep(known)
        answer = await self._served(known.last_request, Payment.CHARGED, self._price, known.config.payer)
        return Paid(answer, self._channel_response(known, charged, None, answer))

    # --- serving ------------------------------------------------------------------------------------------------

    async def _served(self, request_id: bytes, held: Payment, limit: int, payer: bytes) -> Answer:
        """Run the request on the house's money and charge the payer what the house was charged.

        Goes on when the client is gone: what is served then is paid onward all the same.
        """
        return await to_the_end(self._serve(request_id, held, limit, payer))

    async def _serve(self, request_id: bytes, held: Payment, limit: int, payer: bytes) -> Answer:
        book = self._desk.book
        try:
            answer = await self._onward(request_id, limit, payer)
        except BaseException:
            if held is Payment.HELD:
                await self._close(request_id, book.release, request_id)
            raise
        if held is Payment.HELD:
            await self._close(request_id, _charge, book, request_id, min(answer.charged, limit))
        return answer

    async def _close(self, request_id: bytes, work: Callable[..., object], *arguments: Any) -> None:
        """Charge or give back what is held; housekeeping does, should the book be away."""
        try:
            await apart(work, *arguments)
        except BaseException:
            self._desk.unfinished.add(request_id)
            raise

    async def _onward(self, request_id: bytes, limit: int, payer: bytes) -> Answer:
        try:
            return await self._infer(self._desk.house.voucher(), request_id, limit, payer)
        except PaymentError as error:
            # It is the house that could not pay: the client's payment was good.
            log.warning("house-short", code=error.code, detail=error.detail)
            raise HouseShort from error

    # --- answers ------------------------------------------------------------------------------------------------

    def _response(
        self, settled: Settled, answer: Answer | None, extra: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        body: dict[str, Any] = {
            "success": True,
            "payer": settled.payer,
            "transaction": settled.transaction,
            "network": self._desk.merchant.network,
            "amount": settled.amount,
        }
        if extra is not None:
            body["extra"] = dict(extra)
        if answer is not None:
            paper = pack_receipt(answer.receipt, answer.worker_signature, answer.gateway_signature)
            body["extensions"] = terms.receipt_extension(paper)
        return self._named(body)

    def _channel_response(
        self, channel: PayerChannel, charged: int, deposited: Settled | None, answer: Answer | None
    ) -> dict[str, str]:
        settled = deposited or Settled("", checksum(channel.config.payer))
        extra = {"channelState": channel.state_to_wire(), "chargedAmount": str(charged)}
        return self._response(settled, answer, extra)

    def _undecided(self, pending: SettlementPending) -> PaymentUndecided:
        error = PaymentUndecided()
        error.headers = self._named(
            {
                "success": False,
                "errorReason": "settlement_pending",
                "transaction": pending.transaction,
                "network": self._desk.merchant.network,
            }
        )
        return error

    def _named(self, body: Mapping[str, Any]) -> dict[str, str]:
        encoded = encode(body)
        named = {PAYMENT_RESPONSE: encoded, "Cache-Control": "no-store"}
        return named | {V1_RESPONSE: encoded} if self._headers.v1 else named


def seen(channel: PayerChannel, facts: Mapping[str, Any]) -> PayerChannel:
    """Return a channel with the chain's facts as the facilitator reports them."""
    return channel.seen_on_chain(
        balance=int(facts.get("balance", channel.balance)),
        total_claimed=int(facts.get("totalClaimed", channel.total_claimed)),
        withdraw_requested_at=int(facts.get("withdrawRequestedAt", channel.withdraw_requested_at)),
        refund_nonce=int(facts.get("refundNonce", channel.refund_nonce)),
        at=time.time(),
    )


def corrected(offers: list[dict[str, Any]], refused: PaymentRefused) -> list[dict[str, Any]]:
    """Return the offers with where the channel stands, for a client whose count is out of step."""
    if isinstance(refused, ChannelOutOfStep) and refused.channel is not None:
        for offer in offers:
            if offer["scheme"] == BATCH:
                state = {
                    "channelState": refused.channel.state_to_wire(),
                    "voucherState": refused.channel.voucher_to_wire(),
                }
                offer["extra"] = {**offer["extra"], **state}
    return offers


def _charge(book: Book, request_id: bytes, charged: int) -> None:
    book.charge(request_id, charged, now=time.time())
