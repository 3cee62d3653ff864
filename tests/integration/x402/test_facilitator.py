"""The SDK's own client payloads against the in-process facilitator on a real node."""

import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.schemas import PaymentRequirements

from contracts.protocol.hexes import checksum, hex0x
from market.payments.x402_channels import ChannelConfig, PayerChannel, PayerVoucher, check_voucher
from market.payments.x402_model import Authorization
from tests.support.chain import key

PRICE = 1_000


def terms(shop, scheme, amount, **extra):
    return {
        "scheme": scheme,
        "network": shop.merchant.network,
        "asset": checksum(shop.merchant.token),
        "amount": str(amount),
        "payTo": checksum(shop.merchant.receiver),
        "maxTimeoutSeconds": 300,
        "extra": {"name": shop.token_name, "version": shop.token_version, **extra},
    }


def batch_terms(shop, amount=PRICE):
    return terms(
        shop,
        "batch-settlement",
        amount,
        receiverAuthorizer=checksum(shop.merchant.receiver),
        withdrawDelay=shop.merchant.withdraw_delay,
        minDeposit=str(amount * 1_000),
        assetTransferMethod="eip3009",
    )


def account(name):
    return Account.from_key(key(name).secret_bytes())


def paid(client, requirements):
    inner = client.create_payment_payload(PaymentRequirements.model_validate(requirements))
    return {"x402Version": 2, "payload": inner, "accepted": requirements}


def test_exact_moves_the_pack_once(shop):
    shop.chain.give_tokens("alice", 500_000)
    requirements = terms(shop, "exact", 100_000)
    payload = paid(ExactEvmScheme(account("alice")), requirements)
    before = shop.balance("house")
    shop.facilitator.verify(payload, requirements)
    first = shop.facilitator.settle(payload, requirements)
    again = shop.facilitator.settle(payload, requirements)
    assert first.payer.lower() == account("alice").address.lower()
    assert again.transaction == first.transaction
    assert shop.balance("house") == before + 100_000
    # Still good: its money has arrived, and the book knows whether it has bought anything with it.
    shop.facilitator.verify(payload, requirements)


def test_the_authorization_is_read_as_the_sdk_wrote_it(shop):
    requirements = terms(shop, "exact", 100_000)
    payload = paid(ExactEvmScheme(account("alice")), requirements)
    found = Authorization.from_wire(payload["payload"], shop.merchant.chain_id, shop.merchant.token)
    assert (found.payer, found.value) == (key("alice").address, 100_000)


def test_a_deposit_opens_a_channel_and_its_vouchers_are_claimed(shop):
    shop.chain.give_tokens("bob", 5_000_000)
    requirements = batch_terms(shop)
    payload = paid(BatchSettlementEvmScheme(account("bob")), requirements)
    inner = payload["payload"]
    assert inner["type"] == "deposit"
    assert int(inner["deposit"]["amount"]) == 1_000 * PRICE
    config, voucher = ChannelConfig.from_wire(inner["channelConfig"]), PayerVoucher.from_wire(inner["voucher"])
    check_voucher(config, voucher, shop.merchant)
    assert hex0x(config.channel_id(shop.merchant.chain_id)) == inner["voucher"]["channelId"]
    shop.facilitator.verify(payload, requirements)
    settled = shop.facilitator.settle(payload, requirements)
    assert settled.extra["channelState"]["balance"] == str(1_000 * PRICE)
    channel = PayerChannel(
        voucher.channel_id, config, charged=PRICE, signed_max=PRICE, signature=voucher.signature, balance=1_000 * PRICE
    )
    before = shop.balance("house")
    assert shop.facilitator.claim([channel]) == [channel]
    assert shop.balance("house") == before + PRICE
    payer_before = shop.balance("bob")
    refund = shop.facilitator.refund(
        PayerChannel(
            voucher.channel_id,
            config,
            charged=PRICE,
            signed_max=PRICE,
            signature=voucher.signature,
            balance=1_000 * PRICE,
            total_claimed=PRICE,
        ),
        999 * PRICE,
    )
    assert refund.amount == str(999 * PRICE)
    assert shop.balance("bob") == payer_before + 999 * PRICE


def test_a_node_that_is_away_is_a_fault_and_no_refusal(shop, monkeypatch):
    from contracts.bindings.errors import NodeUnreachable
    from market.errors import ChainUnreachable

    requirements = terms(shop, "exact", 100_000)
    payload = paid(ExactEvmScheme(account("alice")), requirements)

    def away(*_args, **_kwargs):
        raise NodeUnreachable("no answer.")

    monkeypatch.setattr(shop.chain.web3.eth, "get_code", away)
    with pytest.raises(ChainUnreachable):
        shop.facilitator.verify(payload, requirements)
