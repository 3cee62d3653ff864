"""The accounts of a local network: fresh keys in keystore files, kept in its data folder and worth nothing elsewhere.

Decides the roles. The keys are drawn at random for each data folder, so that no well-known key can ever be used by
mistake on a network where money is real.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from contracts.bindings.keystore import load_keystore, save_keystore, write_secret
from contracts.protocol.signing import PrivateKey

ROLES = ("deployer", "gateway", "house", "operator", "worker", "owner", "client")


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """One role's key and where its keystore file is."""

    role: str
    key: PrivateKey
    keystore: Path

    @property
    def address(self) -> bytes:
        """The 20-byte account address."""
        return self.key.address


def password_file(data_dir: Path) -> Path:
    """Return the path of the file that opens every keystore of a data folder."""
    return data_dir / "keys" / "password"


def load_or_create(data_dir: Path, role: str) -> LocalAccount:
    """Open a role's keystore, or draw its key.

    Raises:
        KeystoreError: a file is there and does not open.
    """
    password = password_file(data_dir)
    if not password.exists():
        write_secret(password, secrets.token_hex(16).encode() + b"\n")
    path = data_dir / "keys" / f"{role}.json"
    if not path.exists():
        save_keystore(path, PrivateKey.generate(), password.read_bytes().strip(), light=True)
    return LocalAccount(role, load_keystore(path, password), path)
