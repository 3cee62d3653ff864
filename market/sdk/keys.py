"""API keys over the channel in use: make, list, fund and end them.

    created = Keys(market).create(limit=5_000_000, models=("minilm",))
    print(created.secret)                    # shown once; whoever has it spends up to the limit

Decides how high the voucher must be that stands behind the keys, from what this wallet itself granted: a gateway that
makes keys up is not believed. The key is made here and leaves only as its hash.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.protocol.capability import key_hash, new_key, terms_hash
from contracts.protocol.errors import ProtocolError, SignatureError
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.signing import recover
from contracts.protocol.typed_data import Domain, KeyGrant, KeyListing, KeyRevocation
from market.sdk.client import Market
from market.sdk.errors import GatewayMisbehaved, GatewayRefused
from market.sdk.papers import KeptChannel
from market.sdk.wallet import Wallet

PATH = "/market/v1/keys"
SIGNATURE_HEADER = "Market-Key-Signature"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the gateway says of a key; amounts atomic units, times unix seconds, `expires_at` 0 for never."""

    key_hash: bytes
    channel_id: bytes
    name: str
    models: tuple[str, ...]
    limit: int
    spent: int
    expires_at: int
    created_at: int
    revoked_at: int | None
    signature: bytes

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeyState:
        """Read one key of the gateway's answer.

        Raises:
            GatewayMisbehaved: a field is missing or malformed.
        """
        try:
            revoked_at = data["revokedAt"]
            return cls(
                from_hex(data["keyHash"], 32, field="keyHash"),
                from_hex(data["channelId"], 32, field="channelId"),
                str(data["name"]),
                tuple(str(model) for model in data["models"]),
                int(data["spendingLimit"]),
                int(data["spent"]),
                int(data["expiresAt"]),
                int(data["createdAt"]),
                None if revoked_at is None else int(revoked_at),
                from_hex(data["signature"], 65, field="signature"),
            )
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            raise GatewayMisbehaved("the description of a key is malformed.", field="keys") from error

    def state(self, now: float) -> str:
        """Return `open`, `revoked`, `expired` or `spent`."""
        if self.revoked_at is not None:
            return "revoked"
        if 0 < self.expires_at <= now:
            return "expired"
        return "spent" if self.spent >= self.limit else "open"

    def is_granted_by(self, signer: bytes, domain: Domain) -> bool:
        """Tell whether `signer` granted this key as it is described."""
        try:
            grant = KeyGrant(
                self.channel_id, self.key_hash, self.limit, self.expires_at, terms_hash(self.name, self.models)
            )
            return recover(grant.digest(domain), self.signature) == signer
        except (SignatureError, ProtocolError):
            return False

    def to_json(self) -> dict[str, Any]:
        """Return it as commands print it."""
        return {
            "keyHash": hex0x(self.key_hash),
            "channelId": hex0x(self.channel_id),
            "name": self.name,
            "models": list(self.models),
            "limit": str(self.limit),
            "spent": str(self.spent),
            "expiresAt": self.expires_at,
            "createdAt": self.created_at,
            "revokedAt": self.revoked_at,
        }


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key: its text, which nobody keeps, and its state."""

    secret: str = field(repr=False)
    state: KeyState


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What making a key would sign: a voucher of `ceiling`, over a channel that holds `deposited`."""

    channel_id: bytes
    limit: int
    ceiling: int
    deposited: int


