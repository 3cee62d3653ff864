"""eth_account and the committed vectors agree with our digests; any changed field changes the digest."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from contracts.protocol.commitments import MerkleTree, verify
from contracts.protocol.signing import recover
from contracts.protocol.typed_data import STRUCTS, Domain, TypedStruct

HERE = pathlib.Path(__file__).parent
VECTORS = json.loads((HERE / "vectors.json").read_text())
DOMAIN = Domain(VECTORS["domain"]["chainId"], bytes.fromhex(VECTORS["domain"]["verifyingContract"][2:]))


def eth_digest(kind: type[TypedStruct], fields: dict) -> bytes:
    inner = kind.TYPE[kind.TYPE.index("(") + 1 : -1].split(",")
    members = [dict(zip(("type", "name"), item.split(" "), strict=True)) for item in inner]
    values = {m["name"]: int(v) if m["type"].startswith("uint") else v for m in members for v in [fields[m["name"]]]}
    message = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                kind.__name__: members,
            },
            "primaryType": kind.__name__,
            "domain": {
                "name": "InferenceEscrow",
                "version": "1",
                "chainId": VECTORS["domain"]["chainId"],
                "verifyingContract": VECTORS["domain"]["verifyingContract"],
            },
            "message": values,
        }
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda k: k.__name__)
class TestDigests:
    def test_ours_eth_accounts_and_the_vectors_agree(self, kind: type[TypedStruct]) -> None:
        row = VECTORS["structs"][kind.__name__]
        ours = kind.from_json(row["fields"])
        assert "0x" + ours.digest(DOMAIN).hex() == row["digest"] == "0x" + eth_digest(kind, row["fields"]).hex()

    def test_signature_recovers_here_and_in_eth_account(self, kind: type[TypedStruct]) -> None:
        row = VECTORS["structs"][kind.__name__]
        digest, signature = (bytes.fromhex(row[key][2:]) for key in ("digest", "signature"))
        assert "0x" + recover(digest, signature).hex() == VECTORS["signer"].lower()
        assert Account._recover_hash(digest, signature=signature) == VECTORS["signer"]

    def test_every_field_changes_the_digest(self, kind: type[TypedStruct]) -> None:
        ours = kind.from_json(VECTORS["structs"][kind.__name__]["fields"])
        digests = {ours.digest(DOMAIN)}
        for name, _ in kind.FIELDS:
            value = getattr(ours, name)
            other = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
            digests.add(dataclasses.replace(ours, **{name: other}).digest(DOMAIN))
        digests.add(ours.digest(Domain(DOMAIN.chain_id + 1, DOMAIN.escrow)))
        digests.add(ours.digest(Domain(DOMAIN.chain_id, bytes(20))))
        assert len(digests) == len(kind.FIELDS) + 3


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda k: k.__name__)
def test_eth_account_sees_every_change_of_a_field(kind: type[TypedStruct]) -> None:
    rows = VECTORS["changed"][kind.__name__]
    assert list(rows) == [name for name, _ in kind.FIELDS]
    digests = {VECTORS["structs"][kind.__name__]["digest"]}
    for row in rows.values():
        assert "0x" + eth_digest(kind, row["fields"]).hex() == row["digest"]
        digests.add(row["digest"])
    assert len(digests) == len(rows) + 1


def test_the_committed_file_is_what_the_maker_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_vectors", HERE / "make_vectors.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.build() == VECTORS


def test_merkle_vectors() -> None:
    merkle = VECTORS["merkle"]
    digests = [bytes.fromhex(d[2:]) for d in merkle["digests"]]
    tree = MerkleTree(digests)
    assert "0x" + tree.root.hex() == merkle["root"]
    for digest, proof in zip(digests, merkle["proofs"], strict=True):
        assert verify(tree.root, digest, [bytes.fromhex(p[2:]) for p in proof])
        assert not verify(tree.root, bytes(32), [bytes.fromhex(p[2:]) for p in proof])
