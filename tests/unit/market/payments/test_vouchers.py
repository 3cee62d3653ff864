import pytest

from contracts.protocol.hexes import hex0x
from market.errors import InvalidSignature, InvalidVoucher
from market.payments import vouchers
from market.payments.vouchers import MAX_CUMULATIVE, VoucherVerifier, parse_voucher
from tests.support.money import CHANNEL_ID, DOMAIN, PAYER, SIGNER, voucher

CHANNEL, SIGNATURE = "0x" + "ab" * 32, "0x" + "cd" * 65


def test_header_is_read():
    parsed = parse_voucher(f" {CHANNEL} ; 15 ;{SIGNATURE}")
    assert (parsed.channel_id, parsed.cumulative_amount, parsed.signature) == (b"\xab" * 32, 15, b"\xcd" * 65)


@pytest.mark.parametrize(
    "header",
    [
        "",
        CHANNEL,
        f"{CHANNEL};1",
        f"{CHANNEL};1;{SIGNATURE};",
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
