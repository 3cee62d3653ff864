"""Channel ids and vouchers against the SDK's own, and every reason to refuse one."""

from dataclasses import replace

import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.constants import BATCH_SETTLEMENT_ADDRESS
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as SdkConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.signers import EthAccountSigner

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.signing import PrivateKey
from market.devnet.x402 import CHANNELS
from market.payments.x402_channels import (
    CONTRACT,
    ChannelConfig,
    ChannelOutOfStep,
    Merchant,
    PayerChannel,
    PayerVoucher,
    check_covered,
    check_voucher,
    continues,
)
from market.payments.x402_model import PaymentRefused

SESSION, HOUSE = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32)
MERCHANT = Merchant(84_532, b"\x77" * 20, HOUSE.address, 900)
CONFIG = ChannelConfig(
    payer=b"\x11" * 20,
    payer_authorizer=SESSION.address,
    receiver=HOUSE.address,
    receiver_authorizer=HOUSE.address,
    token=b"\x77" * 20,
    withdraw_delay=900,
    salt=b"\x09" * 32,
)
CHANNEL_ID = CONFIG.channel_id(84_532)


def voucher(amount, *, key=SESSION, channel_id=CHANNEL_ID, network="eip155:84532"):
    signer = EthAccountSigner(Account.from_key(key.secret_bytes()))
    return PayerVoucher.from_wire(sign_voucher(signer, hex0x(channel_id), amount, network).to_dict())


def test_the_address_is_the_sdks():
    assert checksum(CONTRACT) == BATCH_SETTLEMENT_ADDRESS
    assert CONTRACT == CHANNELS


def test_ids_and_wire_forms_are_the_sdks():
    wire = CONFIG.to_wire()
    assert hex0x(CHANNEL_ID) == compute_channel_id(SdkConfig.from_dict(wire), "eip155:84532")
    assert ChannelConfig.from_wire(wire) == CONFIG
    signed = voucher(5)
    assert PayerVoucher.from_wire(signed.to_wire()) == signed


def test_a_good_voucher_passes():
    check_voucher(CONFIG, voucher(1_000), MERCHANT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"receiver": b"\x12" * 20}, "receiver_mismatch"),
        ({"receiver_authorizer": b"\x12" * 20}, "receiver_authorizer_mismatch"),
        ({"token": b"\x12" * 20}, "token_mismatch"),
        ({"withdraw_delay": 901}, "withdraw_delay_mismatch"),
        ({"payer_authorizer": bytes(20)}, "voucher_signature"),
        ({"payer_authorizer": b"\x12" * 20}, "voucher_signature"),
    ],
)
def test_a_channel_of_somebody_else_is_refused(change, reason):
    config = replace(CONFIG, **change)
    signed = voucher(1_000, channel_id=config.channel_id(84_532))
    with pytest.raises(PaymentRefused) as refused:
        check_voucher(config, signed, MERCHANT)
    assert refused.value.reason == f"invalid_batch_settlement_evm_{reason}"


def test_a_voucher_of_another_channel_key_or_chain_is_refused():
    for signed in (
        voucher(5, channel_id=b"\x01" * 32),
        voucher(5, key=HOUSE),
        voucher(5, network="eip155:1"),
        replace(voucher(5), max_claimable=6),
    ):
        with pytest.raises(PaymentRefused):
            check_voucher(CONFIG, signed, MERCHANT)


def test_a_malleable_signature_is_refused():
    good = voucher(5)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = (order - int.from_bytes(good.signature[32:64], "big")).to_bytes(32, "big")
    twin = good.signature[:32] + high + bytes([55 - good.signature[64]])
    with pytest.raises(PaymentRefused):
        check_voucher(CONFIG, replace(good, signature=twin), MERCHANT)


@pytest.mark.parametrize(
    "change",
    [
        {"payer": "0x12"},
        {"payer": None},
        {"salt": 7},
        {"withdrawDelay": "soon"},
        {"withdrawDelay": -1},
        {"withdrawDelay": True},
        {"withdrawDelay": 2**40},
    ],
)
def test_malformed_configs_are_refusals(change):
    with pytest.raises(PaymentRefused):
        ChannelConfig.from_wire(CONFIG.to_wire() | change)


@pytest.mark.parametrize(
    "change", [{"maxClaimableAmount": "1e9"}, {"maxClaimableAmount": "9" * 40}, {"signature": "0x"}, {"channelId": {}}]
)
def test_malformed_vouchers_are_refusals(change):
    with pytest.raises(PaymentRefused):
        PayerVoucher.from_wire(voucher(5).to_wire() | change)


@pytest.mark.parametrize(
    ("balance", "claimed", "reason"),
    [(0, 0, "channel_not_found"), (999, 0, "cumulative_exceeds_balance"), (2_000, 1_000, "cumulative_below_claimed")],
)
def test_money_that_is_not_there_covers_nothing(balance, claimed, reason):
    with pytest.raises(PaymentRefused, match=reason):
        check_covered(voucher(1_000), balance=balance, total_claimed=claimed)
    check_covered(voucher(1_000), balance=1_000, total_claimed=999)


def test_a_voucher_continues_where_the_channel_stands():
    channel = PayerChannel(CHANNEL_ID, CONFIG, charged=3_000, signed_max=3_000)
    assert continues(channel, voucher(4_000), 1_000) == 3_000
    for total in (3_000, 3_999, 4_001, 1_000):
        with pytest.raises(ChannelOutOfStep):
            continues(channel, voucher(total), 1_000)


def test_an_unknown_channel_stands_where_its_payer_signed():
    assert continues(None, voucher(7_000), 1_000) == 6_000
    with pytest.raises(ChannelOutOfStep):
        continues(None, voucher(500), 1_000)
