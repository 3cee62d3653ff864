import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.errors import TensorError
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, content_hash, decode_tensors, encode_tensors

tensor_st = st.builds(
    lambda name, dtype, shape, seed: Tensor.from_numpy(
        name, np.random.default_rng(seed).integers(0, 2, size=shape).astype(NUMPY_DTYPES[dtype])
    ),
    st.text("abcdefgh_", min_size=1, max_size=8),
    st.sampled_from(sorted(NUMPY_DTYPES)),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.integers(0, 2**32),
)


@given(st.lists(tensor_st, max_size=5, unique_by=lambda t: t.name), st.dictionaries(st.text(), st.integers()))
def test_round_trip_and_order_does_not_matter(tensors, parameters):
    blob = encode_tensors(tensors, parameters)
    decoded, back = decode_tensors(blob)
    assert back == parameters
    assert [t.name for t in decoded] == sorted(t.name for t in tensors)
    assert encode_tensors(list(reversed(tensors)), parameters) == blob
    assert encode_tensors(decoded, back) == blob
    by_name = {t.name: t for t in decoded}
    for tensor in tensors:
        np.testing.assert_array_equal(by_name[tensor.name].to_numpy(), tensor.to_numpy())


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_our_error(data):
    for blob in (data, b"IMT1" + data):
        try:
            tensors, parameters = decode_tensors(blob)
        except TensorError:
            continue
        assert encode_tensors(tensors, parameters) == blob


@given(tensor_st, st.data())
def test_any_changed_byte_changes_the_hash_or_is_refused(tensor, data):
    blob = bytearray(encode_tensors([tensor], {"k": 1}))
    original = content_hash(bytes(blob))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1
    assert content_hash(bytes(blob)) != original


def test_bytes_elements():
    tensor = Tensor.from_numpy("text", np.array(["häl", "", "x"]))
    decoded, _ = decode_tensors(encode_tensors([tensor]))
    assert decoded[0].to_numpy().tolist() == ["häl".encode(), b"", b"x"]


def test_half_a_character_is_no_text():
    with pytest.raises(TensorError, match="character 3") as refused:
        Tensor.from_numpy("text", np.array(["hé\ud83d"], dtype=object))
    assert refused.value.field == "text"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (Tensor("x", "FP32", (2,), b"\0" * 7), "takes 8"),
        (Tensor("x", "FP31", (2,), b"\0" * 8), "unknown datatype"),
        (Tensor("x", "FP32", (-1,), b""), "not possible"),
        (Tensor("x", "FP32", (1 << 39, 4), b""), "not possible"),
        (Tensor("x", "BYTES", (1,), b"\xff\0\0\0a"), "beyond the data"),
        (Tensor("x", "BYTES", (2,), struct.pack("<I", 0)), "1 elements for 2"),
        (Tensor("", "FP32", (), b"\0" * 4), "empty"),
    ],
)
def test_contradictions_are_named(tensor, words):
    with pytest.raises(TensorError, match=words):
        encode_tensors([tensor])


def test_the_same_name_twice_is_refused():
    one = Tensor("x", "BOOL", (1,), b"\1")
    with pytest.raises(TensorError, match="twice"):
        encode_tensors([one, one])


def test_parameters_must_be_canonical():
    blob = encode_tensors([], {"a": 1})
    head = json.dumps({"a": 1}).encode()
    loose = b"IMT1" + struct.pack("<I", len(head)) + head + struct.pack("<H", 0)
    assert blob != loose
    with pytest.raises(TensorError, match="canonical"):
        decode_tensors(loose)
    with pytest.raises(TensorError, match="canonical"):
        encode_tensors([], {"a": float("nan")})
