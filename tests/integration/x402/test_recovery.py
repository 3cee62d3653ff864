"""An authorization whose transaction is out when the gateway dies: what the payer paid becomes credit, however late."""

import time

import pytest
from eth_account import Account
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.schemas import PaymentRequirements

from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from market.adapters.x402_facilitator import InProcessFacilitator
from market.adapters.x402_signer import HouseSigner
from market.devnet import x402
from market.devnet.services import rpc
from market.payments.x402_model import PaymentRefused
from market.payments.x402_ports import SettlementPending
from tests.support.chain import key
from tests.support.x402_chain import call, cancellation, transfer

PACK = 100_000


def facilitator(shop, outbox):
    """Join what one gateway process joins; the outbox is the database's part of it."""
    transactor = Transactor(shop.chain.web3, key("house"), outbox=outbox)
    signer = HouseSigner(shop.chain.web3, key("house"), transactor, confirm_seconds=1.0)
    return InProcessFacilitator(signer, transactor, shop.chain.contracts.token, shop.merchant)


def payment(shop, name, seconds, to=None):
    shop.chain.give_tokens(name, PACK)
    requirements = {
        "scheme": "exact",
        "network": shop.merchant.network,
        "asset": checksum(shop.merchant.token),
        "amount": str(PACK),
        "payTo": checksum(to or shop.merchant.receiver),
        "maxTimeoutSeconds": seconds,
        "extra": {"name": shop.token_name, "version": shop.token_version},
    }
    account = Account.from_key(key(name).secret_bytes())
    inner = ExactEvmScheme(account).create_payment_payload(PaymentRequirements.model_validate(requirements))
    return {"x402Version": 2, "payload": inner, "accepted": requirements}, requirements


def test_a_transaction_that_is_out_is_found_again_after_a_restart_and_after_its_time(shop):
    paid, requirements = payment(shop, "dora", seconds=9)
    outbox, before, url = MemoryOutbox(), shop.balance("house"), shop.chain.url
    rpc(url, "evm_setAutomine", False)
    try:
        with pytest.raises(SettlementPending):
            facilitator(shop, outbox).settle(paid, requirements)
    finally:
        rpc(url, "evm_setAutomine", True)
        rpc(url, "evm_mine")
    time.sleep(max(0.0, int(paid["payload"]["authorization"]["validBefore"]) - time.time() + 1))
    settled = facilitator(shop, outbox).settle(paid, requirements)
    assert settled.payer.lower() == "0x" + key("dora").address.hex()
    assert settled.amount == str(PACK)
    assert shop.balance("house") == before + PACK


def test_an_authorization_that_somebody_else_sent_first_has_paid_all_the_same(shop):
    paid, requirements = payment(shop, "emil", seconds=300)
    before = shop.balance("house")
    shop.chain.give_gas(key("stranger").address)
    stranger = Transactor(shop.chain.web3, key("stranger"))
    thief = InProcessFacilitator(
        HouseSigner(shop.chain.web3, key("stranger"), stranger), stranger, shop.chain.contracts.token, shop.merchant
    )
    first = thief.settle(paid, requirements)
    facilitator(shop, MemoryOutbox()).verify(paid, requirements)
    settled = facilitator(shop, MemoryOutbox()).settle(paid, requirements)
    assert settled.transaction == first.transaction
    assert shop.balance("house") == before + PACK


def test_a_cancelled_authorization_has_paid_nothing(shop):
    paid, requirements = payment(shop, "fay", seconds=300)
    token = shop.chain.contracts.token
    shop.chain.send("payer", token.address, cancellation(shop, "fay", paid["payload"]))
    with pytest.raises(PaymentRefused):
        facilitator(shop, MemoryOutbox()).verify(paid, requirements)
    with pytest.raises(PaymentRefused):
        facilitator(shop, MemoryOutbox()).settle(paid, requirements)


def test_one_payment_does_not_pay_for_another_authorization_of_the_same_transaction(shop, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("x402.mechanisms.evm.exact.client.create_nonce", lambda: "0x" + "77" * 32)
        unpaid, requirements = payment(shop, "gus", seconds=300)
        to_another, _ = payment(shop, "gus", seconds=300, to=key("stranger").address)
    paid, _ = payment(shop, "gus", seconds=300)
    before = shop.balance("house")
    calls = [(checksum(shop.merchant.token), False, transfer(done["payload"])) for done in (to_another, paid)]
    shop.chain.send("payer", x402.MULTICALL3, call("aggregate3", ["(address,bool,bytes)[]"], [calls]))
    assert shop.balance("house") == before + PACK
    with pytest.raises(PaymentRefused):
        facilitator(shop, MemoryOutbox()).verify(unpaid, requirements)
    with pytest.raises(PaymentRefused):
        facilitator(shop, MemoryOutbox()).settle(unpaid, requirements)
    assert facilitator(shop, MemoryOutbox()).settle(paid, requirements).amount == str(PACK)
