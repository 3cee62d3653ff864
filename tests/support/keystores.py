"""Keystores that tests open many times."""

from __future__ import annotations

from pathlib import Path

from contracts.bindings.keystore import load_keystore, read_password, save_keystore


def quicken(path: Path, password_file: Path) -> None:
    """Write a keystore anew, the same key under the same password but quick to open.

    As a program wrote it, it takes each command a second of the processor. For after it was opened as it was.
    """
    key = load_keystore(path, password_file)
    path.unlink()
    save_keystore(path, key, read_password(password_file), light=True)
