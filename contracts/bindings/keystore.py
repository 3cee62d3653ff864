"""Private keys at rest: keystore v3 files, opened with a password that comes from another file.

Decides file modes and what is said when a file cannot be opened. A secret or a password is never in a message, a log or
the environment. Called by gateway, worker, client kit and local network at start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum
from contracts.protocol.signing import PrivateKey

_SCRYPT_N = 1 << 18
_LIGHT_PBKDF2_ROUNDS = 1_000


class KeystoreError(CodedError):
    """A keystore file cannot be read, opened or written."""

    code = "keystore"


def load_keystore(path: Path, password_file: Path | None) -> PrivateKey:
    """Open a keystore v3 file; without a password file the password is empty.

    Raises:
        KeystoreError: a file is missing or malformed, or the password is wrong.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise KeystoreError(
            f"cannot read {path}: {error.strerror}.", field="keystore", remedy="Name a keystore file that is there."
        ) from error
    except ValueError as error:
        raise KeystoreError(
            f"{path} is not a keystore file.", field="keystore", remedy="`market wallet new` makes one."
        ) from error
    password = b"" if password_file is None else read_password(password_file)
    from eth_keyfile.keyfile import decode_keyfile_json  # takes a second to import

    try:
        return PrivateKey.from_bytes(bytes(decode_keyfile_json(document, password)))
    except Exception as error:  # eth_keyfile raises ValueError, KeyError and TypeError for one and the same thing
        remedy = (
            "Name the file with its password."
            if password_file is None
            else f"Check it and the first line of {password_file}."
        )
        raise KeystoreError(f"{path} does not open.", field="keystore", remedy=remedy) from error


def read_password(path: Path) -> bytes:
    """Return the first line of a password file.

    Raises:
        KeystoreError: it cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n", 1)[0]
    except OSError as error:
        raise KeystoreError(
            f"cannot read {path}: {error.strerror}.",
            field="password-file",
            remedy="Name the file whose first line is the password.",
        ) from error


def save_keystore(path: Path, key: PrivateKey, password: bytes, *, light: bool = False) -> None:
    """Write a keystore v3 file that only its user can read, and never over another.

    `light` derives the file's key quickly: for keys of a local network, whose password lies beside them.

    Raises:
        KeystoreError: the file exists or cannot be written.
    """
    from eth_keyfile.keyfile import create_keyfile_json

    document = create_keyfile_json(
        key.secret_bytes(),
        password,
        kdf="pbkdf2" if light else "scrypt",
        iterations=_LIGHT_PBKDF2_ROUNDS if light else _SCRYPT_N,
    )
    document["address"] = checksum(key.address)[2:].lower()
    write_secret(path, json.dumps(document).encode())


def write_secret(path: Path, content: bytes, *, field: str = "keystore") -> None:
    """Write a new file with mode 0600; `field` is what asked for it.

    Raises:
        KeystoreError: the file exists or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(content)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise KeystoreError(f"{path} exists already.", field=field, remedy="Name another file.") from error
        raise KeystoreError(
            f"cannot write {path}: {error.strerror}.", field=field, remedy="Name a file that can be written."
        ) from error
