"""Is a receipt worth what it says? Answered from the chain alone.

Decides each check by itself and reports all of them, so that a reader sees what failed. The gateway's word is used for
nothing: the proof it served is held against the root on chain. Called by client programs and the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts.protocol.commitments import verify
from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import PPM, format_amount
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.tensors import content_hash
from contracts.protocol.typed_data import Channel, Domain
from market.sdk.papers import SignedReceipt


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """What the registry holds of a worker key; `operator` is zeros if it never was registered."""

    operator: bytes
    stake: int


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What the registry holds of a model; `owner` is zeros if it is not listed."""

    name: str
    owner: bytes
    royalty_ppm: int


class ChainFacts(Protocol):
    """The chain as the verifier asks it."""

    @property
    def domain(self) -> Domain:
        """Where signatures are valid."""
        ...

    def settled_root(self, gateway: bytes, epoch: int) -> bytes:
        """Return the root of a gateway's batch, zeros if there is none."""
        ...

    def registered_worker(self, worker: bytes) -> RegisteredWorker:
        """Return a worker's registration."""
        ...

    def listed_model(self, model_id: bytes) -> ListedModel:
        """Return a model's listing."""
        ...

    def channel_settled(self, channel_id: bytes) -> int:
        """Return what a channel has paid on chain, atomic units."""
        ...

    def receipt_is_included(self, gateway: bytes, epoch: int, digest: bytes, proof: Sequence[bytes]) -> bool:
        """Ask the escrow itself to verify a proof."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every check of one receipt."""

    checks: tuple[Check, ...]

    @property
    def valid(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    @classmethod
    def unsettled(cls, error: CodedError) -> Verdict:
        """Return the verdict on a receipt for which no proof is to be had."""
        return cls((Check("settled", holds=False, detail=error.detail),))

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {
            "valid": self.valid,
            "checks": [{"name": c.name, "holds": c.holds, "detail": c.detail} for c in self.checks],
        }


def verify_receipt(
    paper: SignedReceipt,
    chain: ChainFacts,
    *,
    channel: Channel | None = None,
    inputs: bytes | None = None,
    outputs: bytes | None = None,
) -> Verdict:
    """Check a receipt's signatures, parties, amounts, and its place in the settled batch.

    `channel` is the caller's own, if it has it; `inputs` and `outputs` are canonical tensor blobs, if they were kept.
    """
    checks = [*_signatures(paper, chain.domain), *_parties(paper, chain), *_settlement(paper, chain)]
    if channel is not None:
        holds = channel.digest(chain.domain) == paper.receipt.channel_id
        holds = holds and (channel.payer, channel.gateway) == (paper.receipt.payer, paper.receipt.gateway)
        checks.append(Check("channel", holds, "the receipt charges the channel that was opened"))
    for name, blob, said in (
        ("inputs", inputs, paper.receipt.input_hash),
        ("outputs", outputs, paper.receipt.output_hash),
    ):
        if blob is not None:
            checks.append(Check(name, content_hash(blob) == said, f"SHA-256 {hex0x(said)}"))
    return Verdict(tuple(checks))


def _signatures(paper: SignedReceipt, domain: Domain) -> list[Check]:
    receipt, digest = paper.receipt, paper.receipt.digest(domain)
    return [
        Check(
            "worker signature",
            is_receipt_signed_by(digest, paper.worker_signature, receipt.worker, domain),
            f"digest {hex0x(digest)} by {checksum(receipt.worker)}",
        ),
        Check(
            "gateway signature",
            is_receipt_signed_by(digest, paper.gateway_signature, receipt.gateway, domain),
            f"the same digest by {checksum(receipt.gateway)}",
        ),
    ]


def _parties(paper: SignedReceipt, chain: ChainFacts) -> list[Check]:
    receipt = paper.receipt
    worker = chain.registered_worker(receipt.worker)
    model = chain.listed_model(receipt.model_id)
    shares = receipt.worker_amount + receipt.owner_amount
    owner_amount = receipt.price * model.royalty_ppm // PPM
    return [
        Check(
            "worker registered",
            any(worker.operator),
            f"operator {checksum(worker.operator)}, stake {format_amount(worker.stake)}",
        ),
        Check("model listed", any(model.owner), f"{model.name or '?'} of {checksum(model.owner)}"),
        Check(
            "amounts",
            receipt.owner_amount == owner_amount and shares <= receipt.price <= receipt.cumulative,
            f"price {format_amount(receipt.price)} = worker {format_amount(receipt.worker_amount)}"
            f" + owner {format_amount(receipt.owner_amount)} + gateway {format_amount(receipt.price - shares)}",
        ),
    ]


def _settlement(paper: SignedReceipt, chain: ChainFacts) -> list[Check]:
    receipt, settlement = paper.receipt, paper.settlement
    if settlement is None:
        return [Check("settled", holds=False, detail="no settlement is known")]
    digest = receipt.digest(chain.domain)
    root = chain.settled_root(receipt.gateway, settlement.epoch)
    paid = chain.channel_settled(receipt.channel_id)
    return [
        Check(
            "root on chain",
            any(root) and root == settlement.root,
            f"epoch {settlement.epoch}, root {hex0x(root)}",
        ),
        Check("proof", verify(root, digest, settlement.proof), f"leaf and {len(settlement.proof)} siblings"),
        Check(
            "contract agrees",
            chain.receipt_is_included(receipt.gateway, settlement.epoch, digest, settlement.proof),
            "InferenceEscrow.verifyReceipt",
        ),
        Check(
            "paid on chain",
            paid >= receipt.cumulative,
            f"the channel has paid {format_amount(paid)}; {format_amount(receipt.cumulative)} was charged up to here",
        ),
    ]
