"""Our call data is web3's, byte for byte; what comes back is bytes, and no text on chain stops the decoder."""

import pytest
from eth_abi.abi import encode as abi_encode
from web3 import Web3

from contracts import artifacts
from contracts.bindings.abi import load_abi
from contracts.bindings.errors import decode_revert
from contracts.bindings.escrow import Credit, Debit, Escrow
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum

PUBLISHED = ["InferenceEscrow", "WorkerRegistry", "ModelRegistry", "DisputeManager", "TestUSD"]
A, B = b"\x11" * 20, b"\xab" * 20
SIGNATURE = b"\x01" * 32 + b"\x02" * 32 + b"\x1c"


def example(entry):
    """A value of an ABI type, and the same as web3 wants it."""
    kind = entry["type"]
    if kind.endswith("[]"):
        ours, theirs = example({**entry, "type": kind[:-2]})
        return [ours, ours], [theirs, theirs]
    if kind == "tuple":
        parts = [example(part) for part in entry["components"]]
        return tuple(ours for ours, _ in parts), tuple(theirs for _, theirs in parts)
    if kind == "address":
        return B, checksum(B)
    if kind == "bool":
        return True, True
    if kind == "string":
        return "naïve", "naïve"
    if kind == "bytes":
        return SIGNATURE, SIGNATURE
    if kind == "bytes32":
        return b"\x77" * 32, b"\x77" * 32
    return (27, 27) if kind == "uint8" else (2 ** int(kind.removeprefix("uint")) - 1,) * 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_call_data_is_web3s(name):
    entries = artifacts.load(name).abi
    contract = Web3().eth.contract(abi=entries)
    names = [entry["name"] for entry in entries if entry["type"] == "function"]
    for entry in entries:
        if entry["type"] == "function" and names.count(entry["name"]) == 1:
            pairs = [example(given) for given in entry["inputs"]]
            ours = load_abi(name).encode_call(entry["name"], [ours for ours, _ in pairs])
            theirs = contract.encode_abi(entry["name"], args=[theirs for _, theirs in pairs])
            assert "0x" + ours.hex() == theirs, entry["name"]


def test_a_settlement_is_read_back_from_its_call_data():
    escrow = Escrow(Web3(), A)
    debit = Debit(A, B, 2**64 - 1, 5, 7, SIGNATURE)
    data = escrow.settle_batch(3, b"\x09" * 32, 1, [debit], [Credit(A, 4), Credit(B, 2**128 - 1)])
    assert escrow.decode_credits(data) == [Credit(A, 4), Credit(B, 2**128 - 1)]
    assert escrow.decode_credits(escrow.withdraw(A, B, 1)) is None
    assert escrow.decode_credits(b"") is None
    assert escrow.decode_credits(data[:70]) is None, "cut off"
    for word in (3, 4):
        beyond = data[: 4 + 32 * word] + b"\xff" * 32 + data[36 + 32 * word :]
        assert escrow.decode_credits(beyond) is None, "an offset that nothing can hold"


def worker_log(region: bytes, hardware: bytes, endpoint: bytes):
    topic = keccak256(b"WorkerMetadata(address,string,string,string)")
    return [topic, A.rjust(32, b"\0")], abi_encode(["bytes", "bytes", "bytes"], [region, hardware, endpoint])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"eu", "eu"),
        (b"0x" + b"ab" * 20, "0x" + "ab" * 20),
        (b"a\0b", "ab"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        ("日本".encode(), "日本"),
    ],
)
def test_a_text_is_a_text_whatever_it_holds(raw, text):
    name, arguments = load_abi("WorkerRegistry").decode_log(*worker_log(raw, raw, raw))
    assert name == "WorkerMetadata"
    assert arguments == {"worker": A, "region": text, "hardware": text, "endpoint": text}


def test_a_foreign_log_is_none_of_ours():
    abi = load_abi("WorkerRegistry")
    assert abi.decode_log([keccak256(b"Other()")], b"") is None
    assert abi.decode_log([], b"") is None


def test_a_revert_names_the_error_and_its_numbers():
    selector = keccak256(b"InferenceEscrowInsufficientCredit(uint128,uint128)")[:4]
    error = decode_revert(selector + abi_encode(["uint128", "uint128"], [5, 3]))
    assert error.error == "InferenceEscrowInsufficientCredit"
    assert error.arguments == {"amount": 5, "available": 3}
    assert "amount 5, available 3" in str(error)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (keccak256(b"Error(string)")[:4] + abi_encode(["string"], ["no"]), "no"),
        (keccak256(b"Panic(uint256)")[:4] + abi_encode(["uint256"], [17]), "Panic"),
        (b"\x01\x02\x03\x04", "unknown error"),
        (b"", "no reason"),
        (keccak256(b"Error(string)")[:4] + b"\xff", "undecodable"),
    ],
)
def test_any_revert_data_is_said_somehow(data, said):
    assert said in decode_revert(data).error
