from dataclasses import replace

import pytest

from contracts.protocol.typed_data import ACCESS_MARK, ACCESS_MARK_SHIFT, ChannelAccess
from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_reservations import MemoryReservations
from market.errors import (
    AccessNeeded,
    ChannelExiting,
    ExposureLimit,
    InsufficientDeposit,
    InsufficientVoucher,
    InvalidSignature,
    UnknownChannel,
    WrongGateway,
)
from market.payments.authorize import Authorizer
from market.payments.model import ChannelFacts
from tests.support.money import CHANNEL, CHANNEL_ID, DOMAIN, GATEWAY, PAYER, SIGNER, channel_of, voucher

FACTS = ChannelFacts(CHANNEL_ID, CHANNEL, deposited=1_000, settled=0, exiting=0)


class Facts(dict):
    facts = dict.get


def authorizer(*, exposure_cap=10_000, facts=FACTS) -> Authorizer:
    return Authorizer(
        domain=DOMAIN,
        gateway=GATEWAY.address,
        channels=Facts({facts.channel_id: facts}),
        reservations=MemoryReservations(MemoryLedger()),
        exposure_cap=exposure_cap,
    )


async def reserve(of: Authorizer, price: int, ceiling: int, request: int = 1):
    made = voucher(ceiling)
    return await of.reserve(made, price=price, request_id=request.to_bytes(32, "big"), ttl_seconds=60, remember=False)


def test_channel_and_signature_are_checked():
    of = authorizer()
    assert of.check(voucher(5)) == FACTS
    with pytest.raises(UnknownChannel):
        of.check(voucher(5, channel_id=b"\x01" * 32))
    with pytest.raises(InvalidSignature):
        of.check(voucher(5, key=PAYER))


def test_channel_of_another_gateway():
    channel = channel_of(gateway=b"\x09" * 20)
    facts = ChannelFacts(channel.digest(DOMAIN), channel, 1_000, 0, 0)
    with pytest.raises(WrongGateway):
        authorizer(facts=facts).check(voucher(5, channel_id=facts.channel_id))


def test_a_channel_that_says_so_is_spent_from_by_its_signer_and_by_keys_alone():
    channel = channel_of(ACCESS_MARK << ACCESS_MARK_SHIFT | 7)
    channel_id = channel.digest(DOMAIN)
    facts = ChannelFacts(channel_id, channel, 1_000, 0, 0)
    of, seen = authorizer(facts=facts), voucher(5, channel_id=channel_id)
    with pytest.raises(AccessNeeded) as refused:
        of.check(seen)
    assert (refused.value.field, bool(refused.value.remedy)) == ("Market-Voucher", True)
    access = SIGNER.sign_digest(ChannelAccess(channel_id).digest(DOMAIN))
    assert of.check(replace(seen, access=access)) == facts
    # Once shown it is not known for good: each request shows it.
    with pytest.raises(AccessNeeded):
        of.check(seen)
    with pytest.raises(InvalidSignature):
        of.check(replace(seen, access=seen.signature))
    with pytest.raises(InvalidSignature):
        of.check(replace(voucher(5, channel_id=channel_id, key=PAYER), access=access))
    assert of.check(seen, by_key=True) == facts


async def test_up_to_the_deposit_and_not_beyond():
    of = authorizer()
    await reserve(of, 1_000, 5_000)
    with pytest.raises(InsufficientDeposit) as caught:
        await reserve(of, 1, 5_000, request=2)
    assert caught.value.required == 1_001
    assert "0.000001 (1u) more" in caught.value.remedy


async def test_the_exiting_part_is_not_lent_on():
    facts = replace(FACTS, exiting=400)
    of = authorizer(facts=facts)
    await reserve(of, 600, 5_000)
    with pytest.raises(ChannelExiting):
        await reserve(of, 1, 5_000, request=2)


async def test_exit_larger_than_the_deposit_leaves_nothing():
    assert replace(FACTS, exiting=5_000).spendable == 0


async def test_exposure_counts_from_what_is_settled():
    of = authorizer(exposure_cap=100)
    await reserve(of, 100, 5_000)
    with pytest.raises(ExposureLimit):
        await reserve(of, 1, 5_000, request=2)
    of._channels[CHANNEL_ID] = replace(FACTS, settled=50)
    await reserve(of, 50, 5_000, request=2)


async def test_voucher_is_named_before_the_deposit():
    with pytest.raises(InsufficientVoucher, match=r"allows 0\.001500 \(1500u\) in all"):
        await reserve(authorizer(), 2_000, 1_500)
