"""The short lane where this process holds the reservations itself, and where several processes share them.

Decides nothing: how money is set aside differs, everything else is `plain`'s. Called by the HTTP gateway.
"""

from __future__ import annotations

from collections.abc import Callable

from market.inference.plain import PlainLane
from market.inference.plain_parts import Asked, Claimed
from market.payments.model import Reservation
from market.payments.ports import InstantReservations, SharedReservations


class InstantPlainLane(PlainLane[InstantReservations]):
    """Of a gateway's only process: money is set aside at once."""

    def _go(self, asked: Asked, admit: Callable[[], object] | None = None) -> bool:
        claimed = self._claim(asked)
        reservation = self._reservations.reserve_now(claimed.claim)
        if reservation is None:
            return False
        self._send(claimed, reservation, admit)
        return True


class SharedPlainLane(PlainLane[SharedReservations]):
    """Of several processes: what one turn of the event loop brings is reserved together, and sent a turn later.

    What cannot be reserved so is then served, or refused, by the use case.
    """

    def _go(self, asked: Asked, admit: Callable[[], object] | None = None) -> bool:
        claimed = self._claim(asked)
        if admit is not None:
            admit()
        self._unfinished.begin()
        self._reservations.reserve_soon(claimed.claim, lambda outcome: self._reserved(claimed, outcome))
        return True

    def _reserved(self, claimed: Claimed, outcome: Reservation | Exception | None) -> None:
        try:
            if isinstance(outcome, Reservation):
                self._send(claimed, outcome)
                return
        except Exception as error:
            self._left(error)
        finally:
            self._unfinished.end()
        self._unfinished.spawn(self._by_use_case(claimed.asked.request, claimed.asked.done))


EitherPlainLane = InstantPlainLane | SharedPlainLane
