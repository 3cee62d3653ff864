"""The short lane where this process holds the reservations itself, and where several processes share them.

Decides nothing: how money is set aside differs, everything else is `plain`'s. Called by the HTTP gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from market.inference.plain import PlainLane
from market.inference.plain_parts import Plain
from market.payments.model import Claim, Reservation
from market.payments.ports import InstantReservations, SharedReservations


class InstantPlainLane(PlainLane[InstantReservations]):
    """Of a gateway's only process: money is set aside at once."""

    def _go(self, plain: Plain, admit: Callable[[], object] | None = None) -> bool:
        reservation = self._reservations.reserve_now(self._claim(plain))
        if reservation is None:
            return False
        self._send(plain, reservation, admit)
        return True


class SharedPlainLane(PlainLane[SharedReservations]):
    """Of several processes: what one turn of the event loop brings is reserved together, and sent a turn later.

    What cannot be reserved so is then served, or refused, by the use case.
    """

    def _go(self, plain: Plain, admit: Callable[[], object] | None = None) -> bool:
        claim = self._claim(plain)
        if admit is not None:
            admit()
        self._unfinished.begin()
        self._reservations.reserve_soon(claim, partial(self._reserved, plain, claim))
        return True

    def _reserved(self, plain: Plain, claim: Claim, outcome: Reservation | Exception | None) -> None:
        try:
            if isinstance(outcome, Reservation):
                if not self._parts.authorizer.is_outdated(claim):
                    self._send(plain, outcome)
                    return
                self._reservations.release_now(outcome)
        except Exception as error:
            self._left(error)
        finally:
            self._unfinished.end()
        self._unfinished.spawn(self._by_use_case(plain.request, plain.done))


EitherPlainLane = InstantPlainLane | SharedPlainLane
