"""A receipt is verified from chain facts alone; every false fact is named."""

from dataclasses import dataclass, field, replace

import pytest

from contracts.protocol.commitments import MerkleTree, verify
from contracts.protocol.money import split_price
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import content_hash
from contracts.protocol.typed_data import Domain, Receipt
from market.sdk.papers import Settlement, SignedReceipt
from market.sdk.verify import ListedModel, RegisteredWorker, verify_receipt
from market.sdk.wallet import Wallet

DOMAIN = Domain(31_337, b"\x05" * 20)
NOBODY = b"\0" * 20


@dataclass
class Facts:
    roots: dict = field(default_factory=dict)
    operator: bytes = b"\x09" * 20
    model: ListedModel = ListedModel("m", b"\x08" * 20, 100_000)  # noqa: RUF009
    settled: int = 5_000
    domain: Domain = DOMAIN

    def settled_root(self, gateway, epoch):
        return self.roots.get((gateway, epoch), b"\0" * 32)

    def registered_worker(self, worker):
        return RegisteredWorker(self.operator, 1_000_000)

    def listed_model(self, model_id):
        return self.model

    def channel_settled(self, channel_id):
        return self.settled

    def receipt_is_included(self, gateway, epoch, digest, proof):
        return verify(self.settled_root(gateway, epoch), digest, proof)


@pytest.fixture
def case():
    worker, gateway = PrivateKey.generate(), PrivateKey.generate()
    channel = Wallet.generate().new_channel(gateway.address)
    split = split_price(1_000, 100_000, 50_000)
    receipt = Receipt(
        b"\x01" * 32, channel.digest(DOMAIN), channel.payer, gateway.address, 1, worker.address, b"\x07" * 32,
        content_hash(b"in"), content_hash(b"out"), 1_000, split.worker_amount, split.owner_amount, 3_000, 1_700_000_000,
    )  # fmt: skip
    digest = receipt.digest(DOMAIN)
    tree = MerkleTree([b"\x0a" * 32, digest, b"\x0b" * 32])
    settlement = Settlement(2, tree.root, tuple(tree.proof(1)))
    paper = SignedReceipt(receipt, worker.sign_digest(digest), gateway.sign_digest(digest), "m", settlement)
    return paper, Facts({(gateway.address, 2): tree.root}), channel, (worker, gateway)


def failed(verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.holds]


def test_a_true_receipt_holds(case):
    paper, facts, channel, _ = case
    verdict = verify_receipt(paper, facts, channel=channel, inputs=b"in", outputs=b"out")
    assert verdict.valid, failed(verdict)
    assert len(verdict.checks) == 12


def test_other_signatures_are_named(case):
    paper, facts, _, (worker, gateway) = case
    digest = paper.receipt.digest(DOMAIN)
    assert failed(verify_receipt(replace(paper, worker_signature=gateway.sign_digest(digest)), facts)) == [
        "worker signature"
    ]
    assert failed(verify_receipt(replace(paper, gateway_signature=worker.sign_digest(digest)), facts)) == [
        "gateway signature"
    ]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"operator": NOBODY}, ["worker registered"]),
        ({"model": ListedModel("", NOBODY, 100_000)}, ["model listed"]),
        ({"model": ListedModel("m", b"\x08" * 20, 200_000)}, ["amounts"]),
        ({"settled": 2_999}, ["paid on chain"]),
        ({"roots": {}}, ["root on chain", "proof", "contract agrees"]),
    ],
)
def test_facts_of_the_chain_that_differ_are_named(case, change, names):
    paper, facts, _, _ = case
    assert failed(verify_receipt(paper, replace(facts, **change))) == names


def test_another_channel_input_or_output_is_named(case):
    paper, facts, channel, _ = case
    other = replace(channel, salt=channel.salt ^ 1)
    verdict = verify_receipt(paper, facts, channel=other, inputs=b"x", outputs=b"y")
    assert failed(verdict) == ["channel", "inputs", "outputs"]


def test_without_settlement_it_says_so(case):
    paper, facts, _, _ = case
    assert failed(verify_receipt(replace(paper, settlement=None), facts)) == ["settled"]


def test_a_receipt_survives_json(case):
    paper, *_ = case
    assert SignedReceipt.from_json(paper.to_json()) == paper
