"""How a node of another operator and a gateway prove themselves to each other when a link is opened.

Both programs compute everything here byte for byte. Order: challenge (gateway), hello (node), welcome (gateway);
afterwards every frame carries a tag under a key that only these two have, so what arrives is what the signer of the
welcome, or of the hello, sent: in that order, once, unaltered. Does no input or output.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import coincurve

from contracts.protocol.link_frames import LinkRefused, check_lengths, dump, load, make, row_of
from contracts.protocol.signing import PrivateKey, is_signed_by
from contracts.protocol.typed_data import Domain, TypedStruct, WorkerSession, _typed

LINK_VERSION = 1
LINK_PATH = "/market/v1/link"
MAX_HELLO_BYTES = 4_096
HANDSHAKE_SECONDS = 10.0
MAX_SESSION_SECONDS = 24 * 3_600
RESUME_SECONDS = 60.0
PING_SECONDS = 5.0
PING_TIMEOUT_SECONDS = 10.0
MAX_WINDOW = 32
NONCE_BYTES = 32


@_typed("address", "address", "bytes32")
class LinkHello(TypedStruct):
    """A worker's session key opens a link to one gateway; `transcript` covers what both said before."""

    worker: bytes
    gateway: bytes
    transcript: bytes


@_typed("address", "address", "bytes32")
class LinkWelcome(TypedStruct):
    """A gateway takes a worker's link; `transcript` covers the hello too."""

    gateway: bytes
    worker: bytes
    transcript: bytes


# --- the handshake ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """The gateway's first words: who it is, where its signatures count, a fresh nonce and a fresh key."""

    version: int
    gateway: bytes
    chain_id: int
    escrow: bytes
    nonce: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """The node's answer: for whom it speaks, by which session, and where an earlier link was cut.

    `resume` is the session to go on with, or empty; `received` the last number that came through it. `window` is how
    many packs it takes before the first is answered.
    """

    worker: bytes
    session_key: bytes
    expiry: int
    session_signature: bytes
    nonce: bytes
    public: bytes
    resume: bytes
    received: int
    window: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The gateway's consent: the session's name, whether it goes on where it was cut, and the last number received."""

    session: bytes
    resumed: bool
    received: int
    window: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The two directions' keys of one connection."""

    from_gateway: bytes
    from_node: bytes


class Ephemeral:
    """A key of one connection; what was said under it stays secret when long-lived keys leak."""

    def __init__(self) -> None:
        self._key = coincurve.PrivateKey()
        self.public: bytes = self._key.public_key.format(compressed=True)

    def shared(self, public: bytes) -> bytes:
        """Return the 32 bytes that only the owner of `public` can compute too.

        Raises:
            LinkRefused: not a point of the curve.
        """
        try:
            return bytes(self._key.ecdh(public))
        except Exception as error:  # coincurve raises bare Exception and ValueError
            raise LinkRefused("not a public key.", field="public") from error


def encode_challenge(challenge: Challenge) -> bytes:
    """Encode the gateway's first words."""
    return dump(row_of(challenge))


def decode_challenge(data: bytes) -> Challenge:
    """Decode them.

    Raises:
        LinkRefused: malformed, or another version.
    """
    made = make(Challenge, load(data))
    if made.version != LINK_VERSION:
        raise LinkRefused(f"version {made.version}, {LINK_VERSION} spoken here.", field="version")
    check_lengths(made, gateway=20, escrow=20, nonce=NONCE_BYTES, public=33)
    return made


def make_hello(hello: Hello, challenge: bytes, gateway: bytes, key: PrivateKey, domain: Domain) -> bytes:
    """Encode a hello and sign it, and the challenge that it answers, by the session's key."""
    core = dump(row_of(hello))
    digest = LinkHello(hello.worker, gateway, _transcript(challenge, core)).digest(domain)
    return dump([core, key.sign_digest(digest)])


def check_hello(data: bytes, challenge: bytes, gateway: bytes, domain: Domain, now: float) -> tuple[Hello, bytes]:
    """Return a hello whose signatures hold, and its signed part.

    Raises:
        LinkRefused: malformed, a session that ran out or lasts too long, or somebody else's signature.
    """
    core, signature = _pair(data)
    hello = make(Hello, load(core))
    check_lengths(hello, worker=20, session_key=20, nonce=NONCE_BYTES, public=33)
    if len(hello.resume) not in (0, NONCE_BYTES) or hello.received < 0 or not 1 <= hello.window <= MAX_WINDOW:
        raise LinkRefused("numbers out of range.", field="hello")
    check_session(hello.worker, hello.session_key, hello.expiry, hello.session_signature, domain, now)
    digest = LinkHello(hello.worker, gateway, _transcript(challenge, core)).digest(domain)
    if not is_signed_by(digest, signature, hello.session_key):
        raise LinkRefused("the hello is not signed by the session's key for this challenge.", field="signature")
    return hello, core


def check_session(worker: bytes, key: bytes, expiry: int, signature: bytes, domain: Domain, now: float) -> None:
    """Check that the worker lets `key` act for it now.

    Raises:
        LinkRefused: it ran out, lasts longer than a day, or is not the worker's.
    """
    if not 0 <= expiry < 1 << 64 or expiry <= now:
        raise LinkRefused("the session has expired.", field="expiry")
    if expiry > now + MAX_SESSION_SECONDS:
        raise LinkRefused("a session lasts a day at most.", field="expiry")
    if not is_signed_by(WorkerSession(worker, key, expiry).digest(domain), signature, worker):
        raise LinkRefused("the session is not signed by the worker's key.", field="session_signature")


def make_welcome(
    welcome: Welcome, challenge: bytes, hello_core: bytes, worker: bytes, key: PrivateKey, domain: Domain
) -> tuple[bytes, bytes]:
    """Encode a welcome and sign everything said so far by the gateway's key; also returns the transcript."""
    core = dump(row_of(welcome))
    transcript = _transcript(challenge, hello_core, core)
    digest = LinkWelcome(key.address, worker, transcript).digest(domain)
    return dump([core, key.sign_digest(digest)]), transcript


def check_welcome(
    data: bytes, challenge: bytes, hello: bytes, worker: bytes, gateway: bytes, domain: Domain
) -> tuple[Welcome, bytes]:
    """Return a welcome signed by `gateway`, and the transcript.

    Raises:
        LinkRefused: malformed, or not from that gateway in answer to this hello.
    """
    core, signature = _pair(data)
    welcome = make(Welcome, load(core))
    transcript = _transcript(challenge, _pair(hello)[0], core)
    if not is_signed_by(LinkWelcome(gateway, worker, transcript).digest(domain), signature, gateway):
        raise LinkRefused("the welcome is not signed by the gateway that was called.", field="signature")
    check_lengths(welcome, session=NONCE_BYTES)
    return welcome, transcript


def derive_keys(shared: bytes, transcript: bytes) -> Keys:
    """Derive the keys of both directions from the shared secret and all that was signed."""
    return Keys(
        hashlib.blake2b(transcript, key=shared, person=b"link gateway").digest()[:32],
        hashlib.blake2b(transcript, key=shared, person=b"link node").digest()[:32],
    )


def new_nonce() -> bytes:
    """Draw 32 random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def _transcript(*said: bytes) -> bytes:
    made = hashlib.sha256()
    for part in said:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.digest()


def _pair(data: bytes) -> tuple[bytes, bytes]:
    row = load(data)
    if not isinstance(row, list) or len(row) != 2 or not all(type(part) is bytes for part in row):
        raise LinkRefused("expected a signed message.")
    return row[0], row[1]
