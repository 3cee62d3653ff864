"""Write vectors.json: one example of every struct with its type string, struct hash and digest, the same after a change
of each of its fields, and a Merkle batch.

Run by hand when a struct changes: `python -m tests.parity.make_vectors` from the root; the file is committed and three
independent implementations (Solidity, eth_account, viem) are held against it.
"""

import dataclasses
import json
import pathlib

from contracts.protocol.commitments import MerkleTree, leaf
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.receipts import sign_receipts
from contracts.protocol.signing import PrivateKey, to_compact
from contracts.protocol.typed_data import STRUCTS, Domain, TypedStruct

HERE = pathlib.Path(__file__).parent
CHAIN_ID = 31337
ESCROW = bytes.fromhex("5FbDB2315678afecb367f032d93F642f64180aa3")
KEY = PrivateKey(keccak256(b"a test key, worth nothing"))
_WIDTH = {"bytes32": 32, "address": 20, "uint128": 16, "uint64": 8, "uint32": 4}


def example(struct: str, field: str, kind: str) -> bytes | int:
    seed = keccak256(f"{struct}.{field}".encode())
    if kind.startswith("uint"):
        return int.from_bytes(seed[: _WIDTH[kind]], "big")
    return seed[: _WIDTH[kind]]


def flipped(value: bytes | int) -> bytes | int:
    return value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]


def changes(value: TypedStruct, domain: Domain) -> dict:
    """The same struct with one field after the other changed by one bit."""
    found = {}
    for name, _ in value.FIELDS:
        other = dataclasses.replace(value, **{name: flipped(getattr(value, name))})
        found[name] = {
            "fields": other.to_json(),
            "typeHash": hex0x(other.TYPE_HASH),
            "structHash": hex0x(other.struct_hash()),
            "digest": hex0x(other.digest(domain)),
        }
    return found


def build() -> dict:
    domain = Domain(CHAIN_ID, ESCROW)
    structs, changed = {}, {}
    for kind in STRUCTS:
        value = kind(**{name: example(kind.__name__, name, solidity) for name, solidity in kind.FIELDS})
        changed[kind.__name__] = changes(value, domain)
        digest = value.digest(domain)
        signature = KEY.sign_digest(digest)
        r, vs = to_compact(signature)
        structs[kind.__name__] = {
            "type": kind.TYPE,
            "fields": value.to_json(),
            "typeHash": hex0x(kind.TYPE_HASH),
            "structHash": hex0x(value.struct_hash()),
            "digest": hex0x(digest),
            "signature": hex0x(signature),
            "compact": {"r": hex0x(r), "vs": hex0x(vs)},
        }
    digests = [keccak256(f"receipt {i}".encode()) for i in range(11)]
    tree = MerkleTree(digests)
    return {
        "domain": {"chainId": CHAIN_ID, "verifyingContract": checksum(ESCROW), "separator": hex0x(domain.separator)},
        "signer": checksum(KEY.address),
        "structs": structs,
        "changed": changed,
        "merkle": {
            "digests": [hex0x(d) for d in digests],
            "leaves": [hex0x(leaf(d)) for d in digests],
            "root": hex0x(tree.root),
            "proofs": [[hex0x(p) for p in tree.proof(i)] for i in range(len(digests))],
            "batchSignatures": [hex0x(signature) for signature in sign_receipts(KEY, digests, domain)],
        },
    }


if __name__ == "__main__":
    (HERE / "vectors.json").write_text(json.dumps(build(), indent=1) + "\n")
