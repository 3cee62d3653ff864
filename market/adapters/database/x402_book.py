"""Keeps payments by x402. Implements `market.payments.x402_ports.Book`.

Every method is one transaction that reads with a lock and writes what follows from it, so that any number of processes
may share the database. It never moves money; it says who may be charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from market.adapters.database.engine import reading, writing
from market.adapters.database.tables_x402 import (
    x402_authorizations,
    x402_channels,
    x402_credits,
    x402_payments,
    x402_refunds,
)
from market.errors import RequestInProgress
from market.payments.x402_channels import ChannelConfig, ChannelOutOfStep, PayerChannel
from market.payments.x402_model import BATCH, Authorization, Bought, Credit, CreditShort, Payment

_CONFIG = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "withdraw_delay", "salt")
_CHAIN_FACTS = ("balance", "total_claimed", "withdraw_requested_at", "refund_nonce", "synced_at")


class DatabaseBook:
    """One book for every gateway process of this database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- authorizations -----------------------------------------------------------------------------------------

    def authorization(self, authorization: Authorization) -> Bought | None:
        """See `Book.authorization`."""
        query = sa.select(x402_authorizations).where(_is(authorization))
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.settled_in is None:
            return None
        return Bought(row.settled_in, bytes(row.signature), None if row.inputs is None else bytes(row.inputs))

    def begin(self, authorization: Authorization, payload: str, inputs: bytes, *, now: float, until: float) -> bool:
        """See `Book.begin`."""
        values = {
            "chain_id": authorization.chain_id,
            "token": authorization.token,
            "payer": authorization.payer,
            "nonce": authorization.nonce,
            "value": authorization.value,
            "signature": authorization.signature,
            "payload": payload,
            "reserved_until": until,
            "inputs": inputs,
        }
        try:
            with writing(self._engine) as connection:
                connection.execute(sa.insert(x402_authorizations).values(values))
        except IntegrityError:
            # A process that died with it has left it: the same authorization is the same transaction again.
            table = x402_authorizations.c
            stale = table.settled_in.is_(None) & (table.reserved_until < now) & (table.inputs == inputs)
            with writing(self._engine) as connection:
                taken = connection.execute(
                    sa.update(x402_authorizations).where(_is(authorization), stale).values(values)
                )
                return taken.rowcount == 1
        return True

    def abandon(self, authorization: Authorization) -> None:
        """See `Book.abandon`."""
        open_ones = _is(authorization) & x402_authorizations.c.settled_in.is_(None)
        with writing(self._engine) as connection:
            connection.execute(sa.delete(x402_authorizations).where(open_ones))

    def let_go(self, authorization: Authorization) -> None:
        """See `Book.let_go`."""
        open_ones = _is(authorization) & x402_authorizations.c.settled_in.is_(None)
        with writing(self._engine) as connection:
            connection.execute(sa.update(x402_authorizations).where(open_ones).values(reserved_until=0.0))

    def bought(self, authorization: Authorization, transaction: str) -> None:
        """See `Book.bought`."""
        open_ones = _is(authorization) & x402_authorizations.c.settled_in.is_(None)
        with writing(self._engine) as connection:
            settled = connection.execute(sa.update(x402_authorizations).where(open_ones).values(settled_in=transaction))
            if settled.rowcount == 1:
                _ensure_credit(connection, authorization.payer)
                connection.execute(
                    sa.update(x402_credits)
                    .where(x402_credits.c.payer == authorization.payer)
                    .values(
                        balance=x402_credits.c.balance + authorization.value,
                        bought=x402_credits.c.bought + authorization.value,
                    )
                )

    def undecided(self, now: float) -> Sequence[tuple[Authorization, str]]:
        """See `Book.undecided`."""
        table = x402_authorizations.c
        query = sa.select(x402_authorizations).where(table.settled_in.is_(None), table.reserved_until < now)
        with reading(self._engine) as connection:
            return [(_authorization(row), row.payload) for row in connection.execute(query)]

    # --- credit -------------------------------------------------------------------------------------------------

    def credit(self, payer: bytes) -> Credit:
        """See `Book.credit`."""
        query = sa.select(x402_credits).where(x402_credits.c.payer == payer)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return Credit() if row is None else Credit(row.balance, row.held, row.bought, row.refunded)

    def hold_credit(
        self, request_id: bytes, payer: bytes, scheme: str, amount: int, *, now: float, until: float
    ) -> Payment:
        """See `Book.hold_credit`."""
        with writing(self._engine) as connection:
            if not _begin_payment(connection, request_id, scheme, payer, None, amount, now, until):
                return Payment.CHARGED
            held = connection.execute(
                sa.update(x402_credits)
                .where(x402_credits.c.payer == payer, x402_credits.c.balance - x402_credits.c.held >= amount)
                .values(held=x402_credits.c.held + amount)
            )
            if held.rowcount != 1:
                raise CreditShort
        return Payment.HELD

    # --- channels -----------------------------------------------------------------------------------------------

    def channel(self, channel_id: bytes) -> PayerChannel | None:
        """See `Book.channel`."""
        with reading(self._engine) as connection:
            row = _channel_row(connection, channel_id)
        return None if row is None else _channel(row)

    def channels(self) -> Sequence[PayerChannel]:
        """See `Book.channels`."""
        query = sa.select(x402_channels).order_by(x402_channels.c.channel_id)
        with reading(self._engine) as connection:
            return [_channel(row) for row in connection.execute(query)]

    def channels_of(self, payer: bytes) -> tuple[int, int, int]:
        """See `Book.channels_of`."""
        c = x402_channels.c
        sums = (sa.func.sum(c.refund_nonce), sa.func.sum(c.charged), sa.func.count(c.busy_with))
        with reading(self._engine) as connection:
            refunds, charged, taken = connection.execute(sa.select(*sums).where(c.payer == payer)).one()
        return int(refunds or 0), int(charged or 0), taken

    def hold_channel(
        self, request_id: bytes, channel: PayerChannel, amount: int, *, now: float, until: float, serves: bool = True
    ) -> Payment:
        """See `Book.hold_channel`."""
        values = _values(channel) | {"busy_with": request_id, "busy_until": until}
        last, at = (request_id, now) if serves else (channel.last_request, channel.last_request_at)
        values |= {"last_request": last, "last_request_at": at}
        with writing(self._engine) as connection:
            row = _channel_row(connection, channel.channel_id, lock=True)
            if row is None and not _insert(connection, x402_channels, values):
                # Another request of the same new channel was first by a moment: what it wrote is what is known.
                row = _channel_row(connection, channel.channel_id, lock=True)
            known = None if row is None else _channel(row)
            if known is not None and known.charged != channel.charged:
                raise ChannelOutOfStep(known)
            if known is not None and known.busy_with is not None and known.busy_until > now:
                raise RequestInProgress("The channel has a request in flight.", field="PAYMENT-SIGNATURE")
            payer = channel.config.payer
            if not _begin_payment(connection, request_id, BATCH, payer, channel.channel_id, amount, now, until):
                return Payment.CHARGED
            here = x402_channels.c.channel_id == channel.channel_id
            connection.execute(sa.update(x402_channels).where(here).values(values))
        return Payment.HELD

    def see_channel(self, channel: PayerChannel) -> None:
        """See `Book.see_channel`."""
        facts = {name: getattr(channel, name) for name in _CHAIN_FACTS}
        here = x402_channels.c.channel_id == channel.channel_id
        with writing(self._engine) as connection:
            connection.execute(sa.update(x402_channels).where(here).values(facts))

    # --- payments -----------------------------------------------------------------------------------------------

    def charge(self, request_id: bytes, charged: int, *, now: float) -> PayerChannel | None:
        """See `Book.charge`."""
        with writing(self._engine) as connection:
            payment = _lock_payment(connection, request_id)
            if payment is None or payment.state != Payment.HELD:
                return None
            if payment.channel_id is not None:
                # Never above what was signed: such a claim is refused on chain, with all others of its transaction.
                taken = _channel_row(connection, payment.channel_id)
                charged = 0 if taken is None else max(0, min(charged, taken.signed_max - taken.charged))
            connection.execute(
                sa.update(x402_payments)
                .where(x402_payments.c.request_id == request_id)
                .values(state=int(Payment.CHARGED), charged=charged, charged_at=now)
            )
            if payment.channel_id is None:
                connection.execute(
                    sa.update(x402_credits)
                    .where(x402_credits.c.payer == payment.payer)
                    .values(
                        balance=x402_credits.c.balance - charged,
                        held=x402_credits.c.held - payment.held,
                    )
                )
                return None
            here = x402_channels.c.channel_id == payment.channel_id
            connection.execute(sa.update(x402_channels).where(here).values(charged=x402_channels.c.charged + charged))
            _set_free(connection, payment.channel_id, request_id)
            row = _channel_row(connection, payment.channel_id)
        return None if row is None else _channel(row)

    def release(self, request_id: bytes, *, lost_by: float | None = None) -> None:
        """See `Book.release`."""
        with writing(self._engine) as connection:
            _release(connection, request_id, lost_by=lost_by)

    def charged(self, request_id: bytes) -> int | None:
        """See `Book.charged`."""
        query = sa.select(x402_payments.c.charged).where(x402_payments.c.request_id == request_id)
        with reading(self._engine) as connection:
            found: int | None = connection.execute(query).scalar_one_or_none()
        return found

    # --- refunds ------------------------------------------------------------------------------------------------

    def begin_refund(self, request_id: bytes, payer: bytes, *, now: float) -> tuple[int, str] | None:
        """See `Book.begin_refund`."""
        with writing(self._engine) as connection:
            # The credit is locked first: who waited for the same refund then finds it decided.
            row = connection.execute(
                sa.select(x402_credits).where(x402_credits.c.payer == payer).with_for_update()
            ).one_or_none()
            known = connection.execute(
                sa.select(x402_refunds).where(x402_refunds.c.request_id == request_id)
            ).one_or_none()
            if known is not None:
                return known.amount, known.sent_in or ""
            amount = 0 if row is None else row.balance - row.held
            if amount <= 0:
                return None
            connection.execute(
                sa.update(x402_credits)
                .where(x402_credits.c.payer == payer)
                .values(balance=x402_credits.c.balance - amount, refunded=x402_credits.c.refunded + amount)
            )
            connection.execute(
                sa.insert(x402_refunds).values(request_id=request_id, payer=payer, amount=amount, decided_at=now)
            )
        return amount, ""

    def refunded(self, request_id: bytes, transaction: str) -> None:
        """See `Book.refunded`."""
        here = x402_refunds.c.request_id == request_id
        with writing(self._engine) as connection:
            connection.execute(sa.update(x402_refunds).where(here).values(sent_in=transaction))

    def unsent_refunds(self) -> Sequence[tuple[bytes, bytes, int]]:
        """See `Book.unsent_refunds`."""
        query = sa.select(x402_refunds).where(x402_refunds.c.sent_in.is_(None))
        with reading(self._engine) as connection:
            return [(bytes(row.request_id), bytes(row.payer), row.amount) for row in connection.execute(query)]

    def lost(self, now: float) -> Sequence[bytes]:
        """See `Book.lost`."""
        stale = (x402_payments.c.state == int(Payment.HELD)) & (x402_payments.c.held_until < now)
        with reading(self._engine) as connection:
            return [
                bytes(found)
                for found in connection.execute(sa.select(x402_payments.c.request_id).where(stale)).scalars()
            ]

    def inherit(self) -> None:
        """See `Book.inherit`."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.update(x402_authorizations)
                .where(x402_authorizations.c.settled_in.is_(None))
                .values(reserved_until=0.0)
            )
            held = x402_payments.c.state == int(Payment.HELD)
            connection.execute(sa.update(x402_payments).where(held).values(held_until=0.0))
            busy = x402_channels.c.busy_with.is_not(None)
            connection.execute(sa.update(x402_channels).where(busy).values(busy_until=0.0))


def _is(authorization: Authorization) -> sa.ColumnElement[bool]:
    table = x402_authorizations.c
    return (
        (table.chain_id == authorization.chain_id)
        & (table.token == authorization.token)
        & (table.payer == authorization.payer)
        & (table.nonce == authorization.nonce)
    )


def _authorization(row: Row[Any]) -> Authorization:
    parts = (bytes(row.token), bytes(row.payer), bytes(row.nonce))
    return Authorization(row.chain_id, *parts, row.value, bytes(row.signature))


def _ensure_credit(connection: Connection, payer: bytes) -> None:
    nothing = {"payer": payer, "balance": 0, "held": 0, "bought": 0, "refunded": 0}
    _insert(connection, x402_credits, nothing)


def _begin_payment(
    connection: Connection,
    request_id: bytes,
    scheme: str,
    payer: bytes,
    channel_id: bytes | None,
    amount: int,
    now: float,
    until: float,
) -> bool:
    """Write a held payment down; False if it is charged already.

    Raises:
        RequestInProgress: it is being served.
    """
    values = {
        "scheme": scheme,
        "payer": payer,
        "channel_id": channel_id,
        "held": amount,
        "charged": None,
        "state": int(Payment.HELD),
        "held_until": until,
    }
    known = _payment_row(connection, request_id)
    if known is None:
        if _insert(connection, x402_payments, {"request_id": request_id, **values}):
            return True
        # The same payment came twice at once, and the other was first.
        known = _payment_row(connection, request_id)
    if known is not None and known.state == Payment.CHARGED:
        return False
    if known is not None and known.state == Payment.HELD:
        if known.held_until > now:
            raise RequestInProgress("This payment is being served.", field="PAYMENT-SIGNATURE")
        _release(connection, request_id)
    here = x402_payments.c.request_id == request_id
    connection.execute(sa.update(x402_payments).where(here).values(values))
    return True


def _insert(connection: Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row; False, and nothing done, if its key is taken: PostgreSQL waits for whoever is writing it."""
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    insert = make(table).values(values).on_conflict_do_nothing()
    return connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount == 1


