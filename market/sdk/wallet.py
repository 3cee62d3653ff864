"""The key a client signs vouchers and transactions with.

Called by the client and the commands; the secret stays in `PrivateKey`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from contracts.bindings.keystore import load_keystore, save_keystore
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import (
    ACCESS_MARK,
    ACCESS_MARK_SHIFT,
    Channel,
    ChannelAccess,
    Domain,
    Voucher,
)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A payer's key, which also signs the vouchers of the channels it opens."""

    key: PrivateKey
    # By channel id: the same in each request of a channel, and a signature costs more than all else of a header.
    _access: dict[bytes, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def generate(cls) -> Wallet:
        """Draw a fresh key."""
        return cls(PrivateKey.generate())

    @classmethod
    def load(cls, keystore: Path, password_file: Path | None) -> Wallet:
        """Open a keystore file.

        Raises:
            KeystoreError: the file does not open.
        """
        return cls(load_keystore(keystore, password_file))

    def save(self, keystore: Path, password: bytes) -> None:
        """Write a new keystore file.

        Raises:
            KeystoreError: the file exists or cannot be written.
        """
        save_keystore(keystore, self.key, password)

    @property
    def address(self) -> bytes:
        """The 20-byte account address."""
        return self.key.address

    @property
    def checksum_address(self) -> str:
        """The address as EIP-55 text."""
        return checksum(self.address)

    def new_channel(self, gateway: bytes) -> Channel:
        """Return a channel to `gateway` that this key pays and signs for, with a random salt.

        It is one of those that are spent from only by who shows `ChannelAccess`: a voucher is no secret of its signer.
        """
        salt = ACCESS_MARK << ACCESS_MARK_SHIFT | secrets.randbits(ACCESS_MARK_SHIFT)
        return Channel(payer=self.address, signer=self.address, gateway=gateway, salt=salt)

    def sign_voucher(self, channel_id: bytes, cumulative: int, domain: Domain) -> bytes:
        """Sign a ceiling of `cumulative` atomic units on a channel; 65 bytes."""
        return self.key.sign_digest(Voucher(channel_id, cumulative).digest(domain))

    def voucher_header(self, channel: Channel, cumulative: int, domain: Domain) -> str:
        """Return the `Market-Voucher` header over `cumulative` atomic units, with what shows access where it must."""
        channel_id = channel.digest(domain)
        text = f"{hex0x(channel_id)};{cumulative};{hex0x(self.sign_voucher(channel_id, cumulative, domain))}"
        if not channel.needs_access:
            return text
        access = self._access.get(channel_id)
        if access is None:
            access = self._access[channel_id] = hex0x(self.key.sign_digest(ChannelAccess(channel_id).digest(domain)))
        return f"{text};{access}"
