"""Sign-in-with-x: which account a request comes from, by an EIP-4361 message signed for this gateway alone.

Decides whether a proof is genuine, fresh and meant for us; that it is used once is the book's matter. The SDK's own
verifier needs a package that holds web3 at an old version, hence this one. Called by the door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import address_from_hex, checksum, from_hex
from contracts.protocol.signing import SIGNATURE_BYTES, is_signed_by
from market.gateway.x402.wire import decode
from market.payments.x402_model import SIGN_IN, PaymentRefused, identity

MAX_AGE_SECONDS = 300
CLOCK_SKEW_SECONDS = 30
_NONCE_LENGTHS = range(8, 129)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed, and the one-time nonce."""

    address: bytes
    nonce: str

    @property
    def request_id(self) -> bytes:
        """The id of the one job that this proof is good for."""
        return identity(SIGN_IN, self.address, self.nonce.encode())


def verify(header: str, *, origin: str, network: str, now: float) -> SignedIn:
    """Read and check a SIGN-IN-WITH-X header; `now` unix seconds.

    Raises:
        PaymentRefused: it is malformed, for somebody else, too old, or not signed by its address.
    """
    proof = decode(header)
    texts = ("domain", "address", "uri", "version", "chainId", "nonce", "issuedAt", "signature")
    if any(not isinstance(proof.get(name), str) for name in texts):
        raise PaymentRefused("invalid_siwx_payload", f"Sign-in needs {', '.join(texts)}.")
    said = [proof.get(name) for name in ("statement", "expirationTime", "notBefore", "requestId")]
    resources = proof.get("resources")
    said += resources if isinstance(resources, list) else [] if resources is None else [0]
    if any(text is not None and not isinstance(text, str) for text in said):
        raise PaymentRefused("invalid_siwx_payload", "Everything that is signed is text, resources a list of texts.")
    if proof["domain"] != origin.partition("://")[2]:
        raise PaymentRefused("invalid_siwx_domain_mismatch", f"Signed for {proof['domain']}, not for {origin}.")
    if not (proof["uri"] + "/").startswith(origin + "/"):
        raise PaymentRefused("invalid_siwx_uri_mismatch", f"Signed for {proof['uri']}, not for {origin}.")
    if proof["chainId"] != network:
        raise PaymentRefused("invalid_siwx_chain_id", f"Signed for {proof['chainId']}, not for {network}.")
    if not (proof["nonce"].isascii() and proof["nonce"].isalnum() and len(proof["nonce"]) in _NONCE_LENGTHS):
        raise PaymentRefused("invalid_siwx_nonce")
    _check_times(proof, now)
    try:
        address = address_from_hex(proof["address"], field="address")
        signature = from_hex(proof["signature"], SIGNATURE_BYTES, field="signature")
    except InvalidHex as error:
        raise PaymentRefused("invalid_siwx_payload", f"{error.field}: {error.detail}") from error
    text = message(proof, checksum(address)).encode()
    digest = keccak256(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)
    if not is_signed_by(digest, signature, address):
        raise PaymentRefused("invalid_siwx_signature")
    return SignedIn(address, proof["nonce"])


def message(proof: Mapping[str, Any], address: str) -> str:
    """Return the EIP-4361 text that the wallet signs. Source: EIP-4361, ABNF message format."""
    chain = proof["chainId"].partition(":")[2]
    statement = proof.get("statement")
    lines = [
        f"{proof['domain']} wants you to sign in with your Ethereum account:",
        address,
        "",
        *([statement, ""] if statement else [""]),
        f"URI: {proof['uri']}",
        f"Version: {proof['version']}",
        f"Chain ID: {chain}",
        f"Nonce: {proof['nonce']}",
        f"Issued At: {proof['issuedAt']}",
    ]
    optional = (("expirationTime", "Expiration Time"), ("notBefore", "Not Before"), ("requestId", "Request ID"))
    lines += [f"{title}: {proof[name]}" for name, title in optional if proof.get(name) is not None]
    resources = proof.get("resources")
    if resources:
        lines += ["Resources:", *(f"- {resource}" for resource in resources)]
    return "\n".join(lines)


def _check_times(proof: Mapping[str, Any], now: float) -> None:
    issued = _time(proof["issuedAt"], "issued_at")
    if issued > now + CLOCK_SKEW_SECONDS:
        raise PaymentRefused("invalid_siwx_issued_at_in_future")
    if issued < now - MAX_AGE_SECONDS:
        raise PaymentRefused("invalid_siwx_issued_at_too_old", f"Sign-in is good for {MAX_AGE_SECONDS} s.")
    if proof.get("expirationTime") is not None and _time(proof["expirationTime"], "expiration_time") < now:
        raise PaymentRefused("invalid_siwx_expired")
    if proof.get("notBefore") is not None and _time(proof["notBefore"], "not_before") > now:
        raise PaymentRefused("invalid_siwx_not_yet_valid")


def _time(text: Any, what: str) -> float:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise PaymentRefused(f"invalid_siwx_{what}") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
