"""API keys as both sides name them: a random text, known to the gateway by its hash alone.

Decides the form of a key, its hash, and the hash of what a grant says in words. The holder makes the key; what the
channel's signer signs (`typed_data.KeyGrant`) names only the hash. Called by the gateway and by whoever makes keys.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hashing import keccak256, sha256

PREFIX = "mk_"
SECRET_BYTES = 32
MAX_NAME_CHARACTERS = 64
MAX_MODELS = 64
MAX_MODEL_CHARACTERS = 200
_KEY = re.compile(r"mk_[A-Za-z0-9_-]{43}", re.ASCII)


def new_key() -> str:
    """Draw a fresh key: `mk_` and 32 random bytes in base64url without padding."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode("ascii")


def is_key(text: str) -> bool:
    """Tell whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def key_hash(key: str) -> bytes:
    """Return the SHA-256 of a key's text, 32 bytes: the name by which gateways know it."""
    return sha256(key.encode("utf-8"))


def terms_hash(name: str, models: Sequence[str]) -> bytes:
    """Return the Keccak-256 of the name and the allowed models, one a line; `models` empty means all.

    Raises:
        ProtocolError: too long, too many, or a character that cannot be printed.
    """
    check_text(name, MAX_NAME_CHARACTERS, "name")
    if len(models) > MAX_MODELS:
        raise ProtocolError(f"at most {MAX_MODELS} models.", field="models")
    for model in models:
        check_text(model, MAX_MODEL_CHARACTERS, "models")
        if not model:
            raise ProtocolError("a model has a name.", field="models")
    return keccak256("\n".join((name, *models)).encode("utf-8"))


def check_text(text: str, most: int, field: str) -> None:
    """Return if a text is short and printable.

    Raises:
        ProtocolError: it is not.
    """
    if len(text) > most or not text.isprintable():
        raise ProtocolError(f"expected at most {most} printable characters.", field=field)
