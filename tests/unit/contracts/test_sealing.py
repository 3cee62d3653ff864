"""Sealed requests: who can read them, what they are bound to, and that the key is the worker's."""

import dataclasses

import numpy as np
import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data

from contracts.protocol.errors import TensorError
from contracts.protocol.sealed import SIGNED_KEY_BYTES, TENSOR, UNITS, declared_units, is_sealed, key_of
from contracts.protocol.sealing import WorkersKey, open_answer, seal_answer, seal_request
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, encode_tensors
from contracts.protocol.typed_data import Domain, SealingKey

DOMAIN = Domain(31_337, b"\x05" * 20)
SIGNER, OTHER = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32)
MODEL = b"\x07" * 32
WORKER = WorkersKey(SIGNER)
PUBLIC = key_of(WORKER.signed(DOMAIN), SIGNER.address, DOMAIN)
TENSORS = [Tensor.from_numpy("x", np.arange(4, dtype="f4"))]

# Sealed to WORKER for MODEL by another implementation (pyhpke 0.6): 64 times "k", and x as two ones.
ELSEWHERE = bytes.fromhex(
    "88e973cf620903a4d5e479c1c004ace02f390726ba9af9c70c714f59a83614206e9b56ba78b75dc3050db7452f6c08326a50"
    "a1fb33de70270508f4492ea298c631faad941f19f6d35486115102275d662e5d37b79b64a7410cabdaadf143de561fed1489"
    "7549fcc31b6f2ef3d90f1f60877cb144d4140afed373a735afb72ec59d1980261f266dc244ae0bad4cc311b2257225ad211d"
    "116d28"
)


def sealed(parameters=None, units=3):
    return seal_request(PUBLIC, MODEL, TENSORS, parameters or {}, units=units)


def test_the_worker_reads_what_was_sealed_and_the_client_what_was_answered():
    asked = sealed({"temperature": 0.5})
    (wire,) = asked.tensors
    assert (wire.name, wire.datatype, asked.parameters) == (TENSOR, "UINT8", {UNITS: 3})
    assert bytes(TENSORS[0].data) not in bytes(wire.data)
    opened = WORKER.open_request(MODEL, asked.tensors)
    assert opened.parameters == {"temperature": 0.5}
    assert encode_tensors(opened.tensors) == encode_tensors(TENSORS)
    output = Tensor.from_numpy("y", np.ones(3, "f4"))
    answer = seal_answer(opened.answer_key, MODEL, encode_tensors([output]))
    outputs, parameters = open_answer(asked.answer_key, MODEL, [answer])
    assert encode_tensors(outputs, parameters) == encode_tensors([output])


def test_what_another_implementation_sealed_opens():
    opened = WORKER.open_request(MODEL, [Tensor(TENSOR, "UINT8", (len(ELSEWHERE),), ELSEWHERE)])
    assert (opened.answer_key, opened.parameters) == (b"k" * 64, {})
    assert encode_tensors(opened.tensors) == encode_tensors([Tensor.from_numpy("x", np.ones(2, "f4"))])


def test_the_same_request_is_sealed_otherwise_each_time_and_the_same_answer_alike():
    first, second = sealed(), sealed()
    assert first.tensors[0].data != second.tensors[0].data
    assert first.answer_key != second.answer_key
    blob = encode_tensors(TENSORS)
    assert seal_answer(first.answer_key, MODEL, blob) == seal_answer(first.answer_key, MODEL, blob)
    assert seal_answer(first.answer_key, MODEL, blob).data != seal_answer(second.answer_key, MODEL, blob).data


def test_nobody_else_and_no_other_model_opens_it():
    asked = sealed()
    changed = bytearray(asked.tensors[0].data)
    changed[-1] ^= 1
    wrong = [
        (WorkersKey(OTHER), MODEL, asked.tensors),
        (WORKER, b"\x08" * 32, asked.tensors),
        (WORKER, MODEL, (dataclasses.replace(asked.tensors[0], data=bytes(changed)),)),
        (WORKER, MODEL, (Tensor(TENSOR, "UINT8", (3,), b"abc"),)),
        (WORKER, MODEL, (Tensor(TENSOR, "UINT8", (0,), b""),)),
        (WORKER, MODEL, (Tensor("x", "UINT8", asked.tensors[0].shape, asked.tensors[0].data),)),
        (WORKER, MODEL, TENSORS),
        (WORKER, MODEL, (*asked.tensors, *TENSORS)),
        (WORKER, MODEL, ()),
    ]
    for key, model, tensors in wrong:
        with pytest.raises(TensorError) as refused:
            key.open_request(model, tensors)
        assert refused.value.field == TENSOR


def test_an_answer_opens_by_its_own_key_for_its_own_model():
    asked, other = sealed(), sealed()
    answer = seal_answer(asked.answer_key, MODEL, encode_tensors(TENSORS))
    for key, model, tensors in [
        (other.answer_key, MODEL, [answer]),
        (asked.answer_key, b"\x08" * 32, [answer]),
        (asked.answer_key, MODEL, TENSORS),
    ]:
        with pytest.raises(TensorError):
            open_answer(key, model, tensors)


def test_what_is_sealed_is_not_sealed_again():
    inner = sealed()
    outer = seal_request(PUBLIC, MODEL, inner.tensors, inner.parameters, units=1)
    with pytest.raises(TensorError, match="again"):
        WORKER.open_request(MODEL, outer.tensors)


@pytest.mark.parametrize("units", [0, -1, True, 1.0, "1", None, 2**31])
def test_units_out_of_bounds_are_named(units):
    assert is_sealed({UNITS: units})
    with pytest.raises(TensorError) as refused:
        declared_units({UNITS: units})
    assert refused.value.field == UNITS
    with pytest.raises(TensorError):
        sealed(units=units)


def test_a_sealing_key_counts_only_with_its_workers_signature():
    signed = WORKER.signed(DOMAIN)
    assert len(signed) == SIGNED_KEY_BYTES
    assert key_of(signed, OTHER.address, DOMAIN) is None
    assert key_of(signed, SIGNER.address, Domain(1, DOMAIN.escrow)) is None
    assert key_of(b"\x01" * 32 + signed[32:], SIGNER.address, DOMAIN) is None
    for broken in (b"", signed[:-1], signed + b"\0", signed[:32] + bytes(65)):
        assert key_of(broken, SIGNER.address, DOMAIN) is None


def test_a_worker_started_anew_has_the_same_key_and_another_worker_another():
    assert WorkersKey(PrivateKey(b"\x01" * 32)).signed(DOMAIN) == WORKER.signed(DOMAIN)
    assert WorkersKey(OTHER).signed(DOMAIN)[:32] != WORKER.signed(DOMAIN)[:32]


def test_eth_account_agrees_on_what_is_signed():
    message = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "SealingKey": [{"name": "worker", "type": "address"}, {"name": "key", "type": "bytes32"}],
        },
        "primaryType": "SealingKey",
        "domain": {
            "name": "InferenceEscrow",
            "version": "1",
            "chainId": DOMAIN.chain_id,
            "verifyingContract": "0x" + DOMAIN.escrow.hex(),
        },
        "message": {"worker": "0x" + SIGNER.address.hex(), "key": PUBLIC},
    }
    theirs = _hash_eip191_message(encode_typed_data(full_message=message))
    assert SealingKey(SIGNER.address, PUBLIC).digest(DOMAIN) == bytes(theirs)
