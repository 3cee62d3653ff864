"""Faults around x402 money on a real node: what was not taken stays the payer's, what was paid arrives in the end."""

import time

import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.constants import BATCH_SETTLEMENT_ADDRESS
from x402.mechanisms.evm.exact.client import ExactEvmScheme

from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from market.adapters.x402_facilitator import InProcessFacilitator
from market.adapters.x402_signer import HouseSigner
from market.errors import ChainUnreachable
from market.payments.x402_channels import ChannelConfig, PayerChannel, PayerVoucher
from market.payments.x402_model import PaymentRefused
from tests.integration.x402.test_facilitator import PRICE, batch_terms, paid, terms
from tests.support.chain import key
from tests.support.refusing_token import refusing

PACK = 100_000
DEPOSIT = 1_000 * PRICE


def account(name):
    return Account.from_key(key(name).secret_bytes())


def pack(shop, name):
    shop.chain.give_tokens(name, PACK)
    requirements = terms(shop, "exact", PACK)
    return paid(ExactEvmScheme(account(name)), requirements), requirements


def anew(shop):
    """The house's side as after a start."""
    transactor = Transactor(shop.chain.web3, key("house"), outbox=MemoryOutbox())
    signer = HouseSigner(shop.chain.web3, key("house"), transactor, confirm_seconds=1.0)
    return InProcessFacilitator(signer, transactor, shop.chain.contracts.token, shop.merchant)


def test_a_house_without_gas_money_is_a_fault_and_takes_the_payment_later(shop):
    payment, requirements = pack(shop, "ann")
    before = shop.balance("house")
    held = shop.chain.rpc("eth_getBalance", checksum(key("house").address), "latest")
    shop.chain.rpc("anvil_setBalance", checksum(key("house").address), "0x0")
    try:
        with pytest.raises(ChainUnreachable) as fault:
            anew(shop).settle(payment, requirements)
        assert "currency" in fault.value.remedy
        assert (shop.balance("ann"), shop.balance("house")) == (PACK, before)
    finally:
        shop.chain.rpc("anvil_setBalance", checksum(key("house").address), held)
    anew(shop).settle(payment, requirements)
    assert (shop.balance("ann"), shop.balance("house")) == (0, before + PACK)


def test_while_the_token_is_paused_a_pack_is_refused_and_the_same_payment_is_good_afterwards(shop):
    payment, requirements = pack(shop, "bob")
    before = shop.balance("house")
    with refusing(shop.chain), pytest.raises(PaymentRefused):
        anew(shop).settle(payment, requirements)
    assert (shop.balance("bob"), shop.balance("house")) == (PACK, before)
    anew(shop).settle(payment, requirements)
    assert (shop.balance("bob"), shop.balance("house")) == (0, before + PACK)


def test_what_was_claimed_while_the_house_was_blocked_is_swept_by_the_next_claim(shop):
    shop.chain.give_tokens("cat", DEPOSIT)
    requirements = batch_terms(shop)
    payment = paid(BatchSettlementEvmScheme(account("cat")), requirements)
    anew(shop).settle(payment, requirements)
    voucher = PayerVoucher.from_wire(payment["payload"]["voucher"])
    channel = PayerChannel(
        voucher.channel_id,
        ChannelConfig.from_wire(payment["payload"]["channelConfig"]),
        charged=PRICE,
        signed_max=voucher.max_claimable,
        signature=voucher.signature,
        balance=DEPOSIT,
    )
    house, held = shop.balance("house"), held_by_x402(shop)
    with refusing(shop.chain, blocked=key("house").address), pytest.raises(PaymentRefused):
        anew(shop).claim([channel])
    assert (shop.balance("house"), held_by_x402(shop)) == (house, held)
    seen = anew(shop).look(channel)
    assert seen.total_claimed == PRICE, "claimed, though not swept"
    assert anew(shop).claim([seen]) == []
    assert (shop.balance("house"), held_by_x402(shop)) == (house + PRICE, held - PRICE)


def test_an_expired_authorization_moves_nothing_and_a_replayed_one_nothing_more(shop):
    shop.chain.give_tokens("eve", 3 * PACK)
    everybody = ("eve", "house", "stranger", "gateway")
    before = {name: shop.balance(name) for name in everybody}
    stale, requirements = paid_within(shop, "eve", seconds=1)
    time.sleep(max(0.0, int(stale["payload"]["authorization"]["validBefore"]) - time.time() + 1))
    shop.chain.mine()  # the chain's clock, too, is past it
    with pytest.raises(PaymentRefused):
        anew(shop).settle(stale, requirements)
    assert {name: shop.balance(name) for name in everybody} == before

    fresh, requirements = paid_within(shop, "eve", seconds=300)
    first = anew(shop).settle(fresh, requirements)
    for _ in range(3):
        assert anew(shop).settle(fresh, requirements).transaction == first.transaction
    moved = {name: shop.balance(name) - before[name] for name in everybody}
    assert moved == {"eve": -PACK, "house": PACK, "stranger": 0, "gateway": 0}


def paid_within(shop, name, *, seconds):
    requirements = {**terms(shop, "exact", PACK), "maxTimeoutSeconds": seconds}
    return paid(ExactEvmScheme(account(name)), requirements), requirements


def held_by_x402(shop):
    return shop.chain.contracts.token.balance_of(bytes.fromhex(BATCH_SETTLEMENT_ADDRESS[2:]))
