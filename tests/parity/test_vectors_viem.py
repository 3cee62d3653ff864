"""viem and OpenZeppelin's JavaScript merkle-tree agree with the committed vectors and with a 4096-receipt batch."""

import json
import pathlib
import shutil
import subprocess
from dataclasses import replace

import pytest

from contracts.protocol.commitments import MerkleTree
from contracts.protocol.typed_data import Domain, Receipt

HERE = pathlib.Path(__file__).parent
VECTORS = json.loads((HERE / "vectors.json").read_text())
DOMAIN = Domain(VECTORS["domain"]["chainId"], bytes.fromhex(VECTORS["domain"]["verifyingContract"][2:]))


def run_node(*args: str) -> dict:
    assert (HERE / "node_modules").is_dir(), "run `make install` first: viem is not installed"
    assert shutil.which("node"), "node is not installed"
    done = subprocess.run(["node", "check_vectors.mjs", *args], cwd=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answer() -> dict:
    return run_node()


@pytest.mark.parametrize("name", sorted(VECTORS["structs"]))
def test_viem_computes_the_same_digest_and_signer(answer: dict, name: str) -> None:
    assert answer["structs"][name] == {"digest": VECTORS["structs"][name]["digest"], "signer": VECTORS["signer"]}


@pytest.mark.parametrize("name", sorted(VECTORS["structs"]))
def test_viem_sees_every_change_of_a_field(answer: dict, name: str) -> None:
    rows = VECTORS["changed"][name]
    assert answer["changed"][name] == {field: row["digest"] for field, row in rows.items()}


def test_openzeppelin_builds_the_same_root(answer: dict) -> None:
    assert answer["root"] == VECTORS["merkle"]["root"]
    assert answer["proved"]


def test_openzeppelin_verifies_every_proof_of_a_full_batch(tmp_path: pathlib.Path) -> None:
    paper = Receipt.from_json(VECTORS["structs"]["Receipt"]["fields"])
    digests = [replace(paper, request_id=i.to_bytes(32, "big"), seq=i).digest(DOMAIN) for i in range(4096)]
    tree = MerkleTree(digests)
    batch = {
        "digests": ["0x" + d.hex() for d in digests],
        "root": "0x" + tree.root.hex(),
        "proofs": [["0x" + p.hex() for p in tree.proof(i)] for i in range(len(digests))],
    }
    path = tmp_path / "batch.json"
    path.write_text(json.dumps(batch))
    answer = run_node(str(path))
    assert answer["root"] == batch["root"]
    assert answer["proved"]