def _release(connection: Connection, request_id: bytes, *, lost_by: float | None = None) -> None:
    payment = _lock_payment(connection, request_id)
    if payment is None or payment.state != Payment.HELD:
        return
    if lost_by is not None and payment.held_until >= lost_by:
        return  # sent again meanwhile, and being served
    here = x402_payments.c.request_id == request_id
    connection.execute(sa.update(x402_payments).where(here).values(state=int(Payment.RELEASED)))
    if payment.channel_id is None:
        connection.execute(
            sa.update(x402_credits)
            .where(x402_credits.c.payer == payment.payer)
            .values(held=x402_credits.c.held - payment.held)
        )
    else:
        _set_free(connection, payment.channel_id, request_id)


def _set_free(connection: Connection, channel_id: bytes, request_id: bytes) -> None:
    """Let the next request have the channel, unless another has it already."""
    busy = (x402_channels.c.channel_id == channel_id) & (x402_channels.c.busy_with == request_id)
    connection.execute(sa.update(x402_channels).where(busy).values(busy_with=None, busy_until=0.0))


def _lock_payment(connection: Connection, request_id: bytes) -> Row[Any] | None:
    """Lock a payment after its channel, the order in which `hold_channel` takes them."""
    channel_id = connection.execute(
        sa.select(x402_payments.c.channel_id).where(x402_payments.c.request_id == request_id)
    ).scalar_one_or_none()
    if channel_id is not None:
        _channel_row(connection, channel_id, lock=True)
    return _payment_row(connection, request_id)


