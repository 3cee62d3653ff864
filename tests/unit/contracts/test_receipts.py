from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.errors import MessageError
from contracts.protocol.hashing import keccak256
from contracts.protocol.receipts import is_receipt_signed_by, pack_receipt, sign_receipts, unpack_receipt
from contracts.protocol.signing import SIGNATURE_BYTES, PrivateKey
from contracts.protocol.typed_data import Domain, Receipt, ReceiptBatch

KEY = PrivateKey(keccak256(b"worker"))
OTHER = PrivateKey(keccak256(b"other"))
HERE = Domain(31337, b"\x11" * 20)
THERE = Domain(31337, b"\x22" * 20)


def digests(count: int) -> list[bytes]:
    return [keccak256(bytes([n])) for n in range(count)]


@given(st.integers(1, 70))
def test_each_receipt_of_a_batch_is_proved_by_its_own_signature(count):
    batch = digests(count)
    signatures = sign_receipts(KEY, batch, HERE)
    assert all(
        is_receipt_signed_by(digest, signature, KEY.address, HERE)
        for digest, signature in zip(batch, signatures, strict=True)
    )


def test_one_receipt_is_signed_by_itself():
    (signature,) = sign_receipts(KEY, digests(1), HERE)
    assert len(signature) == SIGNATURE_BYTES


def test_no_receipts_need_no_signature():
    assert sign_receipts(KEY, [], HERE) == []


@pytest.mark.parametrize("signer", [KEY, OTHER])
def test_a_signature_of_a_batch_is_good_for_its_receipts_only(signer):
    batch = digests(5)
    signatures = sign_receipts(KEY, batch, HERE)
    assert not is_receipt_signed_by(batch[0], signatures[1], KEY.address, HERE)
    assert not is_receipt_signed_by(keccak256(b"none of them"), signatures[0], KEY.address, HERE)
    assert not is_receipt_signed_by(batch[0], signatures[0], OTHER.address, HERE)
    assert not is_receipt_signed_by(batch[0], signatures[0], KEY.address, THERE)


@given(st.integers(0, 64 + 3 * 32), st.integers(1, 255))
def test_a_changed_byte_spoils_it(position, flip):
    batch = digests(8)
    signature = bytearray(sign_receipts(KEY, batch, HERE)[2])
    assert len(signature) == SIGNATURE_BYTES + 3 * 32
    signature[position] ^= flip
    assert not is_receipt_signed_by(batch[2], bytes(signature), KEY.address, HERE)


@pytest.mark.parametrize("length", [0, 64, 66, 65 + 31, 65 + 33, 65 + 21 * 32])
def test_an_odd_length_is_no_signature(length):
    assert not is_receipt_signed_by(digests(1)[0], b"\x01" * length, KEY.address, HERE)


def test_the_root_of_a_batch_is_no_receipt_and_a_receipt_no_root():
    """A signature of one kind never passes for one of the other."""
    batch = digests(2)
    signature = sign_receipts(KEY, batch, HERE)[0]
    root_digest = ReceiptBatch(keccak256(b"any")).digest(HERE)
    assert not is_receipt_signed_by(root_digest, KEY.sign_digest(batch[0]), KEY.address, HERE)
    assert not is_receipt_signed_by(batch[0], KEY.sign_digest(batch[0]) + signature[65:], KEY.address, HERE)


def receipt() -> Receipt:
    fields = {
        name: 7 if kind.startswith("uint") else b"\x07" * (20 if kind == "address" else 32)
        for name, kind in Receipt.FIELDS
    }
    return Receipt(**fields)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_a_packed_receipt_comes_back(count):
    paper = receipt()
    batch = [replace(paper, seq=n).digest(HERE) for n in range(count)]
    worker, gateway = sign_receipts(KEY, batch, HERE)[-1], OTHER.sign_digest(batch[-1])
    assert unpack_receipt(pack_receipt(paper, worker, gateway)) == (paper, worker, gateway)


@pytest.mark.parametrize("cut", [0, 10, Receipt.WIRE_BYTES, Receipt.WIRE_BYTES + 2, -1, -65])
def test_a_cut_receipt_is_refused(cut):
    data = pack_receipt(receipt(), bytes(65), bytes(65))
    with pytest.raises(MessageError):
        unpack_receipt(data[:cut])
