"""The gateway's own channel in the escrow. Implements `market.payments.x402_ports.House`.

What x402 clients pay arrives at the house account; from it this channel is funded, and out of the channel workers and
owners are paid as for any other client. Its signer is the gateway's key: the gateway spends its own money only. It must
never sign above what the chain confirms the channel to hold.
"""

from __future__ import annotations

import structlog

from contracts.bindings.errors import ChainError
from contracts.bindings.escrow import Escrow
from contracts.bindings.token import Token
from contracts.bindings.transactor import Transactor
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Channel, Domain, Voucher
from market.errors import ChainUnreachable, HouseShort
from market.payments.model import ParsedVoucher
from market.payments.ports import Channels
from market.telemetry import HOUSE_SPARE_UNITS, HOUSE_UNITS

SALT = 402
ALLOWANCE = 2**256 - 1
FUND_SECONDS = 120.0

log = structlog.get_logger(__name__)


class HouseChannel:
    """One per gateway; `voucher` is for the event loop, `fund` for a thread."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        channels: Channels,
        escrow: Escrow,
        token: Token,
        transactor: Transactor,
        target: int,
    ) -> None:
        self.channel = Channel(transactor.address, key.address, key.address, SALT)
        self._key = key
        self._domain = domain
        self._channels = channels
        self._escrow = escrow
        self._token = token
        self._transactor = transactor
        self._target = target
        self._id = self.channel.digest(domain)
        self._signed: ParsedVoucher | None = None

    @property
    def channel_id(self) -> bytes:
        """See `House.channel_id`."""
        return self._id

    def voucher(self) -> ParsedVoucher:
        """See `House.voucher`."""
        facts = self._channels.facts(self._id)
        ceiling = 0 if facts is None else facts.spendable
        if ceiling == 0:
            raise HouseShort("The gateway's own channel is not funded yet.")
        if self._signed is None or self._signed.cumulative_amount != ceiling:
            digest = Voucher(self._id, ceiling).digest(self._domain)
            self._signed = ParsedVoucher(self._id, ceiling, self._key.sign_digest(digest))
        return self._signed

    def fund(self, charged: int) -> int:
        """Fill the channel up to its target if it is half empty; returns what was deposited, atomic units.

        `charged` is the channel's charged total.

        Raises:
            ChainUnreachable: a transaction could not be sent or was not confirmed; the next call carries it on.
        """
        try:
            return self._fund(charged)
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error

    def _fund(self, charged: int) -> int:
        state = self._escrow.channel(self._id)
        left = state.deposited - state.exit_amount - charged
        owned = self._token.balance_of(self._transactor.address)
        HOUSE_UNITS.set(left)
        HOUSE_SPARE_UNITS.set(owned)
        if left >= self._target // 2:
            return 0
        amount = min(self._target - left, owned)
        if amount <= 0:
            log.warning("house-account-empty", left=left)
            return 0
        if self._token.allowance(self._transactor.address, self._escrow.address) < amount:
            purpose = f"x402:house-approve:{self._escrow.address.hex()}"
            data = self._token.approve(self._escrow.address, ALLOWANCE)
            self._transactor.run(purpose, self._token.address, data, wait_seconds=FUND_SECONDS)
        # Named by what it starts from: a crash before the confirmation cannot make it two deposits.
        purpose = f"x402:house-deposit:{state.deposited}:{state.settled}:{owned}"
        data = self._escrow.deposit(self.channel, amount)
        self._transactor.run(purpose, self._escrow.address, data, wait_seconds=FUND_SECONDS)
        log.info("house-channel-funded", amount=amount)
        return amount
