from dataclasses import replace

import pytest

from contracts.protocol.hexes import hex0x
from contracts.protocol.typed_data import ChannelAccess, Voucher
from market.errors import AccessNeeded, InvalidSignature, InvalidVoucher
from market.payments import vouchers
from market.payments.vouchers import MAX_CUMULATIVE, VoucherVerifier, parse_voucher
from tests.support.money import CHANNEL_ID, DOMAIN, PAYER, SIGNER, voucher

CHANNEL, SIGNATURE = "0x" + "ab" * 32, "0x" + "cd" * 65


def test_header_is_read():
    parsed = parse_voucher(f" {CHANNEL} ; 15 ;{SIGNATURE}")
    assert (parsed.channel_id, parsed.cumulative_amount, parsed.signature) == (b"\xab" * 32, 15, b"\xcd" * 65)
    assert parsed.access is None


def test_access_stands_behind_the_signature():
    assert parse_voucher(f"{CHANNEL};15;{SIGNATURE}; 0x{'ef' * 65}").access == b"\xef" * 65


@pytest.mark.parametrize(
    "header",
    [
        "",
        CHANNEL,
        f"{CHANNEL};1",
        f"{CHANNEL};1;{SIGNATURE};",
        f"{CHANNEL};1;{SIGNATURE};{SIGNATURE[:-2]}",
        f"{CHANNEL};1;{SIGNATURE};{SIGNATURE};{SIGNATURE}",
        f"{CHANNEL[:-1]};1;{SIGNATURE}",
        f"{CHANNEL};1;{SIGNATURE[:-2]}",
        f"{CHANNEL};-1;{SIGNATURE}",
        f"{CHANNEL};+1;{SIGNATURE}",
        f"{CHANNEL};1_0;{SIGNATURE}",
        f"{CHANNEL};١;{SIGNATURE}",
        f"{CHANNEL};1.0;{SIGNATURE}",
        f"{CHANNEL};;{SIGNATURE}",
        f"{CHANNEL};{MAX_CUMULATIVE + 1};{SIGNATURE}",
        f"{CHANNEL};{'9' * 5_000};{SIGNATURE}",
        f"{CHANNEL};1;{'0x' + 'zz' * 65}",
    ],
)
def test_anything_else_is_refused(header):
    with pytest.raises(InvalidVoucher) as caught:
        parse_voucher(header)
    assert caught.value.field == "Market-Voucher"
    assert caught.value.remedy


def test_largest_amount():
    assert parse_voucher(f"{CHANNEL};{MAX_CUMULATIVE};{SIGNATURE}").cumulative_amount == MAX_CUMULATIVE


def test_round_trip_of_a_signed_voucher():
    made = voucher(7)
    header = f"{hex0x(made.channel_id)};{made.cumulative_amount};{hex0x(made.signature)}"
    assert parse_voucher(header) == made


@pytest.fixture
def recoveries(monkeypatch):
    made = []
    recover = vouchers.recover

    def counting(digest, signature):
        made.append(digest)
        return recover(digest, signature)

    monkeypatch.setattr(vouchers, "recover", counting)
    return made


def test_same_voucher_costs_one_recovery(recoveries):
    verifier = VoucherVerifier(DOMAIN)
    for _ in range(5):
        verifier.verify(voucher(10), SIGNER.address)
    assert len(recoveries) == 1
    verifier.verify(voucher(11), SIGNER.address)
    verifier.verify(voucher(11), SIGNER.address)
    assert len(recoveries) == 2


def test_forgeries_are_refused_and_never_remembered(recoveries):
    verifier = VoucherVerifier(DOMAIN)
    genuine = voucher(10)
    verifier.verify(genuine, SIGNER.address)
    for forged in (
        voucher(10, key=PAYER),
        type(genuine)(genuine.channel_id, 11, genuine.signature),
        type(genuine)(b"\x01" * 32, 10, genuine.signature),
        type(genuine)(genuine.channel_id, 10, b"\x00" * 65),
        type(genuine)(genuine.channel_id, 10, genuine.signature[:64] + b"\x02"),
    ):
        for _ in range(2):
            with pytest.raises(InvalidSignature):
                verifier.verify(forged, SIGNER.address)
    # The same bytes under another signer are another question.
    with pytest.raises(InvalidSignature):
        verifier.verify(genuine, PAYER.address)
    verifier.verify(genuine, SIGNER.address)
    assert len(recoveries) == 12


def with_access(signature: bytes | None, channel_id: bytes = CHANNEL_ID):
    return replace(voucher(10, channel_id=channel_id), access=signature)


def test_access_is_the_signers_own_and_costs_one_recovery(recoveries):
    verifier = VoucherVerifier(DOMAIN)
    genuine = SIGNER.sign_digest(ChannelAccess(CHANNEL_ID).digest(DOMAIN))
    with pytest.raises(AccessNeeded):
        verifier.verify_access(with_access(None), SIGNER.address)
    assert recoveries == []
    for _ in range(5):
        verifier.verify_access(with_access(genuine), SIGNER.address)
    assert len(recoveries) == 1
    for forged in (
        PAYER.sign_digest(ChannelAccess(CHANNEL_ID).digest(DOMAIN)),
        SIGNER.sign_digest(ChannelAccess(b"\x01" * 32).digest(DOMAIN)),
        SIGNER.sign_digest(Voucher(CHANNEL_ID, 10).digest(DOMAIN)),  # what a worker has
        bytes(65),
    ):
        with pytest.raises(InvalidSignature):
            verifier.verify_access(with_access(forged), SIGNER.address)
    with pytest.raises(InvalidSignature):
        verifier.verify_access(with_access(genuine), PAYER.address)
    with pytest.raises(InvalidSignature):
        verifier.verify_access(with_access(genuine, b"\x01" * 32), SIGNER.address)
    verifier.verify_access(with_access(genuine), SIGNER.address)
    assert len(recoveries) == 7


def test_memory_is_bounded(recoveries):
    verifier = VoucherVerifier(DOMAIN, remembered_channels=2)
    made = [voucher(1, channel_id=bytes([i]) * 32) for i in range(3)]
    for one in made:
        verifier.verify(one, SIGNER.address)
    assert len(verifier._newest) == 2
    verifier.verify(made[2], SIGNER.address)
    assert len(recoveries) == 3
    verifier.verify(made[0], SIGNER.address)
    assert len(recoveries) == 4
    assert CHANNEL_ID not in verifier._newest
