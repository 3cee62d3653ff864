"""Seals requests to a worker's key, and answers to their client; what that looks like on the wire is `sealed`'s.

A request is sealed by HPKE (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305) to the worker's sealing key. Inside are
a key for the answer and the canonical blob of tensors and parameters. The answer is sealed by AES-SIV (RFC 5297) under
that key, which makes the same bytes of the same outputs: a worker that is asked twice does not contradict itself. Both
are bound to the model. Called by workers and by the client kit; the gateway has no use for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.protocol.errors import TensorError
from contracts.protocol.sealed import KEY_BYTES, TENSOR, UNITS, declared_units
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, decode_tensors, encode_tensors
from contracts.protocol.typed_data import Domain, SealingKey

ANSWER_KEY_BYTES = 64
_REQUEST = b"inference-market sealed request 1"
_ANSWER = b"inference-market sealed answer 1"
_DERIVED = b"inference-market sealing key 1"
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


class Opened(NamedTuple):
    """What was in a sealed request; `answer_key` seals what is answered."""

    tensors: list[Tensor]
    parameters: dict[str, Any]
    answer_key: bytes


class WorkersKey:
    """A worker's side: its sealing key, drawn from its signing key so that there is one secret to keep."""

    def __init__(self, key: PrivateKey) -> None:
        drawn = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=_DERIVED).derive(key.secret_bytes())
        self._key = X25519PrivateKey.from_private_bytes(drawn)
        self._signer = key

    def signed(self, domain: Domain) -> bytes:
        """Return the public key and the worker's signature of it, 97 bytes."""
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return public + self._signer.sign_digest(SealingKey(self._signer.address, public).digest(domain))

    def open_request(self, model_id: bytes, tensors: Sequence[Tensor]) -> Opened:
        """Return what a request holds that was sealed to this key.

        Raises:
            TensorError: it is not sealed, sealed to another key or for another model, or holds no tensors.
        """
        sealed = _only(tensors)
        try:
            inside = _SUITE.decrypt(sealed, self._key, info=_REQUEST + model_id)
        except (InvalidTag, ValueError) as error:
            raise TensorError(
                "it does not open: it is sealed to another worker, or for another model.",
                field=TENSOR,
                remedy="Seal it to the key of the worker that Market-Worker names.",
            ) from error
        tensors, parameters = decode_tensors(inside[ANSWER_KEY_BYTES:])
        if UNITS in parameters:
            raise TensorError("what is sealed is sealed again.", field=TENSOR)
        return Opened(tensors, parameters, inside[:ANSWER_KEY_BYTES])


class SealedRequest(NamedTuple):
    """What a client sends, and the key that opens the answer; who is shown the key can read both."""

    tensors: tuple[Tensor, ...]
    parameters: dict[str, Any]
    answer_key: bytes


def seal_request(
    public_key: bytes, model_id: bytes, tensors: Sequence[Tensor], parameters: Mapping[str, Any], *, units: int
) -> SealedRequest:
    """Seal a request to a worker's key; it may cost `units` at most.

    Raises:
        TensorError: a tensor contradicts itself, or there are no such units.
    """
    answer_key = secrets.token_bytes(ANSWER_KEY_BYTES)
    inside = answer_key + encode_tensors(tensors, parameters)
    sealed = _SUITE.encrypt(inside, X25519PublicKey.from_public_bytes(public_key), info=_REQUEST + model_id)
    said = {UNITS: units}
    declared_units(said)
    return SealedRequest((_tensor(sealed),), said, answer_key)


def seal_answer(answer_key: bytes, model_id: bytes, blob: bytes) -> Tensor:
    """Seal an answer's canonical blob; the same blob under the same key gives the same bytes."""
    return _tensor(AESSIV(answer_key).encrypt(blob, [_ANSWER + model_id]))


def open_answer(answer_key: bytes, model_id: bytes, tensors: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the outputs and parameters of a sealed answer.

    Raises:
        TensorError: it does not open by this key.
    """
    try:
        blob = AESSIV(answer_key).decrypt(_only(tensors), [_ANSWER + model_id])
    except (InvalidTag, ValueError) as error:
        raise TensorError("the answer does not open by the request's key.", field=TENSOR) from error
    return decode_tensors(blob)


def _tensor(data: bytes) -> Tensor:
    return Tensor(TENSOR, "UINT8", (len(data),), data)


def _only(tensors: Sequence[Tensor]) -> bytes:
    if len(tensors) != 1 or tensors[0].name != TENSOR or tensors[0].datatype != "UINT8":
        raise TensorError(f"expected one UINT8 tensor called {TENSOR}.", field=TENSOR)
    return bytes(tensors[0].data)
