"""API keys at work: who a bearer is and what it may use, and how the channel's signer makes, lists and ends keys.

Decides that a key is known by its hash alone, that what the database says of it is believed for a second, and that the
signer's voucher covers what all keys of the channel may still spend. It never sees a key at its making and never logs
one. The spending is counted by reservations and ledger. Called by the gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from contracts.protocol.capability import PREFIX, is_key, key_hash, terms_hash
from contracts.protocol.errors import ProtocolError, SignatureError
from contracts.protocol.money import both
from contracts.protocol.signing import recover
from contracts.protocol.typed_data import Domain, KeyGrant, KeyListing, KeyRevocation, TypedStruct
from market.errors import (
    ChannelNotFound,
    InsufficientVoucher,
    InvalidKey,
    InvalidRequest,
    KeyExists,
    KeyModel,
    KeyNotFound,
    KeySignature,
    TooManyFailures,
    TooManyKeys,
    WrongGateway,
)
from market.payments.keys import MAX_LIMIT, ApiKey, Grant
from market.payments.model import ChannelFacts, KeySpending, ParsedVoucher
from market.payments.ports import Channels, KeyBook, Reservations
from market.payments.vouchers import VoucherVerifier

# A revocation by another process of this gateway is seen after this long at most.
BELIEVED_SECONDS = 1.0
REMEMBERED_KEYS = 10_000
LISTING_SECONDS = 300
MAX_OPEN_KEYS = 1_000
MAX_KEYS = 10_000
# Unknown keys that may be tried at once, and how many more each second; keys that are known never wait.
FAILURES_AT_ONCE = 50.0
FAILURES_A_SECOND = 10.0


@dataclass(frozen=True, slots=True)
class Capability:
    """What pays for a request that came with an API key."""

    voucher: ParsedVoucher
    spending: KeySpending


class Capabilities:
    """The API keys of one gateway, as one process sees them."""

    def __init__(
        self,
        *,
        domain: Domain,
        gateway: bytes,
        channels: Channels,
        reservations: Reservations,
        book: KeyBook,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._domain = domain
        self._gateway = gateway
        self._channels = channels
        self._reservations = reservations
        self._book = book
        self._clock = clock
        self._wall_clock = wall_clock
        self._vouchers = VoucherVerifier(domain)
        self._known: dict[bytes, tuple[float, ApiKey | None]] = {}
        self._asking: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._failures_left = FAILURES_AT_ONCE
        self._failures_at = clock()

    # --- use ----------------------------------------------------------------------------------------------------

    async def authenticate(self, bearer: str, model_names: Iterable[str]) -> Capability:
        """Return what pays for a request to the model that goes by these names.

        Raises:
            InvalidKey, KeyExpired, KeyRevoked, KeyModel: the key may not be used, or not for this.
            TooManyFailures: it is unknown, as were many others of late.
        """
        key = await self.identify(bearer)
        key.check(model_names, self._wall_clock())
        return Capability(key.voucher, key.spending)

    def at_hand(self, name: bytes, model_names: Iterable[str]) -> Capability | None:
        """Return what pays as `authenticate` does, for a key by its hash; None where that must ask or refuse."""
        at, key = self._known.get(name, (0.0, None))
        if key is None or not self._is_fresh(at):
            return None
        try:
            key.check(model_names, self._wall_clock())
        except (InvalidKey, KeyModel):
            return None
        return Capability(key.voucher, key.spending)

    async def identify(self, bearer: str) -> ApiKey:
        """Return the key that a bearer text is, whether or not it may still be used; `spent` may be a second old.

        Raises:
            InvalidKey: there is none.
            TooManyFailures: there is none, and many others were tried of late.
        """
        if not is_key(bearer):
            raise self._failure(f"An API key is {PREFIX} and 43 letters, digits, - or _.")
        name = key_hash(bearer)
        entry = self._known.get(name)
        found = entry[1] if entry is not None and self._is_fresh(entry[0]) else await self._ask(name)
        if found is None:
            raise self._failure("")
        return found

    def _is_fresh(self, at: float) -> bool:
        return self._clock() - at < BELIEVED_SECONDS

    async def _ask(self, name: bytes) -> ApiKey | None:
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.get_running_loop().create_task(self._read(name))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        # Others wait for the same answer: one that leaves must not take it away.
        return await asyncio.shield(task)

    async def _read(self, name: bytes) -> ApiKey | None:
        asked_at = self._clock()
        found = await self._book.find(name)
        known = self._known.get(name)
        if known is not None and known[0] > asked_at:
            return known[1]  # it was revoked or made here meanwhile
        self._remember(name, found, asked_at)
        return found

    def _remember(self, name: bytes, key: ApiKey | None, at: float) -> None:
        self._known.pop(name, None)
        self._known[name] = (at, key)
        if len(self._known) > REMEMBERED_KEYS:
            del self._known[next(iter(self._known))]

    def _failure(self, detail: str) -> InvalidKey | TooManyFailures:
        now = self._clock()
        left = self._failures_left + (now - self._failures_at) * FAILURES_A_SECOND
        self._failures_left, self._failures_at = min(FAILURES_AT_ONCE, left), now
        if self._failures_left < 1:
            return TooManyFailures()
        self._failures_left -= 1
        return InvalidKey(detail)

    # --- making, listing, ending --------------------------------------------------------------------------------

    async def create(self, grant: Grant, voucher: ParsedVoucher) -> ApiKey:
        """Take a key that the channel's signer granted; the same grant again is the same key.

        Raises:
            InvalidRequest: limit, expiry, name or models are out of bounds.
            ChannelNotFound, WrongGateway, KeySignature, InvalidSignature: channel or signatures are not good.
            InsufficientVoucher: it does not cover what the keys of the channel may still spend; `required` does.
            KeyExists, TooManyKeys: as named.
        """
        now = self._wall_clock()
        facts = self._facts(grant.channel_id)
        self._check_grant(grant, facts, now)
        self._check_voucher(grant.channel_id, voucher, facts)
        count = await self._book.count(grant.channel_id, int(now))
        known = await self._book.find(grant.key_hash)
        if known is not None:
            if known.grant != grant:
                raise KeyExists(field="keyHash")
            await self._fund(voucher)
            return known
        if count.open >= MAX_OPEN_KEYS:
            raise TooManyKeys(f"A channel may have {MAX_OPEN_KEYS} keys in use.", field="channelId")
        if count.made >= MAX_KEYS:
            # Each stays for ever, and nobody pays for it but by opening the channel.
            raise TooManyKeys(
                f"A channel may have had {MAX_KEYS} keys in all.", field="channelId", remedy="Open another channel."
            )
        account = await self._reservations.account(grant.channel_id)
        required = account.charged + count.allowance + grant.spending_limit
        if voucher.cumulative_amount < required:
            raise InsufficientVoucher(
                f"The channel is charged {both(account.charged)}; with that and what its keys may still spend, this "
                f"key takes a voucher of {both(required)}.",
                field="voucher",
                required=required,
            )
        made = await self._book.add(ApiKey(grant, facts.channel.signer, voucher, 0, int(now)))
        if made.grant != grant:
            raise KeyExists(field="keyHash")
        self._remember(grant.key_hash, made, self._clock())
        return made

    async def fund(self, voucher: ParsedVoucher) -> None:
        """Keep a better voucher for the keys of a channel.

        Raises:
            ChannelNotFound, WrongGateway, InvalidSignature: channel or signature are not good.
        """
        self._check_voucher(voucher.channel_id, voucher, self._facts(voucher.channel_id))
        await self._fund(voucher)

    async def _fund(self, voucher: ParsedVoucher) -> None:
        await self._book.fund(voucher, int(self._wall_clock()))
        for name, (at, key) in list(self._known.items()):
            if key is not None and key.grant.channel_id == voucher.channel_id:
                best = max(key.voucher, voucher, key=lambda one: one.cumulative_amount)
                self._known[name] = (at, replace(key, voucher=best))

    async def keys_of(self, channel_id: bytes, issued_at: int, signature: bytes) -> Sequence[ApiKey]:
        """Return a channel's keys, if its signer asks and did so lately.

        Raises:
            ChannelNotFound, WrongGateway, KeySignature: channel or signature are not good.
        """
        facts = self._facts(channel_id)
        if abs(self._wall_clock() - issued_at) > LISTING_SECONDS:
            raise KeySignature(
                f"A listing is good for {LISTING_SECONDS} s from when it is signed.",
                field="issuedAt",
                remedy="Sign a new KeyListing; check this machine's clock.",
            )
        self._check_signed(KeyListing(channel_id, issued_at), signature, facts.channel.signer)
        return await self._book.of_channel(channel_id)

    async def revoke(self, name: bytes, signature: bytes | None, bearer: str | None = None) -> ApiKey:
        """End a key at once, for its signer or for whoever has the key itself.

        Raises:
            KeyNotFound, KeySignature: there is none, or nobody who may asks.
        """
        found = await self._book.find(name)
        if found is None:
            raise KeyNotFound(field="keyHash")
        if signature is not None:
            self._check_signed(KeyRevocation(found.grant.channel_id, name), signature, found.signer)
        elif bearer is None or not is_key(bearer) or key_hash(bearer) != name:
            raise KeySignature
        ended = await self._book.revoke(name, int(self._wall_clock()))
        assert ended is not None, "keys are never deleted"
        self._remember(name, ended, self._clock())
        return ended

    def _facts(self, channel_id: bytes) -> ChannelFacts:
        facts = self._channels.facts(channel_id)
        if facts is None:
            raise ChannelNotFound(field="channelId")
        if facts.channel.gateway != self._gateway:
            raise WrongGateway(field="channelId")
        return facts

    def _check_grant(self, grant: Grant, facts: ChannelFacts, now: float) -> None:
        if not 0 < grant.spending_limit <= MAX_LIMIT:
            raise InvalidRequest("expected more than 0 and less than 2**63.", field="spendingLimit")
        if grant.expires_at != 0 and not now < grant.expires_at < MAX_LIMIT:
            raise InvalidRequest("expected a time to come in unix seconds, or 0 for never.", field="expiresAt")
        try:
            terms = terms_hash(grant.name, grant.models)
        except ProtocolError as error:
            raise InvalidRequest(error.detail, field=error.field) from error
        signed = KeyGrant(grant.channel_id, grant.key_hash, grant.spending_limit, grant.expires_at, terms)
        self._check_signed(signed, grant.signature, facts.channel.signer)

    def _check_signed(self, statement: TypedStruct, signature: bytes, signer: bytes) -> None:
        try:
            genuine = recover(statement.digest(self._domain), signature) == signer
        except SignatureError as error:
            raise KeySignature(error.detail, field="signature") from error
        if not genuine:
            raise KeySignature(field="signature")

    def _check_voucher(self, channel_id: bytes, voucher: ParsedVoucher, facts: ChannelFacts) -> None:
        assert voucher.channel_id == channel_id, "the caller builds it so"
        self._vouchers.verify(voucher, facts.channel.signer)