def _payment_row(connection: Connection, request_id: bytes) -> Row[Any] | None:
    query = sa.select(x402_payments).where(x402_payments.c.request_id == request_id).with_for_update()
    return connection.execute(query).one_or_none()


def _channel_row(connection: Connection, channel_id: bytes, *, lock: bool = False) -> Row[Any] | None:
    query = sa.select(x402_channels).where(x402_channels.c.channel_id == channel_id)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def _values(channel: PayerChannel) -> dict[str, Any]:
    config = {name: getattr(channel.config, name) for name in _CONFIG}
    state = ("channel_id", "charged", "signed_max", "signature", *_CHAIN_FACTS)
    return config | {name: getattr(channel, name) for name in state}


def _channel(row: Row[Any]) -> PayerChannel:
    return PayerChannel(
        channel_id=bytes(row.channel_id),
        config=ChannelConfig(
            payer=bytes(row.payer),
            payer_authorizer=bytes(row.payer_authorizer),
            receiver=bytes(row.receiver),
            receiver_authorizer=bytes(row.receiver_authorizer),
            token=bytes(row.token),
            withdraw_delay=row.withdraw_delay,
            salt=bytes(row.salt),
        ),
        charged=row.charged,
        signed_max=row.signed_max,
        signature=bytes(row.signature),
        balance=row.balance,
        total_claimed=row.total_claimed,
        withdraw_requested_at=row.withdraw_requested_at,
        refund_nonce=row.refund_nonce,
        synced_at=row.synced_at,
        busy_with=None if row.busy_with is None else bytes(row.busy_with),
        busy_until=row.busy_until,
        last_request=None if row.last_request is None else bytes(row.last_request),
        last_request_at=row.last_request_at,
    )