class Keys:
    """The keys of a client's channel."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def plan(self, limit: int) -> KeyPlan:
        """Say what making a key with this limit would sign; signs a listing only."""
        wallet, kept = self._market.payer()
        seen = self._market.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
        return KeyPlan(kept.channel_id, limit, self._ceiling(wallet, kept, limit), int(seen["deposited"]))

    def create(self, *, limit: int, name: str = "", models: Sequence[str] = (), expires_at: int = 0) -> CreatedKey:
        """Make a key that may spend `limit` atomic units of the channel in all.

        Raises:
            GatewayRefused | GatewayUnreachable | GatewayMisbehaved: no key was made, or none that can be used.
        """
        wallet, kept = self._market.payer()
        secret = new_key()
        grant = KeyGrant(kept.channel_id, key_hash(secret), limit, expires_at, terms_hash(name, models))
        body = {
            "channelId": hex0x(kept.channel_id),
            "keyHash": hex0x(grant.key_hash),
            "name": name,
            "models": list(models),
            "spendingLimit": str(limit),
            "expiresAt": expires_at,
            "signature": hex0x(wallet.key.sign_digest(grant.digest(kept.domain))),
        }
        for attempt in range(_ATTEMPTS):
            voucher = self._voucher(wallet, kept, self._ceiling(wallet, kept, limit))
            try:
                made = KeyState.from_json(self._market.send_json("POST", PATH, {**body, "voucher": voucher}))
            except GatewayRefused as refused:
                # Requests were charged meanwhile.
                if refused.required is None or attempt + 1 == _ATTEMPTS:
                    raise
                continue
            if made.key_hash != grant.key_hash or not made.is_granted_by(wallet.address, kept.domain):
                raise GatewayMisbehaved("the key is not the one that was asked for.", field="keyHash")
            return CreatedKey(secret, made)
        raise AssertionError("unreachable")  # pragma: no cover

    def all(self) -> list[KeyState]:
        """Return the channel's keys, the oldest first."""
        return self._list(*self._market.payer())

    def fund(self) -> int:
        """Sign enough for all that the keys may still spend; returns the voucher's ceiling."""
        wallet, kept = self._market.payer()
        ceiling = self._ceiling(wallet, kept, 0)
        body = {"channelId": hex0x(kept.channel_id), **self._voucher(wallet, kept, ceiling)}
        self._market.send_json("PUT", f"{PATH}/voucher", body)
        return ceiling

    def revoke(self, name: bytes) -> KeyState:
        """End the key with this hash for good."""
        wallet, kept = self._market.payer()
        signature = wallet.key.sign_digest(KeyRevocation(kept.channel_id, name).digest(kept.domain))
        headers = {SIGNATURE_HEADER: hex0x(signature)}
        return KeyState.from_json(self._market.send_json("DELETE", f"{PATH}/{hex0x(name)}", headers=headers))

    def _list(self, wallet: Wallet, kept: KeptChannel) -> list[KeyState]:
        issued_at = int(time.time())
        asked = KeyListing(kept.channel_id, issued_at)
        headers = {SIGNATURE_HEADER: hex0x(wallet.key.sign_digest(asked.digest(kept.domain)))}
        path = f"{PATH}?channel={hex0x(kept.channel_id)}&issuedAt={issued_at}"
        found = self._market.send_json("GET", path, headers=headers)
        if not isinstance(found, list):
            raise GatewayMisbehaved("the list of keys is malformed.", field="keys")
        return [KeyState.from_json(row) for row in found]

    def _ceiling(self, wallet: Wallet, kept: KeptChannel, more: int) -> int:
        keys = self._list(wallet, kept)
        for key in keys:
            if key.channel_id != kept.channel_id or not key.is_granted_by(wallet.address, kept.domain):
                raise GatewayMisbehaved("the gateway names a key that was never granted here.", field="keys")
        charged = self._market.catch_up().charged
        now = time.time()
        return charged + sum(max(0, key.limit - key.spent) for key in keys if key.state(now) == "open") + more

    def _voucher(self, wallet: Wallet, kept: KeptChannel, ceiling: int) -> dict[str, str]:
        signature = wallet.sign_voucher(kept.channel_id, ceiling, kept.domain)
        self._market.papers.signed(kept.channel_id, ceiling)
        return {"cumulativeAmount": str(ceiling), "signature": hex0x(signature)}
