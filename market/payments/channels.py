"""The state machine of one channel's money: reserve, commit, release. No clock, no I/O, no signature.

Decides whether a price still fits under voucher and limit and numbers the reservations. Must never let
`charged + reserved` pass the ceiling by a reservation it granted. Called by the memory reservations; the Redis script
mirrors it statement by statement, and one conformance suite holds both.
"""

from __future__ import annotations

import heapq
import secrets
from dataclasses import dataclass, field

from contracts.protocol.money import both
from market.errors import InsufficientVoucher, KeyLimit, RequestInProgress, StaleVoucher
from market.payments.model import Account, Claim, KeySpending, Reservation
from market.payments.ports import AlreadyCharged, OverLimit

# Numbers skipped at least when an account is built: those of reservations that were in flight when the state was lost.
REBUILD_SEQ_GAP = 1_000
_SEQ_GAP_BITS = 32


@dataclass(slots=True)
class Hold:
    """One reservation as its channel sees it; a price of None marks a request id already charged."""

    token: bytes
    price: int | None
    expires_at: float
    remember: bool
    key_hash: bytes | None = None


@dataclass(slots=True)
class KeyTotal:
    """What one API key of a channel has spent for good, and what it has set aside."""

    spent: int = 0
    reserved: int = 0


@dataclass(slots=True)
class ChannelAccount:
    """A channel's money: what is charged for good, what is set aside, and the best voucher seen."""

    charged: int = 0
    reserved: int = 0
    ceiling: int = 0
    voucher_signature: bytes = b""
    last_seq: int = 0
    holds: dict[bytes, Hold] = field(default_factory=dict)
    keys: dict[bytes, KeyTotal] = field(default_factory=dict)
    _expiries: list[tuple[float, bytes]] = field(default_factory=list)

    @classmethod
    def rebuilt(cls, account: Account | None, gap: int) -> ChannelAccount:
        """Start again from the ledger's part of the state, `gap` numbers on; see `seq_gap`."""
        if account is None:
            return cls(last_seq=gap)
        return cls(
            charged=account.charged,
            ceiling=account.ceiling,
            voucher_signature=account.voucher_signature,
            last_seq=account.last_seq + gap,
        )

    def view(self) -> Account:
        """Return the state as a value."""
        return Account(self.charged, self.reserved, self.ceiling, self.voucher_signature, self.last_seq)

    def reserve(self, claim: Claim, now: float) -> Reservation:
        """Set money aside, or say why not.

        Raises:
            RequestInProgress, AlreadyCharged, StaleVoucher, InsufficientVoucher, KeyLimit, OverLimit: see
                `ports.Reservations`.
        """
        self.expire(now)
        if claim.voucher_amount > self.ceiling:
            self.ceiling, self.voucher_signature = claim.voucher_amount, claim.voucher_signature
        hold = self.holds.get(claim.request_id)
        if hold is not None:
            if hold.price is None:
                raise AlreadyCharged
            raise RequestInProgress(field="Market-Request-Id")
        key = None
        if claim.key is not None:
            key = self.keys.setdefault(claim.key.key_hash, KeyTotal())
            if key.spent + key.reserved + claim.price > claim.key.limit:
                raise key_shortage(claim.key, key.spent, key.reserved, claim.price)
        total = self.charged + self.reserved + claim.price
        if total > self.ceiling:
            raise voucher_shortage(self.view(), claim, total)
        if total > claim.limit:
            raise OverLimit(self.view())
        self.reserved += claim.price
        if key is not None:
            key.reserved += claim.price
        self.last_seq += 1
        expires_at = now + claim.ttl_seconds
        key_hash = None if claim.key is None else claim.key.key_hash
        self.holds[claim.request_id] = Hold(claim.token, claim.price, expires_at, claim.remember, key_hash)
        heapq.heappush(self._expiries, (expires_at, claim.request_id))
        return Reservation(
            claim.channel_id,
            claim.request_id,
            claim.token,
            claim.price,
            self.last_seq,
            self.charged + claim.price,
            self.ceiling,
            self.voucher_signature,
            expires_at,
            claim.key,
        )

    def commit(
        self, request_id: bytes, token: bytes, charged: int, now: float, *, key: bytes | None = None, key_spent: int = 0
    ) -> bool:
        """Turn a reservation into a charge; `charged` and `key_spent` are the ledger's totals, which always count."""
        if self._expiries and self._expiries[0][0] <= now:
            self.expire(now)
        self.charged = max(self.charged, charged)
        if key is not None and key in self.keys:
            self.keys[key].spent = max(self.keys[key].spent, key_spent)
        hold = self._held(request_id, token)
        if hold is None:
            return False
        self._give_back(hold)
        if hold.remember:
            hold.price = None
        else:
            self._drop(request_id)
        return True

    def release(self, request_id: bytes, token: bytes, now: float) -> bool:
        """Give the money of a reservation back."""
        self.expire(now)
        hold = self._held(request_id, token)
        if hold is None:
            return False
        self._give_back(hold)
        self._drop(request_id)
        return True

    def expire(self, now: float) -> None:
        """Drop the reservations whose time has passed."""
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            _, request_id = heapq.heappop(expiries)
            hold = self.holds.get(request_id)
            if hold is not None and hold.expires_at <= now:
                self._give_back(hold)
                self._drop(request_id)
        if len(expiries) > 64 + 2 * len(self.holds):
            # Most of these were committed or released long before their time.
            self._expiries = [(hold.expires_at, request_id) for request_id, hold in self.holds.items()]
            heapq.heapify(self._expiries)

    def _drop(self, request_id: bytes) -> None:
        del self.holds[request_id]
        if not self.holds:
            # A channel at rest keeps nothing of what went through it, not even the room: there are many of them.
            self.holds.clear()
            self._expiries.clear()

    def _give_back(self, hold: Hold) -> None:
        if hold.price is None:
            return
        self.reserved -= hold.price
        if hold.key_hash is not None:
            self.keys[hold.key_hash].reserved -= hold.price

    def _held(self, request_id: bytes, token: bytes) -> Hold | None:
        hold = self.holds.get(request_id)
        return None if hold is None or hold.price is None or hold.token != token else hold


def seq_gap() -> int:
    """Return how many numbers to skip when an account is built.

    A random part keeps two losses of the state, with no charge in between, from giving a number twice: a worker that
    answered both times would have signed two receipts with one number, which can be held against it.
    """
    return REBUILD_SEQ_GAP + secrets.randbits(_SEQ_GAP_BITS)


def voucher_shortage(account: Account, claim: Claim, required: int) -> StaleVoucher | InsufficientVoucher:
    """Say why the best voucher does not cover a claim that needs a total of `required`."""
    spent = claim.voucher_amount <= account.charged + account.reserved
    kind = StaleVoucher if spent else InsufficientVoucher
    return kind(
        f"The voucher allows {both(claim.voucher_amount)} in all; {both(account.charged)} is charged, "
        f"{both(account.reserved)} reserved, and this request costs {both(claim.price)}.",
        field="Market-Voucher",
        remedy=f"Sign a voucher of at least {both(required)}.",
        required=required,
    )


def key_shortage(key: KeySpending, spent: int, reserved: int, price: int) -> KeyLimit:
    """Say why a key may not spend `price` more."""
    return KeyLimit(
        f"This key may spend {both(key.limit)} in all; {both(spent)} is spent, {both(reserved)} is set aside for "
        f"requests under way, and this request costs up to {both(price)}."
    )
