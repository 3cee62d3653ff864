"""The order of things at the x402 door: reserve, settle, serve, charge; and what a failure at each step leaves."""

import asyncio
import dataclasses
import time
from types import SimpleNamespace

import pytest
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.config import BatchSettlementEvmSchemeOptions
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.signers import EthAccountSigner

from contracts.protocol.receipts import unpack_receipt
from contracts.protocol.tensors import content_hash, encode_tensors
from contracts.protocol.typed_data import Receipt
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.errors import (
    ChainUnreachable,
    CreditSpent,
    DatabaseUnreachable,
    HouseShort,
    InsufficientDeposit,
    NoCapacity,
    PaymentUndecided,
    RequestIdReused,
    RequestInProgress,
    UnknownModel,
    WorkerFailed,
)
from market.gateway.headers import PaymentHeaders
from market.gateway.problems import status_of
from market.gateway.x402 import terms
from market.gateway.x402.background import settle_background
from market.gateway.x402.counter import pay_by_x402
from market.gateway.x402.door import Door
from market.gateway.x402.refunds import refund
from market.gateway.x402.wire import PAYMENT_RESPONSE, X402Headers, decode
from market.payments.x402_channels import ChannelOutOfStep
from market.payments.x402_model import PaymentRefused
from market.payments.x402_ports import SettlementPending
from market.registry.model import Listing
from tests.support.money import manifest, tensor
from tests.unit.market.x402.payers import (
    MERCHANT,
    PACK,
    PRICE,
    TRANSACTION,
    Chain,
    House,
    Payer,
    desk_of,
    header_of,
    paying,
)

RECEIPT = Receipt(
    *([b"\x01" * 32] * 2), b"\x02" * 20, b"\x03" * 20, 1, b"\x04" * 20, *([b"\x05" * 32] * 3), 1, 0, 0, 1, 1
)


class Worker:
    """Serves at the asked price, or raises what the test says; remembers the request ids."""

    def __init__(self):
        self.served = []
        self.limits = []
        self.payers = set()
        self.faults = []
        self.charged = PRICE
        self.gate = None

    async def infer(self, voucher, request_id, limit, payer):
        self.payers.add(payer)
        self.limits.append(limit)
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        repeated = request_id in self.served
        self.served.append(request_id)
        receipt = dataclasses.replace(RECEIPT, request_id=request_id)
        return SimpleNamespace(
            receipt=receipt, worker_signature=b"\x06" * 65, gateway_signature=b"\x07" * 65,
            charged=self.charged, repeated=repeated,
        )  # fmt: skip


class Shop:
    def __init__(self, book):
        self.book, self.chain, self.house, self.worker = book, Chain(), House(), Worker()
        self.desk = desk_of(book, self.chain, self.house)
        self.payer = Payer()

    async def pay(self, payment, price=PRICE, ceiling=0, inputs=b"\x08" * 32):
        headers = payment if isinstance(payment, X402Headers) else paying(payment)
        return await Door(self.desk, headers, price, max(price, ceiling), self.worker.infer, lambda: inputs).serve()

    def credit(self):
        return self.book.credit(self.payer.address)


