"""Receipts with their signatures: one ECDSA signature for as many as are at hand, each still proved by itself.

A receipt's signature is 65 bytes over its digest; or 65 bytes over a `ReceiptBatch`, the root of a Merkle tree of
digests, followed by the proof of this digest, 32 bytes a step. The contracts accept both. A party that serves sixty
requests at once then signs once, and who checks them recovers one signer. Called by worker, gateway and client.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from contracts.protocol.commitments import MerkleTree, climb
from contracts.protocol.errors import MessageError, SignatureError
from contracts.protocol.signing import SIGNATURE_BYTES, PrivateKey, recover
from contracts.protocol.typed_data import Domain, Receipt, ReceiptBatch

STEP_BYTES = 32
# A tree of a million receipts; nobody serves more at once.
MAX_STEPS = 20
_ROOTS_KEPT = 4_096
_LENGTH_BYTES = 2


def sign_receipts(key: PrivateKey, digests: Sequence[bytes], domain: Domain) -> list[bytes]:
    """Sign receipts by their digests, all with one ECDSA signature; returns each one's own, in order."""
    if len(digests) < 2:
        return [key.sign_digest(digest) for digest in digests]
    tree = MerkleTree(digests)
    root = sign_tree(key, tree, domain)
    return [root + proof for proof in tree.proofs()]


def sign_tree(key: PrivateKey, tree: MerkleTree, domain: Domain) -> bytes:
    """Return the 65 bytes that stand for every receipt of a tree; a receipt's own signature adds its proof."""
    return key.sign_digest(ReceiptBatch(tree.root).digest(domain))


def tree_signed_by(digests: Sequence[bytes], signatures: Sequence[bytes], signer: bytes, domain: Domain) -> MerkleTree:
    """Return the tree of exactly these receipts if each signature is the `signer`'s under its root.

    Raises:
        SignatureError: it is not so; some of them may still be good by themselves.
    """
    tree = MerkleTree(digests)
    root = signatures[0][:SIGNATURE_BYTES]
    if [root + proof for proof in tree.proofs()] != list(signatures):
        raise SignatureError("these signatures are not those of one tree.", field="signature")
    if _ROOTS.signer(tree.root, root, domain) != signer:
        raise SignatureError("the tree's root is signed by another.", field="signature")
    return tree


def recover_receipt(digest: bytes, signature: bytes, domain: Domain) -> bytes:
    """Recover the 20-byte signer of a receipt's digest.

    Raises:
        SignatureError: neither 65 bytes nor 65 and a proof, malleable, or no signature at all.
    """
    if len(signature) <= SIGNATURE_BYTES:
        return recover(digest, signature)
    if not _is_well_formed(signature):
        raise SignatureError(f"{len(signature)} bytes are no signature with a proof.", field="signature")
    steps = range(SIGNATURE_BYTES, len(signature), STEP_BYTES)
    root = climb(digest, [signature[at : at + STEP_BYTES] for at in steps])
    return _ROOTS.signer(root, signature[:SIGNATURE_BYTES], domain)


def is_receipt_signed_by(digest: bytes, signature: bytes, signer: bytes, domain: Domain) -> bool:
    """Tell whether `signature`, alone or in a batch, is `signer`'s over a receipt; malformed ones are simply not."""
    try:
        return recover_receipt(digest, signature, domain) == signer
    except SignatureError:
        return False


def pack_receipt(receipt: Receipt, worker_signature: bytes, gateway_signature: bytes) -> bytes:
    """Write receipt ‖ length of the first signature, two bytes big endian ‖ the worker's ‖ the gateway's."""
    length = len(worker_signature).to_bytes(_LENGTH_BYTES, "big")
    return b"".join((receipt.to_bytes(), length, worker_signature, gateway_signature))


def unpack_receipt(data: bytes) -> tuple[Receipt, bytes, bytes]:
    """Read what `pack_receipt` wrote: receipt, worker's signature, gateway's.

    Raises:
        MessageError: malformed.
    """
    start = Receipt.WIRE_BYTES + _LENGTH_BYTES
    end = start + int.from_bytes(data[Receipt.WIRE_BYTES : start], "big")
    worker, gateway = data[start:end], data[end:]
    if not all(_is_well_formed(signature) for signature in (worker, gateway)):
        raise MessageError(f"{len(data)} bytes are no receipt with two signatures.", field="receipt")
    return Receipt.from_bytes(data[: Receipt.WIRE_BYTES]), worker, gateway


# A signature and the longest proof behind it.
LONGEST_SIGNATURE = SIGNATURE_BYTES + MAX_STEPS * STEP_BYTES


def _is_well_formed(signature: bytes) -> bool:
    proof = len(signature) - SIGNATURE_BYTES
    return 0 <= proof <= MAX_STEPS * STEP_BYTES and proof % STEP_BYTES == 0


class _KnownRoots:
    """The signers of the last roots: receipts of one batch come together."""

    def __init__(self) -> None:
        self._signers: OrderedDict[tuple[bytes, bytes, bytes], bytes] = OrderedDict()
        self._lock = Lock()

    def signer(self, root: bytes, signature: bytes, domain: Domain) -> bytes:
        key = (root, signature, domain.separator)
        known = self._signers.get(key)
        if known is None:
            known = recover(ReceiptBatch(root).digest(domain), signature)
            with self._lock:
                self._signers[key] = known
                if len(self._signers) > _ROOTS_KEPT:
                    self._signers.popitem(last=False)
        return known


_ROOTS = _KnownRoots()
