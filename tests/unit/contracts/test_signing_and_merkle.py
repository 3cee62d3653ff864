import pickle

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.commitments import MerkleTree, leaf, verify
from contracts.protocol.errors import FieldRangeError, InvalidHex, SignatureError
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import address_from_hex, checksum, from_hex
from contracts.protocol.signing import PrivateKey, is_signed_by, recover, to_compact
from contracts.protocol.typed_data import Domain, Receipt, Voucher

KEY = PrivateKey(keccak256(b"test"))
DIGEST = keccak256(b"digest")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_address_agrees_with_eth_account():
    assert checksum(KEY.address) == Account.from_key(KEY.secret_bytes()).address


@given(st.binary(min_size=32, max_size=32))
def test_sign_and_recover(digest):
    assert recover(digest, KEY.sign_digest(digest)) == KEY.address


def test_malleable_and_malformed_signatures_are_refused():
    signature = KEY.sign_digest(DIGEST)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    high = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    for bad in (high, signature[:64], signature[:64] + b"\0", bytes(65), b"\xff" * 64 + b"\x1b"):
        with pytest.raises(SignatureError):
            recover(DIGEST, bad)
        assert not is_signed_by(DIGEST, bad, KEY.address)


def test_compact_form_carries_parity_in_the_top_bit():
    for i in range(8):
        signature = KEY.sign_digest(keccak256(bytes([i])))
        r, vs = to_compact(signature)
        assert r == signature[:32]
        assert (vs[0] >> 7) + 27 == signature[64]


def test_keys_are_not_pickled_or_printed():
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    assert KEY.secret_bytes().hex() not in repr(KEY)


def test_hex_edges():
    assert from_hex("0x00ff", 2, field="f") == b"\0\xff"
    for bad in ("00ff", "0x0ff", "0x00 f", "0xzzzz", ""):
        with pytest.raises(InvalidHex, match="f:"):
            from_hex(bad, 2, field="f")
    good = checksum(KEY.address)
    assert address_from_hex(good, field="a") == address_from_hex(good.lower(), field="a") == KEY.address
    with pytest.raises(InvalidHex, match="EIP-55"):
        address_from_hex(good.swapcase().replace("0X", "0x"), field="a")


@given(st.integers(1, 70))
def test_every_leaf_proves_and_nothing_else_does(count):
    digests = [keccak256(bytes([i])) for i in range(count)]
    tree = MerkleTree(digests)
    assert tree.proofs() == [b"".join(tree.proof(i)) for i in range(count)]
    for i, digest in enumerate(digests):
        proof = tree.proof(i)
        assert verify(tree.root, digest, proof)
        assert not verify(tree.root, keccak256(b"other"), proof)
        assert not verify(tree.root, leaf(digest), proof)


def test_a_field_outside_its_type_is_refused():
    domain = Domain(1, bytes(20))
    with pytest.raises(FieldRangeError, match="cumulative_amount"):
        Voucher(bytes(32), 2**128).digest(domain)
    with pytest.raises(FieldRangeError, match="channel_id"):
        Voucher(bytes(31), 1).digest(domain)
    with pytest.raises(FieldRangeError):
        Receipt.from_bytes(b"short")