@pytest.fixture
def shop(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    yield Shop(DatabaseBook(engine))
    engine.dispose()


async def test_a_pack_is_settled_before_the_request_and_charged_after_it(shop):
    paid = await shop.pay(shop.payer.exact(shop.desk))
    response = decode(paid.headers[PAYMENT_RESPONSE])
    assert (response["success"], response["transaction"], response["amount"]) == (True, TRANSACTION, str(PACK))
    paper = bytes.fromhex(response["extensions"]["inference-receipt"]["receipt"][2:])
    assert unpack_receipt(paper)[0] == paid.answer.receipt
    assert (shop.credit().balance, shop.credit().held) == (PACK - PRICE, 0)
    assert paid.headers["Market-Credit"] == str(PACK - PRICE)
    assert shop.worker.payers == {shop.payer.address}, "turns are taken by payers, not by the house"


async def test_one_authorization_in_parallel_is_one_transaction_and_one_job(shop):
    payment = shop.payer.exact(shop.desk)
    answers = await asyncio.gather(*(shop.pay(payment) for _ in range(20)), return_exceptions=True)
    assert shop.chain.count("settle") == 1
    assert len(set(shop.worker.served)) == 1
    assert {type(answer) for answer in answers if isinstance(answer, Exception)} <= {RequestInProgress}
    again = await shop.pay(payment)
    assert again.answer.repeated
    assert shop.credit().balance == PACK - PRICE


async def test_a_failed_request_leaves_the_pack_as_credit_and_says_so(shop):
    shop.worker.faults.append(WorkerFailed("no."))
    payment = shop.payer.exact(shop.desk)
    with pytest.raises(WorkerFailed) as failed:
        await shop.pay(payment)
    assert decode(failed.value.headers[PAYMENT_RESPONSE])["transaction"] == TRANSACTION
    assert (shop.credit().balance, shop.credit().held) == (PACK, 0)
    await shop.pay(payment)
    assert (shop.chain.count("settle"), shop.credit().balance) == (1, PACK - PRICE)


async def test_who_leaves_while_the_request_is_served_pays_for_it(shop):
    payment, served = shop.payer.exact(shop.desk), asyncio.Event()
    infer = shop.worker.infer

    async def slow(*arguments):
        served.set()
        await asyncio.sleep(0.05)
        return await infer(*arguments)

    shop.worker.infer = slow
    leaving = asyncio.create_task(shop.pay(payment))
    await served.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await settle_background()
    assert (shop.credit().balance, shop.credit().held) == (PACK - PRICE, 0), "what was paid onward"


@pytest.mark.parametrize("what", ["charge", "release"])
async def test_what_the_book_cannot_write_is_left_to_housekeeping(shop, monkeypatch, what):
    payment = shop.payer.exact(shop.desk)
    if what == "release":
        shop.worker.faults.append(WorkerFailed("no."))

    def away(*_, **__):
        raise DatabaseUnreachable

    monkeypatch.setattr(shop.book, what, away)
    with pytest.raises(DatabaseUnreachable):
        await shop.pay(payment)
    [request_id] = shop.desk.unfinished
    with pytest.raises(RequestInProgress):
        await shop.pay(payment)
    monkeypatch.undo()
    shop.book.release(request_id)
    await shop.pay(payment)
    assert shop.credit().balance == PACK - PRICE


async def test_who_reads_an_authorization_on_chain_neither_spends_its_credit_nor_gets_its_answer(shop):
    payment, other = shop.payer.exact(shop.desk), b"\x09" * 32
    shop.worker.faults.append(WorkerFailed("no."))
    with pytest.raises(WorkerFailed):
        await shop.pay(payment)
    for served in (0, 1):  # before its own request was served, and after
        with pytest.raises(RequestIdReused):
            await shop.pay(payment, inputs=other)
        assert len(shop.worker.served) == served
        await shop.pay(payment)
    assert (shop.credit().balance, shop.credit().held) == (PACK - PRICE, 0)


async def test_who_sees_an_undecided_authorization_cannot_take_it_over(shop):
    payment = shop.payer.exact(shop.desk)
    shop.chain.faults["settle"] = [SettlementPending(TRANSACTION)]
    with pytest.raises(PaymentUndecided):
        await shop.pay(payment)
    with pytest.raises(RequestInProgress):
        await shop.pay(payment, inputs=b"\x09" * 32)
    assert shop.chain.count("settle") == 1
    await shop.pay(payment)
    assert shop.credit().balance == PACK - PRICE


async def test_an_undecided_settlement_is_no_refusal_and_is_settled_once_in_the_end(shop):
    payment = shop.payer.exact(shop.desk)
    shop.chain.faults["settle"] = [SettlementPending(TRANSACTION)]
    with pytest.raises(PaymentUndecided) as undecided:
        await shop.pay(payment)
    assert status_of(type(undecided.value)) == 503
    response = decode(undecided.value.headers[PAYMENT_RESPONSE])
    assert (response["success"], response["errorReason"]) == (False, "settlement_pending")
    [(authorization, _)] = shop.book.undecided(float("inf"))
    assert authorization.payer == shop.payer.address
    await shop.pay(payment)  # the same transaction: the facilitator knows it by its call data
    assert (shop.credit().bought, shop.credit().balance) == (PACK, PACK - PRICE)
    assert shop.book.undecided(float("inf")) == []


@pytest.mark.parametrize("step", ["verify", "settle"])
async def test_a_node_that_is_away_is_a_fault_and_never_a_402(shop, step):
    shop.chain.faults[step] = [ChainUnreachable("away.")]
    with pytest.raises(ChainUnreachable) as fault:
        await shop.pay(shop.payer.exact(shop.desk))
    assert status_of(type(fault.value)) == 503
    assert not shop.worker.served


async def test_a_refused_settlement_frees_the_authorization(shop):
    payment = shop.payer.exact(shop.desk)
    shop.chain.faults["settle"] = [PaymentRefused("insufficient_funds")]
    with pytest.raises(PaymentRefused):
        await shop.pay(payment)
    await shop.pay(payment)
    assert shop.credit().balance == PACK - PRICE


@pytest.mark.parametrize("fault", ["unfunded", "short"])
async def test_a_house_that_cannot_pay_onward_is_a_fault_and_never_a_402(shop, fault):
    if fault == "unfunded":
        shop.house.funded = False
    else:
        shop.worker.faults.append(InsufficientDeposit("the house."))
    with pytest.raises(HouseShort) as short:
        await shop.pay(shop.payer.exact(shop.desk))
    assert status_of(type(short.value)) == 503
    assert (shop.credit().balance, shop.credit().held) == (PACK, 0)


async def test_sign_in_uses_credit_once_a_proof_and_asks_for_more_when_it_is_spent(shop):
    await shop.pay(shop.payer.exact(shop.desk))
    proof = X402Headers(None, False, shop.payer.sign_in())
    first = await shop.pay(proof)
    again = await shop.pay(proof)
    assert (first.answer.repeated, again.answer.repeated) == (False, True)
    assert shop.credit().balance == PACK - 2 * PRICE
    with pytest.raises(CreditSpent):
        await shop.pay(X402Headers(None, False, shop.payer.sign_in()), price=PACK)
    with pytest.raises(CreditSpent):
        await shop.pay(X402Headers(None, False, Payer().sign_in()))


async def test_credit_covers_a_dearer_worker_that_takes_over_as_far_as_it_goes(shop):
    shop.worker.charged = PRICE + 200
    await shop.pay(shop.payer.exact(shop.desk), ceiling=PRICE + 300)
    assert shop.worker.limits == [PRICE + 300]
    assert (shop.credit().balance, shop.credit().held) == (PACK - PRICE - 200, 0)
    shop.worker.charged = PRICE
    await shop.pay(X402Headers(None, False, shop.payer.sign_in()), ceiling=PACK)
    assert shop.worker.limits[-1] == PACK - PRICE - 200
    assert (shop.credit().balance, shop.credit().held) == (PACK - 2 * PRICE - 200, 0)


async def test_a_deposit_is_confirmed_before_anything_is_served_on_it(shop):
    client = shop.payer.channel()
    order = []
    settle, infer = shop.chain.settle, shop.worker.infer
    shop.chain.settle = lambda *a: (order.append("deposit"), settle(*a))[1]

    async def served(*arguments):
        order.append("serve")
        return await infer(*arguments)

    shop.worker.infer = served
    paid = await shop.pay(shop.payer.batch(shop.desk, client))
    assert order == ["deposit", "serve"]
    extra = decode(paid.headers[PAYMENT_RESPONSE])["extra"]
    assert extra["chargedAmount"] == str(PRICE)
    assert extra["channelState"]["chargedCumulativeAmount"] == str(PRICE)
    assert int(extra["channelState"]["balance"]) == 1_000 * PRICE


async def test_a_channel_we_know_nothing_of_is_not_served_for_what_is_claimed_already(shop):
    """A book that was lost: a voucher just above what the chain shows claimed would pay next to nothing."""
    shop.chain.balance, shop.chain.total_claimed = 1_000 * PRICE, PRICE - 1
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    with pytest.raises(ChannelOutOfStep) as refused:
        await shop.pay(payment)
    assert refused.value.channel.state_to_wire()["chargedCumulativeAmount"] == str(PRICE - 1)
    assert not shop.worker.served


def vouchers(shop, client, paid):
    """Let the client learn of an answer as its HTTP layer would."""
    from x402.schemas import PaymentPayload, PaymentRequirements, SettleResponse

    payment, answer = paid
    settled = SettleResponse.model_validate(decode(answer.headers[PAYMENT_RESPONSE]))
    context = SimpleNamespace(
        payment_payload=PaymentPayload.model_validate(payment),
        requirements=PaymentRequirements.model_validate(payment["accepted"]),
        settle_response=settled,
        payment_required=None,
    )
    client.scheme_hooks.on_payment_response(context)


async def test_vouchers_need_no_chain_while_its_state_is_fresh(shop):
    client = shop.payer.channel()
    for _ in range(3):
        payment = shop.payer.batch(shop.desk, client)
        vouchers(shop, client, (payment, await shop.pay(payment)))
    assert (shop.chain.count("verify"), shop.chain.count("settle")) == (1, 1)
    [channel] = shop.book.channels()
    assert (channel.charged, channel.signed_max, channel.busy_with) == (3 * PRICE, 3 * PRICE, None)


async def test_a_channel_that_is_left_is_looked_at_every_time(shop):
    client = shop.payer.channel()
    shop.chain.withdraw_requested_at = int(time.time())
    for _ in range(2):
        payment = shop.payer.batch(shop.desk, client)
        vouchers(shop, client, (payment, await shop.pay(payment)))
    assert shop.chain.count("verify") == 2
    # The payer could be gone with its deposit before what is served now is claimed.
    shop.chain.withdraw_requested_at -= MERCHANT.withdraw_delay - 500
    with pytest.raises(PaymentRefused, match="withdrawal"):
        await shop.pay(shop.payer.batch(shop.desk, client))
    assert len(shop.worker.served) == 2


async def test_only_what_was_served_is_charged_to_a_channel(shop):
    client = shop.payer.channel()
    shop.worker.charged = PRICE - 400
    payment = shop.payer.batch(shop.desk, client)
    paid = await shop.pay(payment)
    assert decode(paid.headers[PAYMENT_RESPONSE])["extra"]["chargedAmount"] == str(PRICE - 400)
    vouchers(shop, client, (payment, paid))
    shop.worker.charged = PRICE
    await shop.pay(shop.payer.batch(shop.desk, client))
    assert [channel.charged for channel in shop.book.channels()] == [2 * PRICE - 400]
    assert len(set(shop.worker.served)) == 2


async def test_one_request_of_a_channel_is_in_flight_at_a_time(shop):
    client = shop.payer.channel()
    payment = shop.payer.batch(shop.desk, client)
    shop.worker.gate = asyncio.Event()
    first = asyncio.create_task(shop.pay(payment))
    while not shop.chain.count("settle"):
        await asyncio.sleep(0.01)
    with pytest.raises(RequestInProgress):
        await shop.pay(payment)
    shop.worker.gate.set()
    await first
    repeated = await shop.pay(payment)
    assert repeated.answer.repeated
    assert shop.chain.count("settle") == 1


async def test_a_voucher_out_of_step_tells_where_the_channel_stands(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    await shop.pay(payment)
    forgetful = shop.payer.batch(shop.desk, shop.payer.channel())
    forgetful["payload"] = {**payment["payload"], "type": "voucher", "voucher": {**payment["payload"]["voucher"]}}
    channel_id = payment["payload"]["voucher"]["channelId"]
    wrong = sign_voucher(EthAccountSigner(shop.payer.account), channel_id, 5 * PRICE, "eip155:31337")
    forgetful["payload"]["voucher"] = wrong.to_dict()
    with pytest.raises(ChannelOutOfStep) as out:
        await shop.pay(forgetful)
    assert out.value.channel is not None
    assert out.value.channel.charged == PRICE


async def test_a_deposit_outlives_the_request_that_failed(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    shop.worker.faults.append(WorkerFailed("no."))
    with pytest.raises(WorkerFailed) as failed:
        await shop.pay(payment)
    response = decode(failed.value.headers[PAYMENT_RESPONSE])
    assert (response["success"], response["extra"]["chargedAmount"]) == (True, "0")
    await shop.pay(payment)  # the same header again: the deposit is there, the voucher is good
    assert shop.chain.count("settle") == 1
    assert [channel.charged for channel in shop.book.channels()] == [PRICE]


async def test_a_deposit_that_fails_serves_nothing_and_frees_the_channel(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    shop.chain.faults["settle"] = [PaymentRefused("invalid_batch_settlement_evm_deposit_transaction_failed")]
    with pytest.raises(PaymentRefused):
        await shop.pay(payment)
    assert not shop.worker.served
    await shop.pay(payment)
    assert len(shop.worker.served) == 1


async def test_a_voucher_that_a_contract_could_revoke_is_refused_unseen(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    payment["payload"]["channelConfig"]["payerAuthorizer"] = "0x" + "00" * 20
    with pytest.raises(PaymentRefused, match="payerAuthorizer is zero"):
        await shop.pay(payment)
    assert not shop.chain.calls


async def test_a_refund_is_no_request_that_could_be_had_again(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    await shop.pay(payment)
    payload = {key: payment["payload"][key] for key in ("channelConfig", "voucher")}
    await refund(
        shop.desk, PRICE, header_of({**payment, "payload": {**payload, "type": "refund", "amount": str(PACK)}})
    )
    dear = {**payment, "payload": {**payload, "type": "voucher"}, "accepted": terms.accepts(shop.desk, 9 * PRICE)[0]}
    again = await shop.pay(dear, price=9 * PRICE)
    assert again.answer.repeated, "a request that nobody pays for"
    assert shop.chain.count("refund") == 1


async def test_small_parts_are_not_refunded_at_the_gateways_gas_and_the_whole_rest_always_is(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    await shop.pay(payment)
    payload = {key: payment["payload"][key] for key in ("channelConfig", "voucher")} | {"type": "refund"}

    async def ask(**amount):
        return await refund(shop.desk, PRICE, header_of({**payment, "payload": payload | amount}))

    rest = 999 * PRICE
    for small in ("1", str(PACK - 1)):
        with pytest.raises(PaymentRefused, match="is not worth its transaction"):
            await ask(amount=small)
    assert not shop.chain.count("refund")
    await ask(amount=str(PACK))
    await ask(amount=str(rest - PACK - 5))
    with pytest.raises(PaymentRefused, match="is not worth its transaction: ask for 5"):
        await ask(amount="4")
    body, _ = await ask()
    assert body["amount"] == "5"
    assert shop.chain.balance == PRICE
    with pytest.raises(PaymentRefused, match="refund_no_balance"):
        await ask()
    assert shop.chain.count("refund") == 3


def resign(shop, payment, total):
    inner = payment["payload"]
    signer = EthAccountSigner(shop.payer.account)
    inner["voucher"] = sign_voucher(signer, inner["voucher"]["channelId"], total, "eip155:31337").to_dict()


async def test_what_was_refunded_is_not_spent_where_the_chain_cannot_be_read_just_then(shop, monkeypatch):
    """Not even while what was last seen of the channel still counts as fresh."""
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    await shop.pay(payment)
    payload = {key: payment["payload"][key] for key in ("channelConfig", "voucher")}
    look = shop.chain.look

    def away(channel):
        if shop.chain.count("refund"):
            raise ChainUnreachable("away.")
        return look(channel)

    monkeypatch.setattr(shop.chain, "look", away)
    with pytest.raises(ChainUnreachable):
        await refund(shop.desk, PRICE, header_of({**payment, "payload": {**payload, "type": "refund"}}))
    (channel,) = shop.book.channels()
    assert (channel.balance, channel.refund_nonce) == (shop.chain.balance, 1) == (PRICE, 1)
    resign(shop, payment, 2 * PRICE)
    voucher = {"channelConfig": payload["channelConfig"], "voucher": payment["payload"]["voucher"], "type": "voucher"}
    with pytest.raises(PaymentRefused):
        await shop.pay({**payment, "payload": voucher})
    assert len(shop.worker.served) == 1


async def test_a_deposit_not_worth_its_transaction_is_not_made(shop):
    client = shop.payer.channel()
    cheap = shop.payer.batch(shop.desk, client, 1)
    assert cheap["accepted"]["extra"]["minDeposit"] == str(PACK)
    assert cheap["payload"]["deposit"]["amount"] == str(PACK)
    for amount in (str(PACK - 1), "0", "-5", "x", "1" * 40):
        payment = shop.payer.batch(shop.desk, shop.payer.channel())
        payment["payload"]["deposit"]["amount"] = amount
        with pytest.raises(PaymentRefused, match=f"deposit {PACK} or more|no whole number"):
            await shop.pay(payment)
    assert (shop.chain.count("settle"), shop.worker.served) == (0, [])
    await shop.pay(cheap, price=1)
    assert shop.chain.balance == PACK


async def test_a_deposit_that_is_not_needed_is_not_made(shop):
    """Each is a transaction at the gateway's gas, and all come back by one."""
    client, other = shop.payer.channel(), shop.payer.channel()
    await shop.pay(shop.payer.batch(shop.desk, client))
    rest = shop.chain.balance
    for number in range(2, 5):
        payment = shop.payer.batch(shop.desk, other)
        resign(shop, payment, number * PRICE)
        paid = await shop.pay(payment)
        assert decode(paid.headers[PAYMENT_RESPONSE])["extra"]["channelState"]["balance"] == str(rest)
    assert (shop.chain.count("settle"), len(shop.worker.served)) == (1, 4)


async def test_refunds_at_the_gateways_gas_are_earned_but_for_the_first(shop):
    shop.desk = dataclasses.replace(shop.desk, least_claim=3 * PRICE)

    async def round_trip(salt: int, requests: int = 1):
        options = BatchSettlementEvmSchemeOptions(salt="0x" + salt.to_bytes(32, "big").hex())
        shop.chain.balance, shop.chain.refund_nonce = 0, 0
        client = BatchSettlementEvmScheme(shop.payer.account, options)
        for number in range(1, requests + 1):
            payment = shop.payer.batch(shop.desk, client)
            resign(shop, payment, number * PRICE)
            await shop.pay(payment)
        payload = {name: payment["payload"][name] for name in ("channelConfig", "voucher")} | {"type": "refund"}
        return await refund(shop.desk, PRICE, header_of({**payment, "payload": payload}))

    await round_trip(1)
    with pytest.raises(PaymentRefused, match="After 1 refunds another is made once your channels were charged"):
        await round_trip(2)
    assert shop.chain.count("refund") == 1
    assert all(channel.busy_with is None for channel in shop.book.channels()), "it is free for requests"
    body, _ = await round_trip(3)  # three requests paid for it
    assert (body["message"], shop.chain.count("refund")) == ("Refunded", 2)
    with pytest.raises(PaymentRefused, match="After 2 refunds"):
        await round_trip(4, requests=2)
    await round_trip(5)
    shop.payer = Payer()
    await round_trip(6)
    assert shop.chain.count("refund") == 4


async def test_what_was_charged_nothing_is_not_served_again_for_nothing(shop):
    payment = shop.payer.batch(shop.desk, shop.payer.channel())
    await shop.pay(payment)
    (channel,) = shop.book.channels()
    shop.book.hold_channel(b"\x0a" * 32, channel, 0, now=0.0, until=1.0)  # a refund, as earlier versions wrote it down
    shop.book.charge(b"\x0a" * 32, 0, now=0.0)
    with pytest.raises(ChannelOutOfStep):
        await shop.pay({**payment, "payload": {**payment["payload"], "type": "voucher"}})
    assert len(shop.worker.served) == 1


@pytest.mark.parametrize("scheme", ["exact", "batch"])
async def test_what_was_answered_is_answered_again_though_the_price_has_changed(shop, scheme):
    price = 2 * PACK
    if scheme == "exact":
        payment = shop.payer.exact(shop.desk, price)
    else:
        payment = shop.payer.batch(shop.desk, shop.payer.channel(), price)
    shop.worker.charged = price
    first = await shop.pay(payment, price=price)
    for now in (price - 1, price + 1):
        again = await shop.pay(payment, price=now)
        assert again.answer.repeated
        assert again.answer.receipt == first.answer.receipt
    other = Payer()
    made = other.exact if scheme == "exact" else lambda desk, asked: other.batch(desk, other.channel(), asked)
    with pytest.raises(PaymentRefused, match="is asked for now"):
        await shop.pay(made(shop.desk, price), price=price + 1)
    if scheme == "exact":
        with pytest.raises(RequestIdReused):
            await shop.pay(payment, price=price + 1, inputs=b"\x09" * 32)
    assert len(set(shop.worker.served)) == shop.chain.count("settle") == 1


@pytest.mark.parametrize("scheme", ["exact", "batch", "sign-in"])
@pytest.mark.parametrize("is_listed", [True, False])
async def test_what_was_answered_is_answered_again_though_nobody_sells_it_now(shop, scheme, is_listed):
    """And a payment that came to nothing buys nothing where there is nothing to be had."""
    model = manifest()
    listing = Listing(model.model_id, "tiny", bytes(20), 0, 1, 10, int(model.unit), "", is_listed)
    joined = SimpleNamespace(offers=SimpleNamespace(quotes=lambda _: []))

    async def pay(headers, rows=1):
        asked = PaymentHeaders(None, None, None, None, x402=headers)
        inputs = (tensor(rows),)
        return await pay_by_x402(joined, shop.desk, listing, model, inputs, {}, asked, shop.worker.infer, None)

    inputs = content_hash(model.model_id + encode_tensors((tensor(),), {}))
    if scheme == "sign-in":
        await shop.pay(shop.payer.exact(shop.desk), inputs=inputs)
        paying_headers = [X402Headers(None, False, shop.payer.sign_in()) for _ in range(2)]
    else:
        made = shop.payer.exact if scheme == "exact" else lambda desk: shop.payer.batch(desk, shop.payer.channel())
        paying_headers = [paying(made(shop.desk)) for _ in range(2)]
    first = await shop.pay(paying_headers[0], inputs=inputs)
    calls, served = list(shop.chain.calls), len(shop.worker.served)
    again = await pay(paying_headers[0])
    assert again.answer.repeated
    assert again.answer.receipt == first.answer.receipt
    for unanswered in (paying_headers[1], X402Headers(None, False, None)):
        if scheme == "batch" and unanswered.given:
            continue  # the client made it anew without an answer to the first: the same voucher
        with pytest.raises(NoCapacity if is_listed else UnknownModel):
            await pay(unanswered)
    if scheme == "exact":
        with pytest.raises(RequestIdReused):
            await pay(paying_headers[0], rows=2)
    assert (shop.chain.calls, len(shop.worker.served)) == (calls, served + 1)
